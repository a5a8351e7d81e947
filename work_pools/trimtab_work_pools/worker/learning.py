"""Reads what earlier runs of a deployment were seen to use, for the suggestion beside a run that waits."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort

from trimtab_work_pools.diagnosis import Peak
from trimtab_work_pools.learnt import suggestion
from trimtab_work_pools.resources import Demand

__all__ = ["PEAK_GPU_MEMORY", "PEAK_MEMORY", "Learning"]

PEAK_MEMORY, PEAK_GPU_MEMORY = "trimtab.peak.memory_mib", "trimtab.peak.gpu_memory_mib"
"""Labels of a run, in MiB."""

_RUNS = 10
_READ_AGAIN_S = 60.0


class Learning:
    """The peaks of each deployment's last ten runs, read once a minute at most."""

    def __init__(self, client: PrefectClient) -> None:
        self._client = client
        self._known: dict[UUID, tuple[float, list[Peak]]] = {}

    async def suggestion(self, run: FlowRun, demand: Demand) -> str:
        """What would do for a run that asks for far more than those before it used; else ""."""
        if run.deployment_id is None or not (demand.memory_mib or demand.gpu_memory_mib):
            return ""
        read_s, peaks = self._known.get(run.deployment_id, (0.0, []))
        if time.monotonic() - read_s > _READ_AGAIN_S or not read_s:
            peaks = await self._read(run.deployment_id)
            self._known[run.deployment_id] = (time.monotonic(), peaks)
        return suggestion(demand, peaks)

    async def _read(self, deployment_id: UUID) -> list[Peak]:
        completed = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.COMPLETED]))
        runs = await self._client.read_flow_runs(
            flow_run_filter=FlowRunFilter(state=completed),
            deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[deployment_id])),
            sort=FlowRunSort.END_TIME_DESC,
            limit=_RUNS,
        )
        return [Peak(_mib(run.labels, PEAK_MEMORY), _mib(run.labels, PEAK_GPU_MEMORY)) for run in runs]


def _mib(labels: Mapping[str, Any], name: str) -> int | None:
    value = labels.get(name)
    return value if isinstance(value, int) else None
