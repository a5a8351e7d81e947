"""What a fleet costs the Prefect server: the measured cost of each kind of request, times how often a worker makes it.

Pure. How often comes from `trimtab_work_pools.worker.pace`, which the workers themselves go by.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from trimtab_work_pools.worker import pace

__all__ = ["HEARD_A_RUN", "PASSED_A_RUN", "PREFECT_SYNC_S", "Cost", "Line", "Load", "reckon"]

PREFECT_SYNC_S = 30.0
"""Prefect's worker says that it is alive, and reads its pool, this often (PREFECT_WORKER_HEARTBEAT_SECONDS)."""
HEARD_A_RUN, PASSED_A_RUN = 4, 5
"""Events that all workers hear of: Scheduled, Pending, the node has changed when it started and when it ended; and
those that the server only looks at for each of them: Submitting, Running, Completed, and two of Prefect's worker."""


_NO_REQUEST = ("stream", "roll_heard", "event_heard", "event_passed")


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one request, or of one second of what is not one."""

    server_s: float
    database_s: float
    bytes: float


@dataclass(frozen=True, slots=True)
class Line:
    """One kind of request of a whole fleet. `cores` are of the API server and of the database."""

    kind: str
    per_s: float
    server_cores: float
    database_cores: float
    bytes_per_s: float


@dataclass(frozen=True, slots=True)
class Load:
    """`idle`: nothing runs. `a_run`: what each run adds, as cores and bytes at one run a second. `news`: what is asked
    for runs that others start, at most; it does not grow with them.
    """

    idle: tuple[Line, ...]
    a_run: tuple[Line, ...]
    news: Line

    @staticmethod
    def total(lines: tuple[Line, ...]) -> Line:
        """All of them as one; an open stream is no request, nor what is sent over it."""
        asked = sum(line.per_s for line in lines if line.kind not in _NO_REQUEST)
        server, database = sum(line.server_cores for line in lines), sum(line.database_cores for line in lines)
        return Line("all", asked, server, database, sum(line.bytes_per_s for line in lines))


def reckon(costs: Mapping[str, Cost], workers: int, poll_s: float, whole_queue_read_s: float) -> Load:
    """The load of `workers` on one pool. `costs`: by kind (see `cost_parts`); those of an event are without listeners
    (`event`, `roll_event`) and for each listener (`event_heard`, `roll_heard`; `event_passed`: it is not for them).
    """
    whole_s = pace.whole_queue_s(workers, whole_queue_read_s, poll_s)
    idle = {
        "sync": workers / PREFECT_SYNC_S,
        "advertise": workers / pace.RENEW_S,
        "queues": workers / pace.queues_s(workers),
        "policy": workers / pace.policy_s(workers),
        "whole_queue": workers / whole_s,
        "stream": float(workers),
        "roll_read": 1 / pace.ROLL_S,
        "roll_event": 1 / pace.ROLL_S,
        "roll_heard": workers / pace.ROLL_S,
    }
    a_run = {
        "claim": 1.0,
        "event": float(HEARD_A_RUN + PASSED_A_RUN),
        "event_heard": float(HEARD_A_RUN * workers),
        "event_passed": float(PASSED_A_RUN * workers),
    }
    interval_s = pace.news_s(workers)
    news = _line("news", workers / interval_s if interval_s else 0.0, costs["news"])
    return Load(_lines(idle, costs), _lines(a_run, costs), news)


def _lines(rates: Mapping[str, float], costs: Mapping[str, Cost]) -> tuple[Line, ...]:
    return tuple(_line(kind, per_s, costs[kind]) for kind, per_s in rates.items())


def _line(kind: str, per_s: float, cost: Cost) -> Line:
    return Line(kind, per_s, per_s * cost.server_s, per_s * cost.database_s, per_s * cost.bytes)
