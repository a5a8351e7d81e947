"""Finds runs whose host is lost, and has them start elsewhere; done by one worker of all.

TRIMTAB_HOST_LOST_SECONDS (300): for how long nobody holds a run before it counts as lost. A host that was only cut off
from the server for longer than that still runs it: when it is back, its worker ends it there.
"""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

import httpx
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateName,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.logging import get_logger

from trimtab_blocks.paging import PAGE, all_by_offset
from trimtab_blocks.settings import read as read_settings
from trimtab_work_pools.advertise import Advertisement
from trimtab_work_pools.lost import unheld
from trimtab_work_pools.worker.aftermath import Aftermath
from trimtab_work_pools.worker.control_plane import RETRIES, retries_in_process

__all__ = ["LostHosts"]

_LOOK_S = 5.0


class LostHosts:
    """Of one work pool."""

    def __init__(self, client: PrefectClient, pool: str, aftermath: Aftermath) -> None:
        self._client, self._pool, self._aftermath = client, pool, aftermath
        self._after_s = read_settings().host_lost_seconds
        self._since: dict[str, float] = {}
        self._looked_s = 0.0

    async def look(self, fleet: Iterable[Advertisement], now_s: float) -> None:
        """`fleet`: those that have not expired. Reads the runs that are claimed or running, at most every 5 s."""
        if now_s - self._looked_s < min(_LOOK_S, self._after_s / 2):
            return
        if now_s - self._looked_s > 2 * self._after_s:
            self._since.clear()  # this worker was away itself, and has seen nothing meanwhile
        self._looked_s = now_s
        self._since, lost = unheld(await self._active(), fleet, self._since, now_s, self._after_s)
        for run_id in lost:
            try:
                await self._aftermath.host_lost(UUID(run_id))
            except httpx.HTTPError as error:
                get_logger("trimtab.worker").warning("Run %s, whose host is lost: %s; tried again", run_id, error)

    async def _active(self) -> list[str]:
        """Also those whose process waits to try again."""
        busy = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.PENDING, StateType.RUNNING]))
        retrying = FlowRunFilterState(name=FlowRunFilterStateName(any_=[RETRIES]))
        found = [run for state in (busy, retrying) for run in await self._all(state)]
        return [str(run.id) for run in found if run.state_name != RETRIES or retries_in_process(run)]

    async def _all(self, states: FlowRunFilterState) -> list[FlowRun]:
        pool = WorkPoolFilter(name=WorkPoolFilterName(any_=[self._pool]))
        return await all_by_offset(
            lambda offset: self._client.read_flow_runs(
                flow_run_filter=FlowRunFilter(state=states),
                work_pool_filter=pool,
                sort=FlowRunSort.ID_DESC,
                limit=PAGE,
                offset=offset,
            )
        )
