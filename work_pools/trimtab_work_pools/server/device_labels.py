"""Writes down with each run which devices it was given: in one call with the labels that Prefect's worker gives it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from uuid import UUID

import httpx
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectNotFound
from prefect.logging import get_logger
from prefect.types import KeyValueLabels

from trimtab_work_pools.runs.device_record import attempts_of, began_labels, ended_labels

__all__ = ["DeviceLabels"]


class DeviceLabels:
    """Of the runs of one worker. A label that cannot be written is said in the worker's log, and costs no run."""

    def __init__(self, client: PrefectClient, now_s: Callable[[], float]) -> None:
        self._client, self._now_s = client, now_s
        self._number: dict[UUID, int] = {}

    def seen(self, run: FlowRun) -> None:
        """The run as it is before it starts here: how many attempts it has had."""
        earlier = attempts_of(run.labels)
        self._number[run.id] = 1 + max((one.number for one in earlier), default=0)

    async def began(self, run_id: UUID, node: str, gpus: Iterable[str], others: Mapping[str, str]) -> None:
        """`gpus` are UUIDs; `others` are labels that are to be written too."""
        number = self._number.setdefault(run_id, 1)
        await self._write(run_id, {**others, **began_labels(number, node, gpus, self._now_s())})

    async def ended(self, run_id: UUID) -> None:
        """Of a run of this worker, or of an earlier one on this host."""
        number = self._number.pop(run_id, None)
        if number is None:
            try:
                open_ones = [
                    one for one in attempts_of((await self._client.read_flow_run(run_id)).labels) if not one.to_s
                ]
            except (ObjectNotFound, httpx.HTTPError):
                return
            number = open_ones[-1].number if open_ones else None
        if number is not None:
            await self._write(run_id, {**ended_labels(number, self._now_s())})

    async def _write(self, run_id: UUID, labels: KeyValueLabels) -> None:
        try:
            await self._client.update_flow_run_labels(run_id, labels)
        except (ObjectNotFound, httpx.HTTPError) as error:
            get_logger("trimtab.worker").warning("Run %s: its devices are not written down: %s", run_id, error)
