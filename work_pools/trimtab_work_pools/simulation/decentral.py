"""Many workers, each with the same planner and its own stale snapshot, claiming runs on their own: what does it cost?

One worker a node. Every `poll_s` a worker with room plans for the whole fleet from a snapshot up to `staleness_s` old,
in which only its own node is up to date, and claims the runs its plan starts with its own node first. A claim is atomic
and fails if the run is gone, or if another node of a gang has no room after all. One central planner on a fresh
snapshot, asked just as often, is what it is compared with. Nothing is preempted here.
"""

from __future__ import annotations

import heapq
import math
import random
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

from trimtab_work_pools.queue import decide
from trimtab_work_pools.queue.rooms import Slots
from trimtab_work_pools.queue.verdicts import Start
from trimtab_work_pools.queue.workload import Fleet, Member, Policy, Run, Running

__all__ = ["Outcome", "Setting", "arrivals", "simulate"]

_POLICY = Policy(preempt=False, reservations=4)
_WIDTHS = (1, 2, 4, 8, 16)
_WIDTH_WEIGHTS = (70, 15, 8, 5, 2)
_TRIES = 3  # plans a worker makes in one poll when claims are lost


@dataclass(frozen=True, slots=True)
class Setting:
    """`workers` nodes of `gpus_per_node`; snapshots up to `staleness_s` old; offered `load`; times in seconds.

    `warm_up_s` is simulated but not counted. `central` puts one planner with fresh snapshots in the workers' place.
    """

    workers: int
    staleness_s: float
    central: bool = False
    gpus_per_node: int = 8
    poll_s: float = 10.0
    load: float = 1.5
    gangs: bool = True
    median_s: float = 600.0
    warm_up_s: float = 600.0
    horizon_s: float = 1800.0
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Outcome:
    """`allocated`: share of GPU time in use after the warm-up; `lost_claims` of `claims` failed."""

    allocated: float
    claims: int
    lost_claims: int
    mean_first_wait_s: float
    started: int


@dataclass(slots=True)
class _World:
    queued: dict[str, Run]
    running: dict[str, Running]
    free: list[int]
    # The past, to be read by stale workers: times, and what was queued and running from then on.
    times: list[float] = field(default_factory=list)
    past: list[tuple[tuple[Run, ...], tuple[Running, ...]]] = field(default_factory=list)

    def remember(self, now_s: float, keep_s: float) -> None:
        self.times.append(now_s)
        self.past.append((tuple(self.queued.values()), tuple(self.running.values())))
        old = bisect_right(self.times, now_s - keep_s) - 1
        if old > 256:
            del self.times[:old], self.past[:old]

    def seen(self, at_s: float) -> tuple[tuple[Run, ...], tuple[Running, ...]]:
        return self.past[max(0, bisect_right(self.times, at_s) - 1)]


def arrivals(setting: Setting) -> list[tuple[float, Run]]:
    """(run time, run) by submission: a backlog, then Poisson at `load`; log-normal run times (sigma 1)."""
    draw = random.Random(setting.seed)
    gpus = setting.workers * setting.gpus_per_node
    most = gpus if setting.gangs else setting.gpus_per_node
    widths = [width for width in _WIDTHS if width <= most and width % min(width, setting.gpus_per_node) == 0]
    weights = _WIDTH_WEIGHTS[: len(widths)]
    mean_width = sum(w * p for w, p in zip(widths, weights, strict=True)) / sum(weights)
    rate = setting.load * gpus / (mean_width * setting.median_s * math.exp(0.5))
    runs: list[tuple[float, Run]] = []
    backlog = int(2.0 * gpus / mean_width)
    time_s = 0.0
    while time_s < setting.horizon_s:
        width = draw.choices(widths, weights)[0]
        duration_s = setting.median_s * math.exp(draw.gauss(0.0, 1.0))
        nodes = -(-width // setting.gpus_per_node)
        run = Run(f"{len(runs):06d}", width // nodes, time_s, duration_s, nodes=nodes, width=float(width))
        runs.append((duration_s, run))
        time_s += draw.expovariate(rate) if len(runs) >= backlog else 0.0
    return runs


def simulate(setting: Setting) -> Outcome:
    """Play one setting through; the same setting gives the same outcome."""
    return _Game(setting).play()


class _Game:
    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.draw = random.Random(setting.seed + 1)
        self.world = _World({}, {}, [setting.gpus_per_node] * setting.workers)
        self.durations: dict[str, float] = {}
        self.claims = self.lost = 0
        self.used = 0.0
        self.waits: list[float] = []

    def play(self) -> Outcome:
        setting, world = self.setting, self.world
        events: list[tuple[float, int, int, str]] = []  # time, kind (0 exit, 1 arrival, 2 poll), worker, run id
        runs = {run.id: (duration_s, run) for duration_s, run in arrivals(setting)}
        events += [(run.submitted_s, 1, 0, run.id) for _, run in runs.values()]
        planners = 1 if setting.central else setting.workers
        events += [(self.draw.uniform(0.0, setting.poll_s), 2, worker, "") for worker in range(planners)]
        heapq.heapify(events)
        last_s = 0.0
        while events and events[0][0] < setting.horizon_s:
            now_s, kind, worker, run_id = heapq.heappop(events)
            self._count(last_s, now_s)
            last_s = now_s
            if kind == 0:
                self._exit(world.running.pop(run_id))
            elif kind == 1:
                self.durations[run_id], world.queued[run_id] = runs[run_id]
            else:
                heapq.heappush(events, (now_s + setting.poll_s, 2, worker, ""))
                for started in self._poll(worker, now_s):
                    heapq.heappush(events, (now_s + self.durations[started], 0, 0, started))
            world.remember(now_s, setting.staleness_s + setting.poll_s)
        self._count(last_s, setting.horizon_s)
        counted_s = setting.horizon_s - setting.warm_up_s
        allocated = self.used / (counted_s * setting.workers * setting.gpus_per_node)
        mean_wait_s = math.fsum(self.waits) / max(1, len(self.waits))
        return Outcome(allocated, self.claims, self.lost, mean_wait_s, len(self.waits))

    def _count(self, from_s: float, to_s: float) -> None:
        counted_s = max(0.0, to_s - max(from_s, self.setting.warm_up_s))
        self.used += counted_s * (self.setting.workers * self.setting.gpus_per_node - sum(self.world.free))

    def _exit(self, running: Running) -> None:
        for name, claim in running.parts:
            self.world.free[int(name)] += claim.devices

    def _poll(self, worker: int, now_s: float) -> list[str]:
        world = self.world
        if not world.queued or not (any(world.free) if self.setting.central else world.free[worker]):
            return []
        if self.setting.central:
            queue, running = tuple(world.queued.values()), tuple(world.running.values())
            return [run_id for start in self._plan(queue, running, now_s) if (run_id := self._claim(start, now_s))]
        return self._poll_stale(worker, now_s)

    def _poll_stale(self, worker: int, now_s: float) -> list[str]:
        age_s = self.draw.uniform(0.0, self.setting.staleness_s)
        gone: set[str] = set()
        started: list[str] = []
        queue, others = self.world.seen(now_s - age_s)
        for _ in range(_TRIES):
            running = self._known(worker, others)
            taken = gone | {one.run.id for one in running}
            left = tuple(run for run in queue if run.id not in taken)
            mine = [s for s in self._plan(left, running, now_s) if s.parts[0][0] == str(worker)]
            missed = False
            for start in mine:
                if run_id := self._claim(start, now_s):
                    started.append(run_id)
                else:
                    gone.add(start.run_id)
                    missed = True
            if not missed:
                break
        return started

    def _known(self, worker: int, others: Sequence[Running]) -> tuple[Running, ...]:
        """What a worker takes to be running: the truth on its own node, the snapshot elsewhere."""
        name = str(worker)
        own = [one for one in self.world.running.values() if any(part[0] == name for part in one.parts)]
        known = {one.run.id: one for one in others if all(part[0] != name for part in one.parts)}
        return tuple((known | {one.run.id: one for one in own}).values())

    def _plan(self, queue: tuple[Run, ...], running: tuple[Running, ...], now_s: float) -> tuple[Start, ...]:
        free = [self.setting.gpus_per_node] * self.setting.workers
        for one in running:
            for name, claim in one.parts:
                free[int(name)] -= claim.devices
        members = tuple(
            Member(str(node), Slots(room), float(self.setting.gpus_per_node)) for node, room in enumerate(free)
        )
        return decide(Fleet(members, running), queue, _POLICY, now_s)[0]

    def _claim(self, start: Start, now_s: float) -> str:
        """The server's verdict on a claim: the run's id, or empty if it is lost."""
        world = self.world
        self.claims += 1
        if start.run_id not in world.queued or any(world.free[int(n)] < claim.devices for n, claim in start.parts):
            self.lost += 1
            return ""
        run = world.queued.pop(start.run_id)
        for name, claim in start.parts:
            world.free[int(name)] -= claim.devices
        world.running[run.id] = Running(run, start.parts, now_s)
        self.waits.append(now_s - run.submitted_s)
        return run.id
