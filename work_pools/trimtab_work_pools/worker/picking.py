"""Decides which of the queued runs this worker starts on its own node. Pure.

Every worker makes the same plan for the whole fleet from the same snapshot, and takes only its own share: a run that
fits a peer better is left to the peer. When the peer's advertisement expires, the next plan is made without it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from trimtab_work_pools.advertise import Advertisement, current, fleet_from
from trimtab_work_pools.queue import explain, plan
from trimtab_work_pools.queue.gpu_rooms import run_of
from trimtab_work_pools.queue.verdicts import Code, Plan
from trimtab_work_pools.queue.workload import Fleet, Policy, Run
from trimtab_work_pools.resources import Demand, Placement

__all__ = ["NEVER", "Picked", "Queued", "pick"]

NEVER = "NoNodeFits"
"""Name of the state of a run that no advertised node could ever hold."""


@dataclass(frozen=True, slots=True)
class Queued:
    """A scheduled run: what it asks for, since when, and the priority of its work queue (1 is the highest)."""

    run_id: str
    demand: Demand
    submitted_s: float
    queue_priority: int = 1

    def run(self) -> Run:
        """As the planner sees it. One step of queue priority counts as one step of the run's own."""
        demand = replace(self.demand, priority=self.demand.priority - (self.queue_priority - 1))
        return run_of(self.run_id, demand, self.submitted_s)


@dataclass(frozen=True, slots=True)
class Picked:
    """`starts`: run id and where, on this node, best first. `stops`: run ids of this node that make way for others."""

    starts: tuple[tuple[str, Placement], ...]
    stops: tuple[tuple[str, str], ...]
    plan: Plan
    fleet: Fleet
    runs: tuple[Run, ...]

    def reasons(self) -> dict[str, tuple[str, str]]:
        """(name of the state, sentence) of each run that waits."""
        codes = {wait.run_id: wait.code for wait in self.plan.waits}
        waiting = [run for run in self.runs if run.id in codes and codes[run.id] is not Code.NOT_YET]
        return {run.id: (_state(codes[run.id]), explain(run, self.fleet, self.plan)) for run in waiting}


def pick(
    node: str, advertisements: Iterable[Advertisement], queued: Sequence[Queued], policy: Policy, now_s: float
) -> Picked:
    """The share of `node` in the plan of the fleet that is advertised at `now_s`."""
    fleet = fleet_from(current(advertisements, now_s))
    running = {one.run.id for one in fleet.running}
    # What a peer has just claimed may still be in the queue that was read: its advertisement is the later news.
    runs = tuple(one.run() for one in queued if one.run_id not in running)
    made = plan(fleet, runs, policy, now_s)
    mine = [
        (start.run_id, replace(start.parts[0][1].devices, node=node))
        for start in made.starts
        if [name for name, _ in start.parts] == [node]
    ]
    here = {one.run.id for one in fleet.running if any(name == node for name, _ in one.parts)}
    stops = tuple((stop.run_id, stop.for_run_id) for stop in made.stops if stop.run_id in here)
    return Picked(tuple(mine), stops, made, fleet, runs)


def _state(code: Code) -> str:
    return NEVER if code is Code.NEVER_FITS else "AwaitingResources"
