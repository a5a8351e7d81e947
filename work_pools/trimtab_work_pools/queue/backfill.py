"""Walks the queue in order and gives each run its verdict: start, reserve, make room for, or wait.

Conservative backfill: the first `Policy.reservations` runs that cannot start hold a reservation, and nothing starts
that is expected to be in the way of one. A run behind them starts now if it fits beside them all, or ends before they
begin.
"""

from __future__ import annotations

from collections.abc import Sequence

from trimtab_work_pools.queue.preemption import Victims, lost_s
from trimtab_work_pools.queue.priority import Ranked
from trimtab_work_pools.queue.timeline import Parts, Slot, Timeline
from trimtab_work_pools.queue.verdicts import Code, Start, Stop, Wait
from trimtab_work_pools.queue.workload import Fleet, Policy, Run

__all__ = ["Walk"]


class Walk:
    """One pass over the queue; `starts`, `stops` and `waits` grow as it goes."""

    def __init__(self, fleet: Fleet, queue: Sequence[Run], policy: Policy, now_s: float) -> None:
        self.starts: list[Start] = []
        self.stops: list[Stop] = []
        self.waits: list[Wait] = []
        self._policy, self._now_s = policy, now_s
        demands = (run.demand for run in (*queue, *(one.run for one in fleet.running)))
        self._timeline = Timeline(fleet, policy, now_s, demands)
        self._victims = Victims(fleet.running, fleet.width, policy, now_s)
        self._reserved = 0
        self._limits = {limit.name: limit for limit in fleet.limits}
        self._places = {limit.name: limit.left for limit in fleet.limits}
        # What was refused once stays refused in this plan: room only shrinks, and those behind rank lower.
        self._full: set[tuple[object, ...]] = set()
        self._too_long: dict[tuple[object, int], float] = {}
        self._no_victims: set[tuple[object, ...]] = set()

    def all(self, ranked: Sequence[Ranked]) -> None:
        """Give every run its verdict."""
        for ahead, one in enumerate(ranked):
            self._consider(one, ahead)

    def until_settled(self, ranked: Sequence[Ranked]) -> None:
        """The same starts and stops as `all`, without the waits of runs that can change neither."""
        kinds = {_kind(one) for one in ranked}
        shapes = {kind[:2] for kind in kinds}
        for ahead, one in enumerate(ranked):
            if shapes <= self._full and (
                self._reserved >= self._policy.reservations or not self._victims.any() or kinds <= self._no_victims
            ):
                return
            self._consider(one, ahead)

    def _consider(self, ranked: Ranked, ahead: int) -> None:
        run = ranked.run
        if run.not_before_s > self._now_s:
            self.waits.append(Wait(run.id, Code.NOT_YET, ahead, at_s=run.not_before_s))
            return
        reached = self._reached(run)
        if reached:  # it holds no reservation: its turn is not a matter of nodes
            self.waits.append(Wait(run.id, Code.LIMITED, ahead, limit=reached))
            return
        left_s = run.left_s + (self._policy.restart_s if run.attained_s else 0.0)
        parts = self._room_now(run, left_s)
        if parts is not None:
            self._start(ranked, parts, left_s)
        elif not self._timeline.could_ever(run):
            self._no_victims.add(_kind(ranked))
            self.waits.append(Wait(run.id, Code.NEVER_FITS, ahead))
        elif self._reserved < self._policy.reservations:
            self._reserve(ranked, ahead, left_s)
        else:
            code = Code.BEHIND if (run.demand, run.nodes) in self._full else Code.WOULD_DELAY
            because = self._timeline.blockers(run) if code is Code.WOULD_DELAY else ()
            self.waits.append(Wait(run.id, code, ahead, because=because))

    def _reached(self, run: Run) -> str:
        """Name of a limit that has no place for it; "" if there is none."""
        reached = [name for name in run.limits if self._places.get(name, run.nodes) < run.nodes]
        for name in reached:
            if self._limits[name].most >= run.nodes:  # those behind it leave it the places that are left
                self._places[name] = 0
        return reached[0] if reached else ""

    def _room_now(self, run: Run, left_s: float) -> Parts | None:
        shape = (run.demand, run.nodes)
        if shape in self._full or left_s >= self._too_long.get(shape, float("inf")):
            return None
        parts, roomy = self._timeline.fits_now(run, left_s)
        if parts is None and roomy:
            self._too_long[shape] = left_s
        elif parts is None:
            self._full.add(shape)
        return parts

    def _start(self, ranked: Ranked, parts: Parts, left_s: float) -> None:
        self._timeline.take(ranked.run, parts, self._now_s + left_s)
        self._victims.started(ranked)
        for name in ranked.run.limits:
            if name in self._places:
                self._places[name] -= ranked.run.nodes
        named = tuple((self._timeline.name(position), claim) for position, claim in parts)
        self.starts.append(Start(ranked.run.id, named))

    def _reserve(self, ranked: Ranked, ahead: int, left_s: float) -> None:
        slot = self._timeline.earliest(ranked.run, left_s)
        soon_s = self._now_s + max(self._policy.soon_s, self._policy.checkpoint_s)
        victims: tuple[str, ...] = ()
        if slot is None or slot.at_s > soon_s:
            evicted = self._evict(ranked, left_s)
            if evicted is not None:
                slot, victims = evicted
        self._reserved += 1
        if slot is None:  # what it waits for has no foreseeable end, e.g. a node that has no room idle is counted in
            self.waits.append(Wait(ranked.run.id, Code.BEHIND, ahead))
            return
        self._timeline.hold(ranked.run, slot, left_s)
        nodes = tuple(self._timeline.name(position) for position, _ in slot.parts)
        code = Code.PREEMPTING if victims else self._reserved_code(ranked.run)
        because = victims or (self._timeline.blockers(ranked.run) if code is Code.WOULD_DELAY else ())
        because = tuple(name for name in because if name != ranked.run.id)
        self.waits.append(Wait(ranked.run.id, code, ahead, slot.at_s, nodes, because))

    def _reserved_code(self, run: Run) -> Code:
        return Code.RESERVED if (run.demand, run.nodes) in self._full else Code.WOULD_DELAY

    def _evict(self, ranked: Ranked, left_s: float) -> tuple[Slot, tuple[str, ...]] | None:
        run, kind = ranked.run, _kind(ranked)
        if kind in self._no_victims or not self._victims.any():
            return None
        eviction = self._victims.choose(ranked, self._timeline, left_s)
        if eviction is None:
            self._no_victims.add(kind)
            return None
        self._victims.stopped(eviction)
        for one in eviction.victims:
            self._timeline.stop(one, eviction.slot.at_s)
            self.stops.append(Stop(one.run.id, run.id, lost_s(one, self._policy)))
        return eviction.slot, tuple(one.run.id for one in eviction.victims)


def _kind(ranked: Ranked) -> tuple[object, ...]:
    """Runs of one kind may stop the same victims, the better ranked one at least as many."""
    key, run = ranked
    return (run.demand, run.nodes, run.team, key[0], key[1])
