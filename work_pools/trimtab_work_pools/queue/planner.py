"""Decides, for a whole fleet and queue, which run starts where now, what is stopped for it, and why the rest wait."""

from __future__ import annotations

from collections.abc import Iterable

from trimtab_work_pools.queue.backfill import Walk
from trimtab_work_pools.queue.priority import Ranked, order
from trimtab_work_pools.queue.verdicts import Plan, Start, Stop
from trimtab_work_pools.queue.workload import Fleet, Policy, Run, WorkloadError

__all__ = ["decide", "plan"]


def plan(fleet: Fleet, queue: Iterable[Run], policy: Policy, now_s: float) -> Plan:
    """The plan for one instant: a pure function, the same for any order of nodes, running runs and queue.

    `now_s` and all times in the arguments are seconds on one clock. Every queued run is in `starts` or has a `Wait`.
    Raises WorkloadError if two runs have one id.
    """
    walk, ranked = _prepare(fleet, queue, policy, now_s)
    walk.all(ranked)
    return Plan(now_s, tuple(walk.starts), tuple(walk.stops), tuple(walk.waits))


def decide(
    fleet: Fleet, queue: Iterable[Run], policy: Policy, now_s: float
) -> tuple[tuple[Start, ...], tuple[Stop, ...]]:
    """Only the starts and stops of `plan`, without the reasons: for callers who ask thousands of times."""
    walk, ranked = _prepare(fleet, queue, policy, now_s)
    walk.until_settled(ranked)
    return tuple(walk.starts), tuple(walk.stops)


def _prepare(fleet: Fleet, queue: Iterable[Run], policy: Policy, now_s: float) -> tuple[Walk, list[Ranked]]:
    runs = list(queue)
    ids = {run.id for run in runs} | {one.run.id for one in fleet.running}
    if len(ids) < len(runs) + len(fleet.running):
        raise WorkloadError("two runs have one id, or a run is queued and running; ids must be unique")
    return Walk(fleet, runs, policy, now_s), order(runs, fleet.running, fleet.width, policy, now_s)
