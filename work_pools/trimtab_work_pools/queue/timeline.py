"""What is free on every node, now and later, while one plan is being made.

Each node has its room now, the releases expected of what runs there, and the holds of reservations. Nothing here
decides; `backfill` and `preemption` ask, and write down what they decided. Times are seconds; a node is addressed by
its position in a canonical order that does not depend on names unless two nodes are interchangeable.
"""

from __future__ import annotations

import bisect
import heapq
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from operator import itemgetter

from trimtab_work_pools.queue.rooms import Claim, Refusal, Room
from trimtab_work_pools.queue.workload import Fleet, Policy, Run, Running

__all__ = ["Hold", "Release", "Slot", "Timeline"]

Parts = tuple[tuple[int, Claim], ...]


@dataclass(frozen=True, slots=True)
class Release:
    at_s: float
    claim: Claim
    run_id: str


@dataclass(frozen=True, slots=True)
class Hold:
    """A reservation's claim on one node in [start_s, end_s)."""

    start_s: float
    end_s: float
    claim: Claim
    run_id: str


@dataclass(frozen=True, slots=True)
class Slot:
    """The earliest start found for a run."""

    at_s: float
    parts: Parts


class _Lane:
    """One node. Its profile (what is free from when) is built when first asked for, and again after a change."""

    def __init__(self, name: str, room: Room, releases: Sequence[Release], holds: Sequence[Hold] = ()) -> None:
        self.name, self.room = name, room
        self.releases = sorted(releases, key=lambda release: (release.at_s, release.run_id))
        self.holds = list(holds)
        self._times: list[float] = []
        self._rooms: list[Room] = []

    def changed(self) -> None:
        self._times = []

    def at(self, time_s: float) -> Room:
        """Free at `time_s`: what ends by then is free again, what is held then is not."""
        self._build()
        return self._rooms[bisect.bisect_right(self._times, time_s) - 1]

    def during(self, start_s: float, end_s: float) -> Room:
        """Free all through [start_s, end_s)."""
        self._build()
        position = bisect.bisect_right(self._times, start_s)
        room = self._rooms[position - 1]
        while position < len(self._times) and self._times[position] < end_s:
            room = room.meet(self._rooms[position])
            position += 1
        return room

    def first_fit(self, demand: Hashable, left_s: float, now_s: float, bound_s: float) -> float | None:
        """The first instant from now, and by `bound_s`, with room for `left_s`; room grows at profile points only."""
        self._build()
        if not self.holds:  # room only grows: one look at the end settles most nodes
            return self._bisect(demand, now_s, bound_s)
        for position, time_s in enumerate(self._times):
            if time_s > bound_s:
                return None
            if isinstance(self._rooms[position].fits(demand), Claim):
                start_s = max(time_s, now_s)
                if isinstance(self.during(start_s, start_s + left_s).fits(demand), Claim):
                    return start_s
        return None

    def _bisect(self, demand: Hashable, now_s: float, bound_s: float) -> float | None:
        low, high = 0, bisect.bisect_right(self._times, bound_s) - 1
        if not isinstance(self._rooms[high].fits(demand), Claim):
            return None
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if isinstance(self._rooms[middle].fits(demand), Claim) else (middle + 1, high)
        return max(self._times[low], now_s)

    def _build(self) -> None:
        if self._times:
            return
        events = [(release.at_s, 0, release.run_id, release.claim) for release in self.releases]
        events += [(hold.end_s, 0, hold.run_id, hold.claim) for hold in self.holds]
        events += [(hold.start_s, 1, hold.run_id, hold.claim) for hold in self.holds]
        room = self.room
        self._times, self._rooms = [-math.inf], [room]
        for time_s, taken, _, claim in sorted(events, key=itemgetter(0, 1, 2)):
            room = room.take(claim) if taken else room.give_back(claim)
            if time_s == self._times[-1]:
                self._rooms[-1] = room
            else:
                self._times.append(time_s)
                self._rooms.append(room)


class Timeline:
    """Mutable, and private to one call of `plan`."""

    def __init__(self, fleet: Fleet, policy: Policy, now_s: float) -> None:
        self.now_s = now_s
        releases: dict[str, list[Release]] = {member.name: [] for member in fleet.members}
        for running in fleet.running:
            for name, claim in running.parts:
                releases[name].append(Release(end_of(running, policy, now_s), claim, running.run.id))
        lanes = [_Lane(member.name, member.room, releases[member.name]) for member in fleet.members]
        # Interchangeable nodes (equal room, equal releases) may be told apart by name: either gives the same plan.
        lanes.sort(key=lambda lane: (lane.room.key, [(r.at_s, r.run_id) for r in lane.releases], lane.name))
        self.lanes = lanes
        self._position = {lane.name: position for position, lane in enumerate(lanes)}
        self._fits: dict[Hashable, list[Claim | None]] = {}
        self._idle: dict[Hashable, list[bool]] = {}

    def name(self, position: int) -> str:
        return self.lanes[position].name

    def positions(self, running: Running) -> list[tuple[int, Claim]]:
        return [(self._position[name], claim) for name, claim in running.parts]

    # --- asking ---

    def could_ever(self, run: Run) -> list[Refusal]:
        """Empty if the idle fleet has room for the run; else the refusals of the idle nodes."""
        if run.demand not in self._idle:
            self._idle[run.demand] = [isinstance(self._emptied(lane).fits(run.demand), Claim) for lane in self.lanes]
        if sum(self._idle[run.demand]) >= run.nodes:
            return []
        answers = (self._emptied(lane).fits(run.demand) for lane in self.lanes)
        refusals = [answer for answer in answers if isinstance(answer, Refusal)]
        return refusals or [Refusal("nodes", "there is no node")]

    def refusals_now(self, run: Run) -> list[tuple[str, Refusal]]:
        """Why each node without room now has none."""
        answers = ((lane.name, lane.room.fits(run.demand)) for lane in self.lanes)
        return [(name, answer) for name, answer in answers if isinstance(answer, Refusal)]

    def fits_now(self, run: Run, left_s: float) -> tuple[Parts | None, bool]:
        """(the best parts that are free from now for `left_s`, whether there would be room but for the holds)."""
        claims = self._claims(run.demand)
        bare = 0
        found: list[tuple[float, int, Claim]] = []
        for position, claim in enumerate(claims):
            if claim is None:
                continue
            bare += 1
            lane = self.lanes[position]
            if lane.holds:
                answer = lane.during(self.now_s, self.now_s + left_s).fits(run.demand)
                if not isinstance(answer, Claim):
                    continue
                claim = answer
            found.append((claim.score, position, claim))
        if len(found) < run.nodes:
            return None, bare >= run.nodes
        best = [min(found)] if run.nodes == 1 else heapq.nsmallest(run.nodes, found)
        return tuple((position, claim) for _, position, claim in best), True

    def earliest(self, run: Run, left_s: float) -> Slot | None:
        """The first instant at which `run.nodes` nodes have room for `left_s`, as far as can be foreseen."""
        firsts: list[float] = []  # a max-heap (negated) of the earliest starts of the best nodes so far
        starts: list[tuple[float, int]] = []
        for position, lane in enumerate(self.lanes):
            bound_s = -firsts[0] if len(firsts) == run.nodes else math.inf
            at_s = lane.first_fit(run.demand, left_s, self.now_s, bound_s)
            if at_s is not None:
                starts.append((at_s, position))
                heapq.heappush(firsts, -at_s)
                if len(firsts) > run.nodes:
                    heapq.heappop(firsts)
        if len(firsts) < run.nodes:
            return None
        return self._together(run, left_s, sorted({at_s for at_s, _ in starts if at_s >= -firsts[0]}), starts)

    def _together(
        self, run: Run, left_s: float, times: Sequence[float], starts: list[tuple[float, int]]
    ) -> Slot | None:
        for time_s in times:
            found: list[tuple[float, int, Claim]] = []
            for at_s, position in starts:
                if at_s <= time_s:
                    answer = self.lanes[position].during(time_s, time_s + left_s).fits(run.demand)
                    if isinstance(answer, Claim):
                        found.append((answer.score, position, answer))
            if len(found) >= run.nodes:
                best = heapq.nsmallest(run.nodes, found)
                return Slot(time_s, tuple((position, claim) for _, position, claim in best))
        return None

    def _claims(self, demand: Hashable) -> list[Claim | None]:
        if demand not in self._fits:
            self._fits[demand] = [_claim(lane.room, demand) for lane in self.lanes]
        return self._fits[demand]

    def _emptied(self, lane: _Lane) -> Room:
        room = lane.room
        for release in lane.releases:
            room = room.give_back(release.claim)
        return room

    def claim_without(self, position: int, gone: set[str], run: Run, from_s: float, left_s: float) -> Claim | None:
        """The claim `run` would have on one node for `left_s` from `from_s`, were the runs `gone` gone by then."""
        lane = self.lanes[position]
        if lane.holds:
            releases = _moved(lane.releases, gone, from_s)
            room = _Lane(lane.name, lane.room, releases, lane.holds).during(from_s, from_s + left_s)
        else:  # no need of a new profile: from then on there is only ever more
            room = lane.at(from_s)
            for release in lane.releases:
                if release.run_id in gone and release.at_s > from_s:
                    room = room.give_back(release.claim)
        return _claim(room, run.demand)

    def blockers(self, run: Run) -> tuple[str, ...]:
        """Whose reservations keep `run` from room that is free now."""
        claims = self._claims(run.demand)
        lanes = (lane for lane, claim in zip(self.lanes, claims, strict=True) if claim is not None)
        return tuple(sorted({hold.run_id for lane in lanes for hold in lane.holds}))

    # --- writing down ---

    def take(self, run: Run, parts: Parts, until_s: float) -> None:
        """Start a run now."""
        for position, claim in parts:
            lane = self.lanes[position]
            lane.room = lane.room.take(claim)
            lane.releases.append(Release(until_s, claim, run.id))
            lane.changed()
            self._changed(position)

    def hold(self, run: Run, slot: Slot, left_s: float) -> None:
        """Reserve for a run."""
        for position, claim in slot.parts:
            self.lanes[position].holds.append(Hold(slot.at_s, slot.at_s + left_s, claim, run.id))
            self.lanes[position].changed()

    def stop(self, running: Running, until_s: float) -> None:
        """Have a running run gone by `until_s`."""
        for position, _ in self.positions(running):
            lane = self.lanes[position]
            lane.releases = _moved(lane.releases, {running.run.id}, until_s)
            lane.changed()

    def _changed(self, position: int) -> None:
        for demand, claims in self._fits.items():
            claims[position] = _claim(self.lanes[position].room, demand)


def end_of(running: Running, policy: Policy, now_s: float) -> float:
    """When a running run is expected to be gone: the mean of what is left, given how long it has run."""
    if running.stopping_until_s is not None:
        return max(now_s, running.stopping_until_s)
    run = running.run
    ahead = Run(run.id, None, 0.0, run.expected_s, sigma=run.sigma, attained_s=running.attained_s(now_s))
    restoring_s = max(0.0, running.started_s + running.overhead_s - now_s)
    return now_s + restoring_s + ahead.left_s


def _moved(releases: Sequence[Release], run_ids: set[str], at_s: float) -> list[Release]:
    return [Release(at_s, one.claim, one.run_id) if one.run_id in run_ids else one for one in releases]


def _claim(room: Room, demand: Hashable) -> Claim | None:
    answer = room.fits(demand)
    return answer if isinstance(answer, Claim) else None
