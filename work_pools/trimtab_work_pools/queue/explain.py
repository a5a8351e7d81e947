"""Says to a person why a run waits and what it waits for, from nothing but the fleet and the plan."""

from __future__ import annotations

from datetime import UTC, datetime

from trimtab_work_pools.queue.rooms import Refusal
from trimtab_work_pools.queue.verdicts import Code, Plan, Start, Stop, Wait
from trimtab_work_pools.queue.workload import Fleet, Run

__all__ = ["explain"]

_SHOWN = 3  # nodes, or runs, named in one sentence; the rest are counted


def explain(run: Run, fleet: Fleet, plan: Plan) -> str:
    """One or two sentences. Raises LookupError if the plan says nothing of this run; times are shown in UTC."""
    for start in plan.starts:
        if start.run_id == run.id:
            return _starts(start, plan)
    for stop in plan.stops:
        if stop.run_id == run.id:
            return f"is being stopped for {stop.for_run_id}, which ranks above it; this loses {stop.lost_s:.0f} GPU s"
    for wait in plan.waits:
        if wait.run_id == run.id:
            return _waits(wait, run, fleet)
    raise LookupError(
        f"the plan has no verdict for run {run.id!r}; explain runs that were in the queue it was made from"
    )


def _starts(start: Start, plan: Plan) -> str:
    names = ", ".join(name for name, _ in start.parts)
    return f"starts now on {names}" + _others_stopped(plan.stops, start.run_id)


def _others_stopped(stops: tuple[Stop, ...], run_id: str) -> str:
    names = [stop.run_id for stop in stops if stop.for_run_id == run_id]
    return f"; {_list(names)} stopped for it" if names else ""


def _waits(wait: Wait, run: Run, fleet: Fleet) -> str:
    if wait.code is Code.NOT_YET:
        return f"is scheduled for {_clock(wait.at_s)}"
    if wait.code is Code.NEVER_FITS:
        return (
            f"can never start on this fleet, even idle: {_refusals(run, fleet, idle=True)}; ask for less or add a node"
        )
    if wait.code is Code.PREEMPTING:
        return f"{_list(wait.because)} make way for it; starts about {_clock(wait.at_s)} on {_list(wait.nodes)}"
    reserved = f"; reserved from {_clock(wait.at_s)} on {_list(wait.nodes)}" if wait.at_s is not None else ""
    if wait.code is Code.WOULD_DELAY:
        return f"there is room now, but it would delay {_list(wait.because) or 'a run ahead of it'}{reserved}"
    place = reserved if wait.code is Code.RESERVED else f"; {wait.ahead} runs are ahead of it"
    return _refusals(run, fleet, idle=False) + place


def _refusals(run: Run, fleet: Fleet, idle: bool) -> str:
    rooms = [(member.name, member.room) for member in fleet.members]
    if idle:
        held = {name: [c for one in fleet.running for n, c in one.parts if n == name] for name, _ in rooms}
        for position, (name, room) in enumerate(rooms):
            for claim in held[name]:
                room = room.give_back(claim)
            rooms[position] = (name, room)
    answers = [(name, room.fits(run.demand)) for name, room in rooms]
    refused = [
        f"{name}: {answer.text}" for name, answer in sorted(answers, key=lambda a: a[0]) if isinstance(answer, Refusal)
    ]
    gang = f"needs {run.nodes} nodes at once, {len(rooms) - len(refused)} have room; " if run.nodes > 1 else ""
    shown = "; ".join(refused[:_SHOWN])
    more = f"; and {len(refused) - _SHOWN} more nodes" if len(refused) > _SHOWN else ""
    return f"{gang}{shown}{more}" or "the room of now is taken by runs ahead of it"


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
