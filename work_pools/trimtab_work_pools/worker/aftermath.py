"""What is done on the server when a run's process has ended badly: the diagnosis is asked for, and its step is taken.

What has to outlive the run's stretch is kept with the run, as labels: how often it was started again for what, and the
most it was seen to use.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, cast
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.exceptions import ObjectNotFound
from prefect.logging import get_logger
from prefect.states import Crashed, Scheduled
from prefect.types import KeyValueLabels
from prefect.types._datetime import DateTime, from_timestamp

from trimtab_work_pools.demand.layers import nested
from trimtab_work_pools.diagnosis import Cause, Diagnosis, Ended, Largest, Peak, Step, diagnose, lost_host
from trimtab_work_pools.ledger import Holding
from trimtab_work_pools.resources import Node
from trimtab_work_pools.runs.device_record import attempts_of, ended_labels
from trimtab_work_pools.server.demands import RETRY_ASKS, of_retry
from trimtab_work_pools.worker.control_plane import ControlPlane, retries_in_process
from trimtab_work_pools.worker.endings import completed_after_all
from trimtab_work_pools.worker.learning import PEAK_GPU_MEMORY, PEAK_MEMORY
from trimtab_work_pools.worker.left_errors import left_errors
from trimtab_work_pools.worker.picking import GANG

__all__ = ["Aftermath", "largest_of", "peak_labels"]

_AGAIN_S = 5.0
"""Until a run starts again."""
_ASIDE_S = 600.0
"""A run whose demand is being changed is due only then: nobody picks it with the old one."""
_TRIED = "trimtab.started-again."


class Aftermath:
    """One work pool on one server."""

    def __init__(self, client: PrefectClient, control: ControlPlane) -> None:
        self._client, self._control = client, control
        self._logger = get_logger("trimtab.worker")

    async def ended(
        self,
        holding: Holding,
        exit_code: int | None,
        peak: Peak,
        oom_kills: int,
        lost_devices: tuple[str, ...],
        largest: Largest,
        in_container: bool = False,
    ) -> None:
        """Takes the step that the diagnosis of the run says; what it was seen to use is kept with it."""
        run_id = UUID(holding.run_id)
        try:
            run = await self._client.read_flow_run(run_id)
        except ObjectNotFound:
            return
        if await completed_after_all(self._client, run):
            return
        if run.state and run.state.is_cancelling():  # whoever was to say so has not
            await self._control.cancelled(run_id)
            return
        before = {cause: _count(run.labels, cause) for cause in Cause}
        ended = Ended(
            exit_code,
            run.state.name or "" if run.state else "",
            run.state.message or "" if run.state else "",
            run.run_count > 0,
            holding.demand,
            holding.placement,
            peak,
            oom_kills,
            lost_devices,
            before,
            in_container,
            await left_errors(self._client, run),
        )
        diagnosis = diagnose(ended, largest)
        if diagnosis is None:
            asked = holding.demand.memory_mib or holding.demand.gpu_memory_mib
            if asked and (labels := peak_labels(peak)):
                await self._client.update_flow_run_labels(run_id, labels)
            return
        if run.state and (run.state.is_scheduled() or run.state.is_cancelling()):
            return
        if GANG in run.labels:  # rank 0 says what is next
            await self._control.crashed(run_id, diagnosis.text)
            return
        await self._take(run, diagnosis, peak_labels(peak), before[diagnosis.cause] + 1)

    async def host_lost(self, run_id: UUID) -> None:
        """A run that no worker holds any more starts again elsewhere; a member of a gang is Crashed: rank 0 sees it.
        One that was deleted is nobody's.
        """
        try:
            run = await self._client.read_flow_run(run_id)
        except ObjectNotFound:
            return
        active = run.state is not None and run.state.type in (StateType.PENDING, StateType.RUNNING)
        if not active and not retries_in_process(run):
            return
        before = {cause: _count(run.labels, cause) for cause in Cause}
        diagnosis = lost_host(before)
        await self._note_end(run)
        if GANG in run.labels or diagnosis.step is Step.STOP:
            state: Any = Crashed(name=diagnosis.cause.value, message=diagnosis.text)
            await self._client.set_flow_run_state(run.id, state, force=True)
            return
        await self._take(run, diagnosis, {}, before[diagnosis.cause] + 1)

    async def _note_end(self, run: FlowRun) -> None:
        """Its host cannot say any more when its attempt has ended: now, as far as is known."""
        labels: KeyValueLabels = {}
        for attempt in attempts_of(run.labels):
            if attempt.to_s is None:
                labels |= ended_labels(attempt.number, self._control.now_s())
        if labels:
            await self._client.update_flow_run_labels(run.id, labels)

    async def _take(self, run: FlowRun, diagnosis: Diagnosis, labels: KeyValueLabels, times: int) -> None:
        self._logger.warning("Run %s: %s", run.id, diagnosis.text)
        assert run.state is not None
        name = diagnosis.cause.value
        told = f"{diagnosis.text} {run.state.message or ''}".strip()
        if diagnosis.step is Step.STOP:
            silent = run.state.type in (StateType.PENDING, StateType.RUNNING)  # its end could not be told
            if silent or run.state.is_final():  # else somebody else has to say how it ended
                kind = StateType.CRASHED if silent else run.state.type
                state: Any = State(type=kind, name=name, message=told)
                await self._client.set_flow_run_state(run.id, state, force=True)
            if labels:
                await self._client.update_flow_run_labels(run.id, labels)
            return
        noted = {**labels, f"{_TRIED}{name}": times}
        if diagnosis.wishes:
            noted[RETRY_ASKS] = json.dumps({**of_retry(run.labels), **dict(diagnosis.wishes)})
        await self._client.update_flow_run_labels(run.id, noted)
        if diagnosis.wishes:  # the server lets job variables be changed only while a run is scheduled
            await self._schedule(run, name, told, _ASIDE_S)
            own = nested(run.job_variables or {})
            said = own.get("resources")
            resources = {**(said if isinstance(said, Mapping) else {}), **dict(diagnosis.wishes)}
            await self._client.update_flow_run(run.id, job_variables={**own, "resources": resources})
        await self._schedule(run, name, told, _AGAIN_S)

    async def _schedule(self, run: FlowRun, name: str, told: str, in_s: float) -> None:
        due = cast(DateTime, from_timestamp(self._control.now_s() + in_s, tz="UTC"))
        state: Any = Scheduled(name=name, message=told, scheduled_time=due)
        await self._client.set_flow_run_state(run.id, state, force=True)


def largest_of(nodes: Iterable[Node]) -> Largest:
    """The most memory that any node has, and that any GPU has."""
    known = list(nodes)
    gpus = [gpu.memory_total_mib for node in known for gpu in node.gpus]
    return Largest(max((node.memory_total_mib for node in known), default=0), max(gpus, default=0))


def peak_labels(peak: Peak) -> KeyValueLabels:
    """As they are kept with a run."""
    named = {PEAK_MEMORY: peak.memory_mib, PEAK_GPU_MEMORY: peak.gpu_memory_mib}
    return {name: value for name, value in named.items() if value}


def _count(labels: Mapping[str, Any], cause: Cause) -> int:
    value = labels.get(f"{_TRIED}{cause.value}", 0)
    return value if isinstance(value, int) else 0
