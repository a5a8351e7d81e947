"""`prefect worker start --type gpu-process`: Prefect's process worker that knows its host and picks runs by fit."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import anyio.abc
import httpx
from prefect.client.schemas.objects import FlowRun
from prefect.workers.process import (
    ProcessJobConfiguration,
    ProcessVariables,
    ProcessWorker,
    ProcessWorkerResult,
)
from pydantic import Field

from trimtab_work_pools.inventory.host import LabelError
from trimtab_work_pools.launchers.errors import LaunchError, ParentUnfit
from trimtab_work_pools.launchers.forking import ForkLauncher
from trimtab_work_pools.queue.workload import WorkloadError
from trimtab_work_pools.resources import CapacityError
from trimtab_work_pools.worker.admission import NotAdmitted, not_started
from trimtab_work_pools.worker.dispatcher import Dispatcher
from trimtab_work_pools.worker.drain import Drain
from trimtab_work_pools.worker.forked import run_forked
from trimtab_work_pools.worker.picking import GANG
from trimtab_work_pools.worker.prefect_hooks import Entry
from trimtab_work_pools.worker.resources_form import Resources
from trimtab_work_pools.worker.this_node import NodeSettings, SettingError

if TYPE_CHECKING:
    from prefect.client.schemas.responses import WorkerFlowRunResponse

__all__ = ["GpuProcessJobConfiguration", "GpuProcessVariables", "GpuProcessWorker"]


class GpuProcessJobConfiguration(ProcessJobConfiguration):
    """A process, and what it needs."""

    resources: dict[str, Any] = Field(default_factory=dict)


class GpuProcessVariables(ProcessVariables):
    """Shown as a form where a pool or a deployment is edited."""

    resources: Resources = Field(
        default_factory=Resources, title="Resources", description="What the run needs of the node that it is to run on."
    )


class GpuProcessWorker(ProcessWorker):
    """A ProcessWorker in which `Dispatcher` decides what is submitted; what Prefect does with it then is unchanged."""

    type = "gpu-process"
    job_configuration = GpuProcessJobConfiguration
    job_configuration_variables = GpuProcessVariables  # type: ignore[assignment]
    _description = (
        "Runs flows as processes on hosts with GPUs: picks the runs that fit the host best, with exact devices."
    )
    _display_name = "GPU process (Trimtab)"

    _dispatcher: Dispatcher
    _drain: Drain

    @classmethod
    def get_default_base_job_template(cls) -> dict[str, Any]:
        """Prefect's, made strict: an unknown key is refused by the server when the deployment is made."""
        template = super().get_default_base_job_template()
        template["variables"]["definitions"]["Resources"]["additionalProperties"] = False
        return template

    async def setup(self) -> None:
        try:
            NodeSettings.from_environment(os.environ)  # a wrong setting is said before anything is started
            await super().setup()
            self._dispatcher = Dispatcher(self.name, self._work_pool_name, self.client, set(self._work_queues))
            await self._dispatcher.join(self.type)
        except (SettingError, LabelError, NotAdmitted) as error:
            not_started(str(error))
            raise
        self._launcher = await self._open_launcher()
        await self._dispatcher.take_over()
        self._drain = Drain(self._dispatcher, self._logger)
        self._drain.watch_signals()
        assert self._runs_task_group is not None
        for claim in self._dispatcher.adopted():
            self._runs_task_group.start_soon(self._dispatcher.await_adopted, claim)
            self._runs_task_group.start_soon(self._dispatcher.gangs.watch_again, claim.holding.run_id)
        self._runs_task_group.start_soon(self._listen)

    async def _open_launcher(self) -> ForkLauncher | None:
        """None where runs are started as Prefect does: with TRIMTAB_LAUNCH=process, or where forking is not safe."""
        if os.environ.get("TRIMTAB_LAUNCH", "fork") != "fork":
            return None
        launcher = ForkLauncher(leave_running=True)
        try:
            return await launcher.__aenter__()
        except (ParentUnfit, OSError) as error:
            self._logger.warning("Runs are started as fresh processes, which takes longer: %s", error)
            return None

    async def teardown(self, *exc_info: Any) -> None:
        with anyio.CancelScope(shield=True):
            self._drain.stop_watching()
            with contextlib.suppress(Exception):  # the server may be the reason why it stops
                await self._dispatcher.withdraw()
            self._dispatcher.close()
        await super().teardown(*exc_info)
        if self._launcher is not None:
            with anyio.CancelScope(shield=True):
                await self._launcher.__aexit__(None, None, None)

    async def _listen(self) -> None:
        """Plans as soon as something has happened, rather than at the next poll."""
        with anyio.CancelScope() as scope:
            self._scheduled_task_scopes.add(scope)
            async with anyio.create_task_group() as listeners:
                listeners.start_soon(self._dispatcher.listen)
                listeners.start_soon(self._dispatcher.watch_usage)
                async for _ in self._dispatcher.wakes():
                    try:
                        await self.get_and_submit_flow_runs()
                    except Exception:
                        self._logger.exception("Could not plan; it is tried again at the next poll")

    async def _get_scheduled_flow_runs(self) -> list[WorkerFlowRunResponse]:
        """Only what this worker is to start now, in order of the plan."""
        if self._drain.draining or self._work_pool is None or self.work_pool.is_paused:
            return []
        room = int(self.limiter.available_tokens) if self._limiter else None
        try:
            picked = await self._dispatcher.pick(float(self._prefetch_seconds), self.work_pool.concurrency_limit, room)
        except httpx.HTTPError as error:
            # The stock worker gives up after some of these; this one holds devices, and its runs go on.
            self._logger.warning(
                "The Prefect server does not answer (%s); what runs goes on, and it is asked again", error
            )
            return []
        except (WorkloadError, CapacityError) as error:
            self._logger.error("What the workers of the pool advertise does not hold together (%s); read again", error)
            return []
        return [Entry(run) for run in picked]  # type: ignore[misc]

    async def _submit_run_and_capture_errors(
        self, flow_run: FlowRun, task_status: anyio.abc.TaskStatus[int | Exception] | None = None
    ) -> Any:
        code: int | None = None
        try:
            result = await super()._submit_run_and_capture_errors(flow_run, task_status)
            code = getattr(result, "status_code", None)
            return result
        finally:
            with anyio.CancelScope(shield=True):
                await self._dispatcher.ended(flow_run.id, code)

    async def _propose_pending_state(self, flow_run: FlowRun) -> bool:
        """The claim. One that is lost gives the devices back at once."""
        won = False
        try:
            won = await super()._propose_pending_state(flow_run)
        finally:
            if not won:
                self._dispatcher.lost(flow_run.id)
        return won

    async def run(
        self,
        flow_run: FlowRun,
        configuration: ProcessJobConfiguration,
        task_status: anyio.abc.TaskStatus[int] | None = None,
    ) -> ProcessWorkerResult:
        own = {name: value for name, value in configuration.env.items() if value is not None}
        configuration.env |= self._dispatcher.environment(flow_run.id, own)
        nodes = self._dispatcher.other_nodes(flow_run.id)
        if nodes:
            gpus = self._dispatcher.gpus(flow_run.id)
            configuration.env |= await self._dispatcher.gangs.gather(flow_run, nodes, gpus)
        if nodes or GANG in flow_run.labels:
            assert self._runs_task_group is not None
            self._runs_task_group.start_soon(self._dispatcher.gangs.watch, flow_run, len(nodes))
        status = _Started(task_status, lambda pid: self._dispatcher.started(flow_run.id, pid))
        # A command of the user's own is a process of its own; else the one that is forked has Prefect imported already.
        if self._launcher is not None and not configuration._command_configured:
            try:
                superseded = partial(self._dispatcher.stopping.superseded, str(flow_run.id))
                return await run_forked(self._launcher, flow_run, configuration, status, superseded)
            except LaunchError as refused:
                self._logger.warning("Run %s is started as a fresh process: %s", flow_run.id, refused)
        return await super().run(flow_run, configuration, status)


class _Started:
    """Passes on that the process has started, and its process id."""

    def __init__(self, inner: anyio.abc.TaskStatus[int] | None, tell: Callable[[int], None]) -> None:
        self._inner, self._tell = inner, tell

    def started(self, value: int | None = None) -> None:
        if value is not None:
            self._tell(value)
        if self._inner is not None:
            self._inner.started(value)  # type: ignore[arg-type]
