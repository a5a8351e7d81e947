"""Says to a person why a run waits and what it waits for, from nothing but the fleet and the plan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import itemgetter

from trimtab_work_pools.queue.rooms import Claim, Refusal, Room
from trimtab_work_pools.queue.verdicts import Code, Plan, Start, Stop, Wait
from trimtab_work_pools.queue.workload import Fleet, Run

__all__ = ["Away", "explain", "would_fit"]

_SHOWN = 3  # nodes, or runs, named in one sentence; the rest are counted


@dataclass(frozen=True, slots=True)
class Away:
    """A node that takes no runs now, the room it would have if it did, and why it does not. `instead` of a member of
    the fleet with the same name, which is there for what runs on it.
    """

    name: str
    room: Room
    said: str
    instead: bool = False


def explain(run: Run, fleet: Fleet, plan: Plan, away: Sequence[Away] = ()) -> str:
    """One or two sentences. Raises LookupError if the plan says nothing of this run; times are shown in UTC. `away` are
    nodes that the plan does not count on.
    """
    for start in plan.starts:
        if start.run_id == run.id:
            return _starts(start, plan)
    for stop in plan.stops:
        if stop.run_id == run.id:
            return f"is being stopped for {stop.for_run_id}, which ranks above it; this loses {stop.lost_s:.0f} GPU s"
    for wait in plan.waits:
        if wait.run_id == run.id:
            return _waits(wait, run, fleet, plan, away)
    raise LookupError(
        f"the plan has no verdict for run {run.id!r}; explain runs that were in the queue it was made from"
    )


def would_fit(run: Run, fleet: Fleet, away: Sequence[Away]) -> list[Away]:
    """Those of `away` with which a run that the fleet can never hold could start; none if it could not even then."""
    fits = [one for one in away if isinstance(one.room.fits(run.demand), Claim)]
    names = {one.name for one in fits}
    here = [name for name, room in _idle(fleet) if name not in names and isinstance(room.fits(run.demand), Claim)]
    return fits if len(fits) + len(here) >= run.nodes else []


def _starts(start: Start, plan: Plan) -> str:
    names = ", ".join(name for name, _ in start.parts)
    return f"starts now on {names}" + _others_stopped(plan.stops, start.run_id)


def _others_stopped(stops: tuple[Stop, ...], run_id: str) -> str:
    names = [stop.run_id for stop in stops if stop.for_run_id == run_id]
    return f"; {_list(names)} stopped for it" if names else ""


def _waits(wait: Wait, run: Run, fleet: Fleet, plan: Plan, away: Sequence[Away]) -> str:
    if wait.code is Code.NOT_YET:
        return f"is scheduled for {_clock(wait.at_s)}"
    if wait.code is Code.NEVER_FITS:
        return _never(run, fleet, away)
    if wait.code is Code.LIMITED:
        return _limited(wait, run, fleet)
    if wait.code is Code.PREEMPTING:
        return f"{_list(wait.because)} make way for it; starts about {_clock(wait.at_s)} on {_list(wait.nodes)}"
    reserved = f"; reserved from {_clock(wait.at_s)} on {_list(wait.nodes)}" if wait.at_s is not None else ""
    if wait.code is Code.WOULD_DELAY:
        return f"there is room now, but it would delay {_list(wait.because) or 'a run ahead of it'}{reserved}"
    ahead = "1 run is" if wait.ahead == 1 else f"{wait.ahead} runs are"
    place = reserved if wait.code is Code.RESERVED else f"; {ahead} ahead of it"
    return _refusals(run, _without(_started(fleet, plan), away)) + place


def _never(run: Run, fleet: Fleet, away: Sequence[Away]) -> str:
    """That it waits for a node that is away; or that no node that is known can hold it, and what would change that."""
    rooms = _without(_idle(fleet), away)
    refusals = _refusals(run, rooms)
    fits = would_fit(run, fleet, away)
    if fits:
        named = ", ".join(f"{one.name} would fit ({one.said})" for one in fits[:_SHOWN])
        more = f" and {len(fits) - _SHOWN} more" if len(fits) > _SHOWN else ""
        return f"{named}{more}; of the nodes that take runs now none can hold it, even idle" + (
            refusals and f": {refusals}"
        )
    gone = [one.name for one in away if one.name not in {name for name, _ in rooms}]
    also = f", nor with {_list(gone)} back" if gone else ""
    known = [room for _, room in rooms] + [one.room for one in away]
    advice = known[0].advice(known, run.demand, run.nodes) if known else "start a worker on a node that has it"
    return f"can never start on this fleet, even idle{also}" + (refusals and f": {refusals}") + f"; {advice}"


def _without(rooms: list[tuple[str, Room]], away: Sequence[Away]) -> list[tuple[str, Room]]:
    """Members of the fleet that nothing is put on are told of once, as being away."""
    told = {one.name for one in away if one.instead}
    return [(name, room) for name, room in rooms if name not in told]


def _limited(wait: Wait, run: Run, fleet: Fleet) -> str:
    """How many the limit lets run; a gang that is wider than that never starts."""
    most = next(limit.most for limit in fleet.limits if limit.name == wait.limit)
    if most < run.nodes:
        needs = "it counts as 1" if run.nodes == 1 else f"it counts as {run.nodes}, one for each node"
        return f"{wait.limit} lets {most} run at once, and {needs}: raise the limit"
    runs = "1 run" if most == 1 else f"{most} runs"
    return f"the limit of {wait.limit}, {runs} at once, is reached: it starts when one of them ends"


def _idle(fleet: Fleet) -> list[tuple[str, Room]]:
    """The rooms when all that runs has ended."""
    rooms: dict[str, Room] = {member.name: member.room for member in fleet.members}
    for running in fleet.running:
        for name, claim in running.parts:
            rooms[name] = rooms[name].give_back(claim)
    return list(rooms.items())


def _started(fleet: Fleet, plan: Plan) -> list[tuple[str, Room]]:
    """The rooms that are left when what starts now has started."""
    rooms: dict[str, Room] = {member.name: member.room for member in fleet.members}
    for start in plan.starts:
        for name, claim in start.parts:
            rooms[name] = rooms[name].take(claim)
    return list(rooms.items())


def _refusals(run: Run, rooms: Sequence[tuple[str, Room]]) -> str:
    """The nearest misses in full; of the other nodes, how many there are for which dimension."""
    answers = [(room.fits(run.demand), name) for name, room in rooms]
    refused = sorted(((one.far, name, one) for one, name in answers if isinstance(one, Refusal)), key=itemgetter(0, 1))
    roomy = len(rooms) - len(refused)
    gang = [f"needs {run.nodes} nodes at once, {roomy} {'has' if roomy == 1 else 'have'} room"] if run.nodes > 1 else []
    shown = [f"{name}: {one.text}" for _, name, one in refused[:_SHOWN]]
    others = Counter(one.dimension for _, _, one in refused[_SHOWN:])
    counted = ", ".join(f"{dimension} on {_nodes(count)}" for dimension, count in others.most_common())
    return "; ".join([*gang, *shown, *([f"and {counted}"] if counted else [])])


def _nodes(count: int) -> str:
    return "1 more" if count == 1 else f"{count} more"


def _list(names: tuple[str, ...] | list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _clock(time_s: float | None) -> str:
    if time_s is None:
        return "an unknown time"
    try:
        return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, ValueError, OSError):
        return f"{time_s:.0f} s"
