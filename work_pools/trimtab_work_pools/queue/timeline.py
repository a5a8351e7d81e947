"""What is free on every node, now and later, while one plan is being made.

Each node has its room now, the releases expected of what runs there, and the holds of reservations. Nothing here
decides; `backfill` and `preemption` ask, and write down what they decided. Times are seconds; a node is addressed by
its position in a canonical order that does not depend on names unless two nodes are interchangeable.
"""

from __future__ import annotations

import bisect
import heapq
import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from operator import itemgetter

import numpy as np

from trimtab_work_pools.queue.rooms import EQUAL, Claim, Flags, Room, Rooms, Scores, Slots
from trimtab_work_pools.queue.workload import Fleet, Policy, Run, Running

__all__ = ["Hold", "Release", "Slot", "Timeline", "Window"]

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
        room = self.at(start_s)
        for hold in self.holds:  # only where a hold begins is there ever less than before
            if start_s < hold.start_s < end_s:
                room = room.meet(self.at(hold.start_s))
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

    def emptied(self) -> Room:
        """Free when all that runs here has ended."""
        room = self.room
        for release in self.releases:
            room = room.give_back(release.claim)
        return room

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


class Window:
    """One node in a stretch of time, as runs are taken away from it and put back."""

    def __init__(self, lane: _Lane, from_s: float, until_s: float) -> None:
        # There is never less than at the beginning, or where a hold begins.
        times = {from_s, *(hold.start_s for hold in lane.holds if from_s < hold.start_s < until_s)}
        self._rooms = [(time_s, lane.at(time_s)) for time_s in sorted(times)]
        self._releases = {release.run_id: release for release in lane.releases}

    def remove(self, run_id: str) -> None:
        """The run is gone by the beginning."""
        release = self._releases[run_id]
        self._rooms = [
            (time_s, room if release.at_s <= time_s else room.give_back(release.claim)) for time_s, room in self._rooms
        ]

    def restore(self, run_id: str) -> None:
        """It stays after all."""
        release = self._releases[run_id]
        self._rooms = [
            (time_s, room if release.at_s <= time_s else room.take(release.claim)) for time_s, room in self._rooms
        ]

    def claim(self, demand: Hashable) -> Claim | None:
        """The claim that `demand` would have all the time."""
        rooms = [room for _, room in self._rooms]
        room = rooms[0]
        for other in rooms[1:]:
            room = room.meet(other)
        answer = room.fits(demand)
        return answer if isinstance(answer, Claim) else None


class Timeline:
    """Mutable, and private to one call of `plan`."""

    def __init__(self, fleet: Fleet, policy: Policy, now_s: float, demands: Iterable[Hashable] = ()) -> None:
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
        self._rooms = _together([lane.room for lane in lanes], demands)
        self._held: set[int] = set()
        self._idle_rooms: Rooms | None = None
        self._idle: dict[Hashable, Flags] = {}

    def name(self, position: int) -> str:
        return self.lanes[position].name

    def positions(self, running: Running) -> list[tuple[int, Claim]]:
        return [(self._position[name], claim) for name, claim in running.parts]

    # --- asking ---

    def could_ever(self, run: Run) -> bool:
        """Whether the idle fleet has room for the run."""
        return int(np.count_nonzero(self.could_host(run.demand))) >= run.nodes

    def could_host(self, demand: Hashable) -> Flags:
        """By position: whether the node has room when all that runs there has ended."""
        if self._idle_rooms is None:
            self._idle_rooms = _together([lane.emptied() for lane in self.lanes], ())
        if demand not in self._idle:
            self._idle[demand] = self._idle_rooms.has_room(demand)
        return self._idle[demand]

    def fits_now(self, run: Run, left_s: float) -> tuple[Parts | None, bool]:
        """(the best parts that are free from now for `left_s`, whether there would be room but for the holds)."""
        scores = self._rooms.scores(run.demand)
        if np.count_nonzero(scores < math.inf) < run.nodes:
            return None, False
        scores = scores.copy()
        until_s = self.now_s + left_s
        for held in self._held:
            if scores[held] < math.inf:
                free = self.lanes[held].during(self.now_s, until_s)
                if not isinstance(free.fits(run.demand), Claim):
                    scores[held] = math.inf
        parts: list[tuple[int, Claim]] = []
        while len(parts) < run.nodes and (position := _best(scores)) is not None:
            lane = self.lanes[position]
            room = lane.during(self.now_s, until_s) if position in self._held else lane.room
            claim = room.fits(run.demand)
            assert isinstance(claim, Claim), "rooms asked together answer like each room"
            parts.append((position, claim))
            scores[position] = math.inf
            self._rooms.spread(scores, position)
        return (tuple(parts) if len(parts) == run.nodes else None), True

    def earliest(self, run: Run, left_s: float) -> Slot | None:
        """The first instant at which `run.nodes` nodes have room for `left_s`, as far as can be foreseen."""
        firsts: list[float] = []  # a max-heap (negated) of the earliest starts of the best nodes so far
        starts: list[tuple[float, int]] = []
        for soonest_s, position in self._soonest(run.demand):
            bound_s = -firsts[0] if len(firsts) == run.nodes else math.inf
            if soonest_s > bound_s:
                break
            at_s = self.lanes[position].first_fit(run.demand, left_s, self.now_s, bound_s)
            if at_s is not None:
                starts.append((at_s, position))
                heapq.heappush(firsts, -at_s)
                if len(firsts) > run.nodes:
                    heapq.heappop(firsts)
        if len(firsts) < run.nodes:
            return None
        return self._at_once(run, left_s, sorted({at_s for at_s, _ in starts if at_s >= -firsts[0]}), starts)

    def _soonest(self, demand: Hashable) -> list[tuple[float, int]]:
        """(the earliest there can be room, position) of the nodes that could host it, ascending."""
        roomy = np.isfinite(self._rooms.scores(demand))
        soonest: list[tuple[float, int]] = []
        for position in np.flatnonzero(self.could_host(demand)):
            lane = self.lanes[position]
            at_s = self.now_s if roomy[position] else min((one.at_s for one in lane.releases), default=math.inf)
            soonest.append((max(self.now_s, at_s), int(position)))
        return sorted(soonest)

    def _at_once(self, run: Run, left_s: float, times: Sequence[float], starts: list[tuple[float, int]]) -> Slot | None:
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

    def window(self, position: int, from_s: float, left_s: float) -> Window:
        """What is free on one node in [from_s, from_s + left_s), to ask what would be were some runs gone by then."""
        return Window(self.lanes[position], from_s, from_s + left_s)

    def blockers(self, run: Run) -> tuple[str, ...]:
        """Whose reservations keep `run` from room that is free now."""
        roomy = np.isfinite(self._rooms.scores(run.demand))
        lanes = (self.lanes[position] for position in self._held if roomy[position])
        return tuple(sorted({hold.run_id for lane in lanes for hold in lane.holds}))

    # --- writing down ---

    def take(self, run: Run, parts: Parts, until_s: float) -> None:
        """Start a run now."""
        for position, claim in parts:
            lane = self.lanes[position]
            lane.room = lane.room.take(claim)
            lane.releases.append(Release(until_s, claim, run.id))
            lane.changed()
            self._rooms.put(position, lane.room)

    def hold(self, run: Run, slot: Slot, left_s: float) -> None:
        """Reserve for a run."""
        for position, claim in slot.parts:
            self.lanes[position].holds.append(Hold(slot.at_s, slot.at_s + left_s, claim, run.id))
            self.lanes[position].changed()
            self._held.add(position)

    def stop(self, running: Running, until_s: float) -> None:
        """Have a running run gone by `until_s`."""
        for position, _ in self.positions(running):
            lane = self.lanes[position]
            lane.releases = _moved(lane.releases, {running.run.id}, until_s)
            lane.changed()


def end_of(running: Running, policy: Policy, now_s: float) -> float:
    """When a running run is expected to be gone: the mean of what is left, given how long it has run."""
    if running.stopping_until_s is not None:
        return max(now_s, running.stopping_until_s)
    run = running.run
    ahead = Run(run.id, None, 0.0, run.expected_s, sigma=run.sigma, attained_s=running.attained_s(now_s))
    restoring_s = max(0.0, running.started_s + running.overhead_s - now_s)
    return now_s + restoring_s + ahead.left_s


def _together(rooms: Sequence[Room], demands: Iterable[Hashable]) -> Rooms:
    return rooms[0].together(rooms, demands) if rooms else Slots.together((), ())


def _best(scores: Scores) -> int | None:
    """The position with the least score; of those as good as equal the first, for positions are in canonical order."""
    least = scores.min(initial=math.inf)
    return None if least == math.inf else int(np.argmax(scores <= least + EQUAL))


def _moved(releases: Sequence[Release], run_ids: set[str], at_s: float) -> list[Release]:
    return [Release(at_s, one.claim, one.run_id) if one.run_id in run_ids else one for one in releases]
