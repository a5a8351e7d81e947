"""Which runs are lost with their host: the server says they run, no worker that is there holds them, and nothing
says that theirs is alive. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from trimtab_work_pools.advertise import Advertisement
from trimtab_work_pools.ledger import Holding

__all__ = ["Active", "Life", "alive", "superseded", "unheld"]


@dataclass(frozen=True, slots=True)
class Active:
    """A run that is claimed or runs, and the worker that has it as far as the run itself says ("": it does not say).
    `beats`: its own process has told the server that it is alive since nobody holds it.
    """

    run_id: str
    worker: str = ""
    beats: bool = False


@dataclass(frozen=True, slots=True)
class Life:
    """Names of workers: those that advertise, and can be read (what they do not hold, they do not hold); those that
    renew what cannot be read; and those that Prefect has heard of lately.
    """

    readable: frozenset[str] = frozenset()
    silent: frozenset[str] = frozenset()
    online: frozenset[str] = frozenset()


def alive(run: Active, life: Life) -> str:
    """Why a run that nobody says to hold must not be started again: its worker is alive, and only its word is missing.
    "" if nothing says so.
    """
    if run.beats:
        return "its process has told the server since that it runs"
    if run.worker in life.readable:
        return ""
    if run.worker in life.silent:
        return f"worker {run.worker!r} renews its advertisement, which cannot be read here"
    if run.worker in life.online:
        return f"worker {run.worker!r} does not advertise, but Prefect hears of it"
    if not run.worker and life.silent:
        return f"it may be with worker {min(life.silent)!r}, whose advertisement cannot be read here"
    return ""


def unheld(
    active: Iterable[str], fleet: Iterable[Advertisement], before: Mapping[str, float], now_s: float, after_s: float
) -> tuple[dict[str, float], list[str]]:
    """Since when each of the `active` runs (claimed or running) has been held by nobody, given what was known `before`;
    and those for which that is longer than `after_s`. A worker that is started again holds its runs again.
    """
    held = {holding.run_id for one in fleet for holding in one.holdings}
    since = {run_id: before.get(run_id, now_s) for run_id in active if run_id not in held}
    return since, [run_id for run_id, since_s in since.items() if now_s - since_s >= after_s]


def superseded(mine: Iterable[Holding], peers: Iterable[Advertisement], sent_back: Collection[str]) -> list[str]:
    """Ids of runs of this worker that were given to somebody else while it was away: a peer that is there has held them
    since later, or they were sent back to the queue as lost.
    """
    theirs = {holding.run_id: holding for one in peers for holding in one.holdings}
    return [
        own.run_id for own in mine if own.run_id in sent_back or theirs.get(own.run_id, own).started_s > own.started_s
    ]
