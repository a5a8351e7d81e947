"""`prefect worker start --type gpu-process`: Prefect's process worker that knows its host and picks runs by fit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import anyio.abc
import anyio.to_thread
from prefect.client.schemas.objects import FlowRun
from prefect.workers.process import (
    ProcessJobConfiguration,
    ProcessVariables,
    ProcessWorker,
    ProcessWorkerResult,
)
from pydantic import Field

from trimtab_blocks.settings import read as read_settings
from trimtab_work_pools.launchers.errors import LaunchError, ParentUnfit
from trimtab_work_pools.launchers.forking import ForkLauncher
from trimtab_work_pools.launchers.prefect_hooks import cafile
from trimtab_work_pools.launchers.ready_tls import ReadyContexts
from trimtab_work_pools.worker.forked import RunProcess, run_forked, run_fresh
from trimtab_work_pools.worker.gpu_worker import GpuWorker
from trimtab_work_pools.worker.merged_resources import MergedResources
from trimtab_work_pools.worker.resources_form import DEVICE_IDS, DeviceIds, Resources

__all__ = ["GpuProcessJobConfiguration", "GpuProcessVariables", "GpuProcessWorker"]

_CLIENTS = 4
"""For two runs at once: Prefect's executor creates two clients in the worker for each."""


class GpuProcessJobConfiguration(MergedResources, ProcessJobConfiguration):
    """A process, and what it needs."""

    resources: dict[str, Any] = Field(default_factory=dict)
    device_ids: DeviceIds = Field(default="uuid")


class GpuProcessVariables(ProcessVariables):
    """Shown as a form where a pool or a deployment is edited."""

    resources: Resources = Field(
        default_factory=Resources, title="Resources", description="What the run needs of the node that it is to run on."
    )
    device_ids: DeviceIds = Field(default="uuid", title="Device ids", description=DEVICE_IDS)


class GpuProcessWorker(GpuWorker, ProcessWorker):
    """A ProcessWorker in which `Dispatcher` decides what is submitted; what Prefect does with it then is unchanged."""

    type = "gpu-process"
    job_configuration = GpuProcessJobConfiguration
    job_configuration_variables = GpuProcessVariables  # type: ignore[assignment]
    _description = (
        "Runs flows as processes on hosts with GPUs: picks the runs that fit the host best, with exact devices."
    )
    _display_name = "GPU process (Trimtab)"

    _launcher: ForkLauncher | None = None
    _contexts: ReadyContexts | None = None

    async def _admitted(self) -> None:
        self._launcher = await self._open_launcher()
        if self._launcher is not None:
            self._contexts = ReadyContexts(cafile(), _CLIENTS, refill=True)
            await anyio.to_thread.run_sync(self._contexts.install)

    async def _open_launcher(self) -> ForkLauncher | None:
        """None where runs are started as Prefect does: with TRIMTAB_LAUNCH=process, or where forking is not safe."""
        if read_settings().launch != "fork":
            return None
        launcher = ForkLauncher(leave_running=True)
        try:
            return await launcher.__aenter__()
        except (ParentUnfit, OSError) as error:
            self._logger.warning("Runs are started as fresh processes, which takes longer: %s", error)
            return None

    async def teardown(self, *exc_info: Any) -> None:
        if self._contexts is not None:
            self._contexts.uninstall()
        await super().teardown(*exc_info)
        if self._launcher is not None:
            with anyio.CancelScope(shield=True):
                await self._launcher.__aexit__(None, None, None)

    async def run(
        self,
        flow_run: FlowRun,
        configuration: ProcessJobConfiguration,
        task_status: anyio.abc.TaskStatus[int] | None = None,
    ) -> ProcessWorkerResult:
        await self._equip(flow_run, configuration)
        status = _Started(task_status, lambda pid: self._dispatcher.started(flow_run.id, pid))
        process = self._dispatcher.process(flow_run.id)
        run = RunProcess(
            process, lambda: self._dispatcher.stopping.superseded(str(flow_run.id)), lambda: not self._drain.forced
        )
        # A command of the user's own is a process of its own; else the one that is forked has Prefect imported already.
        if self._launcher is not None and not configuration._command_configured:
            try:
                return await run_forked(self._launcher, flow_run, configuration, status, run)
            except LaunchError as refused:
                self._logger.warning("Run %s is started as a fresh process: %s", flow_run.id, refused)
        return await run_fresh(flow_run, configuration, status, run)


class _Started:
    """Passes on that the process has started, and its process id."""

    def __init__(self, inner: anyio.abc.TaskStatus[int] | None, tell: Callable[[int], None]) -> None:
        self._inner, self._tell = inner, tell

    def started(self, value: int | None = None) -> None:
        if value is not None:
            self._tell(value)
        if self._inner is not None:
            self._inner.started(value)  # type: ignore[arg-type]
