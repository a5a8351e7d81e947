"""Drives the replay with the product's own planner: what a worker would do with `queue.plan`, event by event."""

from __future__ import annotations

import math
from collections.abc import Sequence

from trimtab_work_pools.queue import decide
from trimtab_work_pools.queue.rooms import Claim, Slots
from trimtab_work_pools.queue.workload import Fleet, Member, Policy, Run, Running
from trimtab_work_pools.simulation.replay import Active, Preempt, Start, State

__all__ = ["Planned"]

_POLL_S = 600.0
"""Asked at least this often (s) while runs wait, though nothing happens: waiting alone changes the order."""


class Planned:
    """A scheduler for `replay`. `sigma` is what it is told of the estimates' spread (0: exact)."""

    def __init__(self, policy: Policy, sigma: float) -> None:
        self._policy, self._sigma = policy, sigma
        self._runs: dict[int, Run] = {}

    def wake_s(self, state: State) -> float:
        return state.now_s + _POLL_S if state.queued else math.inf

    def decide(self, state: State, arrived: Sequence[int]) -> list[Start | Preempt]:
        for job in arrived:
            self._runs[job] = self._run(state, job)
        if not state.queued:
            return []
        queue = [self._runs[job] for job in state.queued]
        starts, stops = decide(self._fleet(state), queue, self._policy, state.now_s)
        instructions: list[Start | Preempt] = [Preempt(int(stop.run_id)) for stop in stops]
        for start in starts:
            parts = tuple((int(name), int(claim.devices)) for name, claim in start.parts)
            instructions.append(Start(int(start.run_id), parts))
        return instructions

    def _run(self, state: State, job: int) -> Run:
        facts, (nodes, gpus) = state.jobs[job], state.shape(job)
        return Run(
            id=str(job),
            demand=gpus,
            nodes=nodes,
            width=float(nodes * gpus),
            submitted_s=facts.submit_s,
            expected_s=state.estimates_s[job],
            sigma=self._sigma,
            attained_s=state.attained_s.get(job, 0.0),
        )

    def _fleet(self, state: State) -> Fleet:
        width = float(state.cluster.gpus_per_node)
        members = tuple(Member(str(node), Slots(free), width) for node, free in enumerate(state.free))
        return Fleet(members, tuple(self._running(active) for active in state.active.values()))

    def _running(self, active: Active) -> Running:
        parts = tuple((str(node), Claim(0.0, gpus)) for node, gpus in active.parts)
        return Running(
            self._runs[active.job],
            parts,
            active.start_s,
            overhead_s=active.overhead_s,
            stopping_until_s=active.stopping_until_s,
        )
