"""Runs a claimed flow run in a process forked by `launchers`, under the same executor as Prefect's process worker."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import anyio
import anyio.abc
from prefect.client.schemas.objects import FlowRun
from prefect.workers.process import ProcessJobConfiguration, ProcessWorkerResult

from trimtab_work_pools.launchers.errors import LaunchError
from trimtab_work_pools.launchers.forked_run import ForkedRun
from trimtab_work_pools.launchers.forking import ForkLauncher
from trimtab_work_pools.worker.prefect_hooks import (
    ControlChannel,
    FlowRunExecutionResult,
    FlowRunExecutorContext,
    ProcessHandle,
    engine_environment,
    load_flow_from_flow_run,
)

__all__ = ["run_forked"]


class _Process:
    """A forked run as Prefect's process manager knows processes: it asks for these two."""

    def __init__(self, forked: ForkedRun, superseded: Callable[[], bool]) -> None:
        self._forked, self._superseded = forked, superseded
        self.pid = forked.pid

    @property
    def returncode(self) -> int | None:
        """0 if the run is another host's by now: else Prefect would report that one as crashed."""
        return 0 if self._superseded() and self._forked.returncode is not None else self._forked.returncode


class _Starter:
    """What Prefect's executor asks of whoever starts a run's process."""

    def __init__(
        self,
        launcher: ForkLauncher,
        env: Mapping[str, str | None],
        folder: Path,
        channel: ControlChannel | None,
        refused: list[LaunchError],
        superseded: Callable[[], bool],
    ) -> None:
        self._superseded = superseded
        self._launcher, self._env, self._folder, self._channel = launcher, env, folder, channel
        self._refused = refused

    async def start(
        self, flow_run: FlowRun, task_status: anyio.abc.TaskStatus[ProcessHandle] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        env = {**os.environ, **self._env, **engine_environment(flow_run.id, self._channel)}
        given = {name: value for name, value in env.items() if value is not None}
        try:
            forked = await self._launcher.launch(flow_run.id, given, self._folder)
        except LaunchError as error:
            self._refused.append(error)
            if self._channel is not None:
                self._channel.unregister(flow_run.id)
            raise
        task_status.started(ProcessHandle(_Process(forked, self._superseded)))  # type: ignore[arg-type]
        await forked.wait()


async def run_forked(
    launcher: ForkLauncher,
    flow_run: FlowRun,
    configuration: ProcessJobConfiguration,
    task_status: anyio.abc.TaskStatus[int],
    superseded: Callable[[], bool],
) -> ProcessWorkerResult:
    """As `ProcessWorker.run`; a run that is `superseded` is not reported as crashed when it ends.

    Raises LaunchError, before anything has run, if a fork cannot do it.
    """
    refused: list[LaunchError] = []
    folder = contextlib.nullcontext(str(configuration.working_dir)) if configuration.working_dir else None
    try:
        with folder or tempfile.TemporaryDirectory(suffix="prefect") as directory:
            return await _run(
                launcher, flow_run, configuration, Path(directory).resolve(), task_status, refused, superseded
            )
    except BaseExceptionGroup:  # Prefect's task groups wrap it
        if refused:
            raise refused[0] from None
        raise


async def _run(
    launcher: ForkLauncher,
    flow_run: FlowRun,
    configuration: ProcessJobConfiguration,
    folder: Path,
    task_status: anyio.abc.TaskStatus[int],
    refused: list[LaunchError],
    superseded: Callable[[], bool],
) -> ProcessWorkerResult:
    async with FlowRunExecutorContext() as context:
        starter = _Starter(launcher, configuration.env, folder, context.control_channel, refused, superseded)
        executor = context.create_executor(
            flow_run, starter, resolve_flow=load_flow_from_flow_run, propose_submitting=False
        )
        ended: list[FlowRunExecutionResult | None] = []

        async def execute(*, task_status: anyio.abc.TaskStatus[ProcessHandle] = anyio.TASK_STATUS_IGNORED) -> None:
            ended.append(await executor.submit(task_status=task_status))

        async with anyio.create_task_group() as group:
            handle = await group.start(execute)
            task_status.started(handle.pid)
    if not ended or ended[0] is None or ended[0].status_code is None:
        raise RuntimeError("the process of the run could not be started")
    return ProcessWorkerResult(status_code=ended[0].status_code, identifier=str(handle.pid))
