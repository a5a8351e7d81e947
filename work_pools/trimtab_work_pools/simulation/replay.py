"""Replays a job trace through a scheduler, event by event, and keeps every stretch a job held its GPUs.

The engine knows the truth (how long each job runs); a scheduler sees only what a planner would: what is queued, what
runs where, the estimates, and the time. Preemption costs what it costs on a real cluster: the victim holds its GPUs for
`checkpoint_s` more while it writes its state, and holds them for `restart_s` without progress when it starts again.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from trimtab_work_pools.simulation.philly import Cluster, Job, split

__all__ = ["Active", "Costs", "Parts", "Preempt", "Scheduler", "Start", "State", "Stretch", "replay"]

Parts = tuple[tuple[int, int], ...]
"""Where a job runs: (node index, GPUs on it)."""


@dataclass(frozen=True, slots=True)
class Costs:
    """What one preemption costs its victim (s), all of it with the GPUs held; the defaults are stated in QUEUE.md."""

    checkpoint_s: float = 30.0
    restart_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Start:
    job: int
    parts: Parts


@dataclass(frozen=True, slots=True)
class Preempt:
    job: int


@dataclass(frozen=True, slots=True)
class Stretch:
    """One stretch of one job: `start_s`, `end_s` since the first submission, overheads included."""

    job: int
    start_s: float
    end_s: float
    parts: Parts


@dataclass(slots=True)
class Active:
    """A job that holds GPUs. `stopping_until_s`: it has been told to stop and frees its GPUs then."""

    job: int
    start_s: float
    overhead_s: float
    parts: Parts
    stopping_until_s: float | None = None


@dataclass(slots=True)
class State:
    """What a scheduler may look at, and may not change: the engine applies its instructions."""

    cluster: Cluster
    jobs: Sequence[Job]
    estimates_s: Sequence[float]
    costs: Costs
    free: list[int]
    now_s: float = 0.0
    queued: dict[int, None] = field(default_factory=dict)
    active: dict[int, Active] = field(default_factory=dict)
    attained_s: dict[int, float] = field(default_factory=dict)

    def shape(self, job: int) -> tuple[int, int]:
        """(nodes, GPUs on each) of a job that the cluster can hold."""
        parts = split(self.jobs[job].num_gpus, self.cluster)
        if parts is None:
            raise LookupError(f"job {job} cannot be held by {self.cluster}")
        return parts


class Scheduler(Protocol):
    """A policy under test."""

    def decide(self, state: State, arrived: Sequence[int]) -> Sequence[Start | Preempt]:
        """Instructions for this instant; `arrived` are the jobs that joined the queue since the last call."""
        ...

    def wake_s(self, state: State) -> float:
        """The next time (s) the scheduler wants to be asked though nothing happens; infinity for never."""
        ...


class _Engine:
    def __init__(self, state: State) -> None:
        self.state = state
        self.stretches: list[Stretch] = []
        self._exits: list[tuple[float, int, float]] = []

    def next_exit_s(self) -> float:
        while self._exits and not self._current(*self._exits[0]):
            heapq.heappop(self._exits)
        return self._exits[0][0] if self._exits else math.inf

    def _current(self, exit_s: float, job: int, start_s: float) -> bool:
        # A preempted job's old exit stays in the heap; it is told from the live one by its start and its stop time.
        active = self.state.active.get(job)
        if active is None or active.start_s != start_s:
            return False
        return active.stopping_until_s is None or active.stopping_until_s == exit_s

    def release_until(self, now_s: float) -> list[int]:
        """Take out the jobs that exit by `now_s`; return those that go back to the queue."""
        back: list[int] = []
        while self.next_exit_s() <= now_s:
            exit_s, job, _ = heapq.heappop(self._exits)
            active = self.state.active.pop(job)
            self.stretches.append(Stretch(job, active.start_s, exit_s, active.parts))
            for node, gpus in active.parts:
                self.state.free[node] += gpus
            if active.stopping_until_s is not None:
                self.state.queued[job] = None
                back.append(job)
        return back

    def apply(self, instruction: Start | Preempt) -> None:
        state = self.state
        if isinstance(instruction, Preempt):
            self._stop(state.active[instruction.job])
            return
        job = instruction.job
        del state.queued[job]
        for node, gpus in instruction.parts:
            state.free[node] -= gpus
            if state.free[node] < 0:
                raise RuntimeError(f"the scheduler gave node {node} away twice at {state.now_s} s")
        if sum(gpus for _, gpus in instruction.parts) != state.jobs[job].num_gpus:
            raise RuntimeError(f"the scheduler gave job {job} {instruction.parts}, not {state.jobs[job].num_gpus} GPUs")
        overhead_s = state.costs.restart_s if job in state.attained_s else 0.0
        state.active[job] = Active(job, state.now_s, overhead_s, instruction.parts)
        left_s = state.jobs[job].duration_s - state.attained_s.get(job, 0.0)
        heapq.heappush(self._exits, (state.now_s + overhead_s + left_s, job, state.now_s))

    def _stop(self, active: Active) -> None:
        state = self.state
        if active.stopping_until_s is not None:
            return
        done_s = max(0.0, state.now_s - active.start_s - active.overhead_s)
        state.attained_s[active.job] = state.attained_s.get(active.job, 0.0) + done_s
        active.stopping_until_s = state.now_s + state.costs.checkpoint_s
        heapq.heappush(self._exits, (active.stopping_until_s, active.job, active.start_s))


def replay(
    jobs: Sequence[Job],
    cluster: Cluster,
    estimates_s: Sequence[float],
    scheduler: Scheduler,
    costs: Costs | None = None,
) -> tuple[Stretch, ...]:
    """Run the whole trace; return the stretches ordered by (start, job).

    Jobs the cluster cannot hold are left out. Raises RuntimeError if the scheduler gives away what there is not, or
    leaves jobs waiting for ever on an idle cluster.
    """
    state = State(cluster, jobs, estimates_s, costs or Costs(), [cluster.gpus_per_node] * cluster.nodes)
    engine = _Engine(state)
    arrivals = sorted((job.submit_s, job.index) for job in jobs if split(job.num_gpus, cluster))
    position = 0
    while True:
        arrival_s = arrivals[position][0] if position < len(arrivals) else math.inf
        state.now_s = min(arrival_s, engine.next_exit_s(), max(scheduler.wake_s(state), state.now_s))
        if math.isinf(state.now_s):
            break
        joined = engine.release_until(state.now_s)
        while position < len(arrivals) and arrivals[position][0] <= state.now_s:
            joined.append(arrivals[position][1])
            state.queued[joined[-1]] = None
            position += 1
        for instruction in scheduler.decide(state, joined):
            engine.apply(instruction)
    if state.queued:
        raise RuntimeError(f"the scheduler left {len(state.queued)} jobs waiting on an idle cluster")
    return tuple(sorted(engine.stretches, key=lambda stretch: (stretch.start_s, stretch.job)))
