"""Which runs are lost with their host: the server says they run, and no worker that is there holds them. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from trimtab_work_pools.advertise import Advertisement
from trimtab_work_pools.ledger import Holding

__all__ = ["superseded", "unheld"]


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
