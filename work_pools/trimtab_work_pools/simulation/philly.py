"""Reads a job trace (`timestamp,duration,num_gpus`) and draws the run-time estimates a planner would have had."""

from __future__ import annotations

import csv
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

__all__ = ["Cluster", "Job", "TraceError", "draw_estimates", "offered_load", "read_jobs", "split"]

_COLUMNS = ("timestamp", "duration", "num_gpus")


class TraceError(ValueError):
    """A trace file cannot be used; the text names the file, the line and what is allowed."""


@dataclass(frozen=True, slots=True)
class Job:
    """One row of the trace: `index` is the row number from 0, times are seconds since the first submission."""

    index: int
    submit_s: float
    duration_s: float
    num_gpus: int


@dataclass(frozen=True, slots=True)
class Cluster:
    """`nodes` equal nodes with `gpus_per_node` GPUs each."""

    nodes: int
    gpus_per_node: int

    @property
    def gpus(self) -> int:
        return self.nodes * self.gpus_per_node


def read_jobs(path: Path) -> tuple[Job, ...]:
    """Read a trace, ordered as in the file.

    Raises TraceError when a column is missing, a value is not a number or a time, or the file has no rows.
    """
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream)
            missing = [name for name in _COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise TraceError(f"{path}: column {missing[0]!r} is missing; needed are {', '.join(_COLUMNS)}")
            rows = [_row(path, line, row) for line, row in enumerate(reader, start=2)]
    except (OSError, UnicodeDecodeError) as error:
        raise TraceError(f"{path}: cannot be read ({error}); give a CSV file with {', '.join(_COLUMNS)}") from error
    if not rows:
        raise TraceError(f"{path}: no jobs below the header")
    first = min(submitted for submitted, _, _ in rows)
    return tuple(
        Job(index, (submitted - first).total_seconds(), duration_s, num_gpus)
        for index, (submitted, duration_s, num_gpus) in enumerate(rows)
    )


def _row(path: Path, line: int, row: dict[str, str]) -> tuple[datetime, float, int]:
    try:
        submitted = datetime.fromisoformat(row["timestamp"])
        duration_s, num_gpus = float(row["duration"]), int(row["num_gpus"])
    except (TypeError, ValueError) as error:
        raise TraceError(f"{path}, line {line}: {error}; expected e.g. 2017-09-24 14:01:56,79.0,1") from error
    if not (math.isfinite(duration_s) and duration_s > 0 and num_gpus > 0):
        raise TraceError(f"{path}, line {line}: duration and num_gpus must be above 0, not {duration_s}, {num_gpus}")
    return submitted, duration_s, num_gpus


def split(num_gpus: int, cluster: Cluster) -> tuple[int, int] | None:
    """(nodes, GPUs on each) a job is run on: as few nodes as hold it in equal parts; None if it cannot be held."""
    for nodes in range(-(-num_gpus // cluster.gpus_per_node), min(num_gpus, cluster.nodes) + 1):
        if num_gpus % nodes == 0:
            return nodes, num_gpus // nodes
    return None


def draw_estimates(jobs: Sequence[Job], sigma: float, seed: int) -> tuple[float, ...]:
    """Expected run times (s): the true ones times exp(N(0, sigma)); with sigma 0 the true ones."""
    draw = random.Random(seed)
    return tuple(job.duration_s * math.exp(draw.gauss(0.0, sigma)) if sigma > 0 else job.duration_s for job in jobs)


def offered_load(jobs: Sequence[Job], cluster: Cluster) -> float:
    """GPU-seconds submitted per GPU-second there is, from the first submission to the last; jobs too large left out."""
    work = sum(job.duration_s * job.num_gpus for job in jobs if split(job.num_gpus, cluster))
    span_s = max(job.submit_s for job in jobs) - min(job.submit_s for job in jobs)
    return work / (span_s * cluster.gpus) if span_s > 0 else math.inf
