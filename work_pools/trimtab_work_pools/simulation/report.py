"""Turns a schedule into the figures people compare, and into the CSV others can check."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from trimtab_work_pools.simulation.philly import Cluster, Job
from trimtab_work_pools.simulation.replay import Stretch

__all__ = ["SLOWDOWN_FLOOR_S", "Figures", "figures", "write_schedule"]

SLOWDOWN_FLOOR_S = 10.0
"""Bounded slowdown counts no job as shorter than this (Feitelson's usual 10 s)."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one schedule. Wait is all the time a job was in the system without making progress: before its first start,
    while preempted, and while checkpointing or restarting. Utilisation counts useful GPU-seconds only."""

    jobs: int
    left_out: int
    mean_wait_s: float
    p95_wait_s: float
    max_wait_s: float
    mean_first_wait_s: float
    mean_bounded_slowdown: float
    max_bounded_slowdown: float
    makespan_s: float
    utilisation: float
    preemptions: int
    overhead_share: float

    def as_dict(self) -> dict[str, float | int]:
        return asdict(self)


def figures(jobs: Sequence[Job], cluster: Cluster, stretches: Sequence[Stretch]) -> Figures:
    """The figures of a schedule in which at least one job ran (ValueError otherwise)."""
    by_job: dict[int, list[Stretch]] = defaultdict(list)
    for stretch in stretches:
        by_job[stretch.job].append(stretch)
    if not by_job:
        raise ValueError("no job ran: each needs more GPUs than the cluster has; use more nodes")
    first = [min(s.start_s for s in own) - jobs[job].submit_s for job, own in by_job.items()]
    spent = {job: max(s.end_s for s in own) - jobs[job].submit_s for job, own in by_job.items()}
    # The last stretch ends when the work is done, so spent >= duration up to rounding of the trace's seconds.
    waits = sorted(max(0.0, spent[job] - jobs[job].duration_s) for job in by_job)
    slowdowns = [max(1.0, spent[job] / max(jobs[job].duration_s, SLOWDOWN_FLOOR_S)) for job in by_job]
    makespan_s = max(stretch.end_s for stretch in stretches)
    useful = sum(jobs[job].duration_s * jobs[job].num_gpus for job in by_job)
    held = sum((s.end_s - s.start_s) * jobs[s.job].num_gpus for s in stretches)
    return Figures(
        jobs=len(by_job),
        left_out=len(jobs) - len(by_job),
        mean_wait_s=sum(waits) / len(waits),
        p95_wait_s=waits[min(len(waits) - 1, int(0.95 * len(waits)))],
        max_wait_s=waits[-1],
        mean_first_wait_s=sum(first) / len(first),
        mean_bounded_slowdown=sum(slowdowns) / len(slowdowns),
        max_bounded_slowdown=max(slowdowns),
        makespan_s=makespan_s,
        utilisation=useful / (makespan_s * cluster.gpus),
        preemptions=len(stretches) - len(by_job),
        overhead_share=max(0.0, held - useful) / held,
    )


def write_schedule(path: Path, jobs: Sequence[Job], stretches: Sequence[Stretch]) -> None:
    """One row per stretch: `job,submit,start,end,gpus,nodes`; seconds from the first submission; nodes as `0:4|1:4`."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("job", "submit", "start", "end", "gpus", "nodes"))
        for stretch in stretches:
            job = jobs[stretch.job]
            times = [_seconds(t) for t in (job.submit_s, stretch.start_s, stretch.end_s)]
            nodes = "|".join(f"{node}:{gpus}" for node, gpus in stretch.parts)
            writer.writerow((job.index, *times, job.num_gpus, nodes))


def _seconds(value: float) -> str:
    """Microseconds at most, and no trailing zeros: the trace's whole seconds stay whole."""
    return f"{value:.6f}".rstrip("0").rstrip(".")
