"""Concurrency limits of a work pool and its queues, kept exactly although every worker claims by itself.

Prefect's server keeps them by handing a worker no more runs than there are places left; a worker that plans the whole
queue has to count itself. A plan counts what the server says is claimed or running. Two workers may still count at the
same time: so a claim is counted once more after it was made, and given back if that is one too many. Whoever counts
last sees the claims of all who have kept theirs, so no two of them can both be too many.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from prefect.client.schemas.objects import FlowRun

from trimtab_work_pools.queue.workload import Limit
from trimtab_work_pools.worker.control_plane import ControlPlane

__all__ = ["Limits", "exceeded"]


class Limits:
    """As one worker knows them: read for each plan while there are some, as often as a pool of that size may ask."""

    def __init__(self, control: ControlPlane) -> None:
        self._control = control
        self._known: tuple[Limit, ...] = ()
        self._read_s = 0.0
        self._picked: dict[str, tuple[str, ...]] = {}

    async def now(self, set_now: bool, every_s: float) -> tuple[Limit, ...]:
        """`set_now`: whether any is set; `every_s`: seconds between two readings."""
        if not set_now:
            self._known, self._read_s = (), 0.0
        elif not self._read_s or self._control.now_s() - self._read_s >= every_s:
            self._known = await self._control.limits()
            self._read_s = self._control.now_s()
        counted = Counter(name for names in self._picked.values() for name in names)
        return tuple(replace(one, taken=one.taken + counted[one.name]) for one in self._known)

    def picked(self, run_id: str, names: tuple[str, ...]) -> None:
        """This worker is about to claim a run, which the server does not count yet."""
        self._picked[run_id] = names

    def settled(self, run_id: str) -> None:
        """It is claimed, and the server counts it; or it is not this worker's."""
        self._picked.pop(run_id, None)

    async def exceeded_by(self, run: FlowRun) -> Limit | None:
        """The limit that a run which was claimed just now is too many for."""
        if not self._known:
            return None
        return exceeded(await self._control.limits(), self._control.limits_of(run))


def exceeded(limits: Iterable[Limit], names: Iterable[str]) -> Limit | None:
    """The first of the named limits that more runs have taken than it lets run. Pure."""
    wanted = set(names)
    return next((one for one in limits if one.name in wanted and one.taken > one.most), None)
