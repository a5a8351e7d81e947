"""How often a worker asks the Prefect server for what, by how many workers the pool has: bounded for any fleet. Pure.

`trimtab bench cost` measures what each of it costs the server, and reckons the load of a fleet from these.
"""

from __future__ import annotations

__all__ = [
    "ADVERTISED_S",
    "RENEW_S",
    "ROLL_S",
    "news_s",
    "policy_s",
    "queues_s",
    "whole_queue_s",
]

ADVERTISED_S = 30.0
"""How long an advertisement is good."""
RENEW_S = ADVERTISED_S / 3
ROLL_S = 5.0
"""The leader reads what all advertise, and calls the roll."""

_WORKERS_AT_ONCE, _NEWS_EACH_S = 10, 0.03
_SHARE_OF_SERVER, _WHOLE_AT_MOST_S = 0.5, 300.0


def policy_s(workers: int) -> float:
    """Between two readings of the pool's policy: by all together at most ten times a second."""
    return max(30.0, workers / 10)


def queues_s(workers: int) -> float:
    """Of its work queues and their priorities: at most ten times a second. A queue that is paused is an event."""
    return max(5.0, workers / 10)


def news_s(workers: int) -> float:
    """Of the runs that events have told of and that are not for this worker, by what their deployments ask for: at most
    33 times a second. A few workers ask for them at once.
    """
    return 0.0 if workers <= _WORKERS_AT_ONCE else workers * _NEWS_EACH_S


def whole_queue_s(workers: int, read_s: float, poll_s: float) -> float:
    """Of the whole queue, which takes the server `read_s`: every `poll_s`, unless all workers together would keep half
    a core of the server busy with it; every 5 minutes at the least.
    """
    return max(poll_s, min(workers * read_s / _SHARE_OF_SERVER, _WHOLE_AT_MOST_S))
