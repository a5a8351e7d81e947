"""Finds runs whose host is lost, and has them start elsewhere; done by one worker of all.

TRIMTAB_HOST_LOST_SECONDS (300): for how long nobody holds a run before it counts as lost. A worker that renews what
cannot be read, or that Prefect still hears of, is alive, and so are its runs; and so is a run whose own process says
so. On a host that was cut off it stands still by then (`rules.fence`): when the host is back, its worker ends it there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import httpx
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateName,
    FlowRunFilterStateType,
    WorkerFilter,
    WorkerFilterStatus,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound
from prefect.logging import get_logger

from trimtab_blocks.paging import PAGE, all_by_offset
from trimtab_blocks.settings import read as read_settings
from trimtab_work_pools.advertise import Advertisement
from trimtab_work_pools.lost import Active, Life, alive, unheld
from trimtab_work_pools.rules.parts import Sign
from trimtab_work_pools.worker.aftermath import Aftermath
from trimtab_work_pools.worker.control_plane import RETRIES, retries_in_process

__all__ = ["LostHosts"]

_WORKER = "prefect.worker.name"
"""Label that Prefect's worker gives to a run that it has claimed."""
_LOOK_S = 5.0


class LostHosts:
    """Of one work pool."""

    def __init__(self, client: PrefectClient, pool: str, aftermath: Aftermath) -> None:
        self._client, self._pool, self._aftermath = client, pool, aftermath
        self._after_s = read_settings().host_lost_seconds
        self._since: dict[str, float] = {}
        self._looked_s = 0.0

    async def look(self, fleet: Sequence[Advertisement], silent: Iterable[Sign], now_s: float) -> None:
        """`fleet`: those that have not expired; `silent`: of those that cannot be read. Reads the runs that are claimed
        or running, at most every 5 s.
        """
        if now_s - self._looked_s < min(_LOOK_S, self._after_s / 2):
            return
        if now_s - self._looked_s > 2 * self._after_s:
            self._since.clear()  # this worker was away itself, and has seen nothing meanwhile
        active = {run.run_id: run for run in await self._active()}
        self._looked_s = now_s  # only now: a look that failed has seen nothing
        self._since, lost = unheld(active, fleet, self._since, now_s, self._after_s)
        if lost:
            life = Life(
                frozenset(one.worker for one in fleet),
                frozenset(sign.worker for sign in silent if sign.expires_s > now_s),
                await self._online(),
            )
            beating = [replace(active[run_id], beats=await self._beats(run_id)) for run_id in lost]
            lost = [run.run_id for run in beating if not self._lives(run, life, now_s)]
        for run_id in lost:
            try:
                await self._aftermath.host_lost(UUID(run_id))
            except (httpx.HTTPError, ObjectNotFound) as error:
                get_logger("trimtab.worker").warning("Run %s, whose host is lost: %s; tried again", run_id, error)

    def _lives(self, run: Active, life: Life, now_s: float) -> bool:
        """Its time begins anew for as long as something says that its worker is alive."""
        why = alive(run, life)
        if why:
            self._since[run.run_id] = now_s
            get_logger("trimtab.worker").warning(
                "No worker that can be read holds run %s; it is left alone: %s", run.run_id, why
            )
        return bool(why)

    async def _beats(self, run_id: str) -> bool:
        """Whether the run's process has sent a heartbeat (Prefect's engine does, every three minutes unless it is told
        otherwise) since nobody holds it.
        """
        since = datetime.fromtimestamp(self._since[run_id], UTC).isoformat()
        wanted = {
            "event": {"name": ["prefect.flow-run.heartbeat"]},
            "resource": {"id": [f"prefect.flow-run.{run_id}"]},
            "occurred": {"since": since},
        }
        response = await self._client.request("POST", "/events/filter", json={"filter": wanted, "limit": 1})
        return bool(response.json()["events"])

    async def _online(self) -> frozenset[str]:
        """Names of the workers of the pool that Prefect has heard of lately."""
        heard = WorkerFilter(status=WorkerFilterStatus(any_=["ONLINE"]))
        found = await all_by_offset(
            lambda offset: self._client.read_workers_for_work_pool(self._pool, heard, offset=offset, limit=PAGE)
        )
        return frozenset(one.name for one in found)

    async def _active(self) -> list[Active]:
        """Also those whose process waits to try again."""
        busy = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.PENDING, StateType.RUNNING]))
        retrying = FlowRunFilterState(name=FlowRunFilterStateName(any_=[RETRIES]))
        found = [run for state in (busy, retrying) for run in await self._all(state)]
        return [
            Active(str(run.id), str(run.labels.get(_WORKER, "")))
            for run in found
            if run.state_name != RETRIES or retries_in_process(run)
        ]

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
