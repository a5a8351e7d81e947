"""What a plan says: what starts, what stops, and for every other run why it waits and what it waits for."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from trimtab_work_pools.queue.rooms import Claim

__all__ = ["Code", "Plan", "Start", "Stop", "Wait"]


class Code(StrEnum):
    """Why a run does not start now. The values are API: they are written to the server and counted."""

    NOT_YET = "not_yet"
    """Its scheduled start is in the future."""
    NEVER_FITS = "never_fits"
    """The idle fleet has no room for it: it waits for other nodes, or for a smaller demand."""
    LIMITED = "limited"
    """A concurrency limit is reached: it waits until another run of the same limit has ended."""
    PREEMPTING = "preempting"
    """Runs that rank below it are being stopped for it."""
    RESERVED = "reserved"
    """No room now; a reservation that no other run may delay says from when and where."""
    WOULD_DELAY = "would_delay"
    """There is room now, but it would still be there when a reservation of a run ahead begins."""
    BEHIND = "behind"
    """No room now, and the runs ahead of it hold all the reservations that are made."""


@dataclass(frozen=True, slots=True)
class Start:
    run_id: str
    parts: tuple[tuple[str, Claim], ...]


@dataclass(frozen=True, slots=True)
class Stop:
    """Preempt: `run_id` makes way for `for_run_id`; `lost_s` is what the stop costs in GPU-seconds."""

    run_id: str
    for_run_id: str
    lost_s: float


@dataclass(frozen=True, slots=True)
class Wait:
    """`ahead` runs were considered before it; `at_s` and `nodes` are the reservation; `because` are run ids; `limit` is
    the name of the concurrency limit that is reached.
    """

    run_id: str
    code: Code
    ahead: int
    at_s: float | None = None
    nodes: tuple[str, ...] = ()
    because: tuple[str, ...] = ()
    limit: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """One verdict for each queued run (it is in `starts` or in `waits`), and what is to be stopped for whom."""

    now_s: float
    starts: tuple[Start, ...]
    stops: tuple[Stop, ...]
    waits: tuple[Wait, ...]
