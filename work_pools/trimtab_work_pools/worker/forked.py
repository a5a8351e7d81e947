"""Runs a claimed flow run in a process of its own, under the same executor as Prefect's process worker.

Unlike Prefect's, the process does not depend on the worker: a worker that is ended by an error leaves it to the next.
Whatever ends the run ends all of its processes.
"""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.abc
from prefect.client.schemas.objects import FlowRun
from prefect.workers.process import ProcessJobConfiguration, ProcessWorkerResult

from trimtab_work_pools.host.process import find
from trimtab_work_pools.host.process_tree import ProcessTree
from trimtab_work_pools.launchers.errors import LaunchError
from trimtab_work_pools.launchers.forked_run import ForkedRun
from trimtab_work_pools.launchers.forking import ForkLauncher
from trimtab_work_pools.launchers.fresh import launch_fresh
from trimtab_work_pools.worker.prefect_hooks import (
    FlowRunExecutionResult,
    FlowRunExecutorContext,
    ProcessHandle,
    Workspace,
    command_line,
    engine_environment,
    load_flow_from_flow_run,
)

__all__ = ["RunProcess", "run_forked", "run_fresh"]

_LEFT_BEHIND_S, _WAITS_S = 5.0, 20.0
"""Between SIGTERM and SIGKILL for what a run leaves behind; and after that its end is reported all the same."""

Launch = Callable[[dict[str, str], Path], Awaitable[ForkedRun]]
"""Starts a process with this whole environment, in this folder."""


@dataclass(frozen=True)
class RunProcess:
    """What a worker knows of a run whose process is to be started.

    `superseded`: whether it is another host's by now; it is not reported as crashed then. `leave`: whether its
    processes go on if the worker is ended under it.
    """

    tree: ProcessTree
    superseded: Callable[[], bool]
    leave: Callable[[], bool]


class _Scope:
    """How Prefect's process manager ends a run: all of its processes, not only the first.

    It also ends what still runs when its own task is cancelled; after `left` it does not.
    """

    wait_after_graceful_kill = True

    def __init__(self, tree: ProcessTree) -> None:
        self._tree = tree
        self.left = False

    def is_alive(self, _pid: int) -> bool:
        return bool(self._tree.look())

    def graceful_kill(self, _pid: int) -> None:
        self._send(signal.SIGTERM)

    def hard_kill(self, _pid: int) -> None:
        self._send(signal.SIGKILL)

    def close(self) -> None:
        """Nothing is held."""

    def _send(self, number: signal.Signals) -> None:
        if self.left or not self._tree.send(number):
            raise ProcessLookupError


class _Process:
    """A run's first process as Prefect's process manager knows processes: it asks for these two."""

    def __init__(self, run: ForkedRun, superseded: Callable[[], bool]) -> None:
        self._run, self._superseded = run, superseded
        self.pid = run.pid

    @property
    def returncode(self) -> int | None:
        """0 if the run is another host's by now: else Prefect would report that one as crashed."""
        return 0 if self._superseded() and self._run.returncode is not None else self._run.returncode


class _Starter:
    """What Prefect's executor asks of whoever starts a run's process."""

    def __init__(
        self,
        launch: Launch,
        process: RunProcess,
        environment: Callable[[], Mapping[str, str | None]],
        folder: Path,
        refused: list[LaunchError],
        give_up: Callable[[], object],
    ) -> None:
        self._launch, self._process, self._environment, self._folder = launch, process, environment, folder
        self._refused, self._give_up = refused, give_up

    async def start(
        self, _flow_run: FlowRun, task_status: anyio.abc.TaskStatus[ProcessHandle] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        given = {name: value for name, value in self._environment().items() if value is not None}
        try:
            run = await self._launch(given, self._folder)
        except BaseException as error:
            if isinstance(error, LaunchError):
                self._refused.append(error)
            self._give_up()
            raise
        tree = self._process.tree
        tree.began(find(run.pid))
        scope = _Scope(tree)
        handle = _Process(run, self._process.superseded)
        task_status.started(ProcessHandle(handle, termination_scope=scope))  # type: ignore[arg-type]
        try:
            await run.wait()
            with anyio.move_on_after(_LEFT_BEHIND_S + _WAITS_S):
                await tree.end(_LEFT_BEHIND_S)
        except BaseException:  # the worker is ended under it
            scope.left = self._process.leave()
            raise


async def run_forked(
    launcher: ForkLauncher,
    flow_run: FlowRun,
    configuration: ProcessJobConfiguration,
    task_status: anyio.abc.TaskStatus[int],
    process: RunProcess,
) -> ProcessWorkerResult:
    """As `ProcessWorker.run`, in a process forked by `launcher`.

    Raises LaunchError, before anything has run, if a fork cannot do it.
    """

    async def launch(env: dict[str, str], folder: Path) -> ForkedRun:
        return await launcher.launch(flow_run.id, env, folder, group=process.tree.group)

    refused: list[LaunchError] = []
    try:
        with _folder(configuration) as folder:
            return await _run(launch, flow_run, configuration, folder, task_status, process, refused, None)
    except BaseExceptionGroup:  # Prefect's task groups wrap it
        if refused:
            raise refused[0] from None
        raise


async def run_fresh(
    flow_run: FlowRun,
    configuration: ProcessJobConfiguration,
    task_status: anyio.abc.TaskStatus[int],
    process: RunProcess,
) -> ProcessWorkerResult:
    """As `ProcessWorker.run`: a new program, the user's own command if the configuration has one."""
    own = command_line(configuration)
    output = configuration.stream_output
    with _folder(configuration) as folder:
        workspace = None if own else Workspace(flow_run, folder, configuration)
        command = own or workspace.command if workspace else own
        assert command is not None

        async def launch(env: dict[str, str], folder: Path) -> ForkedRun:
            return launch_fresh(command, env, folder, process.tree.group, output=output)

        return await _run(launch, flow_run, configuration, folder, task_status, process, [], workspace)


@contextlib.contextmanager
def _folder(configuration: ProcessJobConfiguration) -> Iterator[Path]:
    if configuration.working_dir:
        yield Path(configuration.working_dir).resolve()
    else:
        with tempfile.TemporaryDirectory(suffix="prefect") as made:
            yield Path(made).resolve()


async def _run(
    launch: Launch,
    flow_run: FlowRun,
    configuration: ProcessJobConfiguration,
    folder: Path,
    task_status: anyio.abc.TaskStatus[int],
    process: RunProcess,
    refused: list[LaunchError],
    workspace: Workspace | None,
) -> ProcessWorkerResult:
    async with FlowRunExecutorContext() as context:
        channel = context.control_channel

        def environment() -> dict[str, str | None]:
            settings = engine_environment(flow_run.id, channel)
            if workspace is not None:  # Prefect lets the run's own settings win only there
                return {**os.environ, **settings, **configuration.env, **workspace.told(settings)}
            return {**os.environ, **configuration.env, **settings}

        starter = _Starter(launch, process, environment, folder, refused, lambda: channel.unregister(flow_run.id))
        resolve = {"resolve_flow": load_flow_from_flow_run} if workspace is None else workspace.hooks()
        if workspace is not None:
            context.call_after_exit(workspace.close)
        executor = context.create_executor(flow_run, starter, propose_submitting=False, **resolve)
        ended: list[FlowRunExecutionResult | None] = []

        async def execute(*, task_status: anyio.abc.TaskStatus[ProcessHandle] = anyio.TASK_STATUS_IGNORED) -> None:
            ended.append(await executor.submit(task_status=task_status))

        async with anyio.create_task_group() as group:
            handle = await group.start(execute)
            task_status.started(handle.pid)
    if not ended or ended[0] is None or ended[0].status_code is None:
        raise RuntimeError("the process of the run could not be started")
    return ProcessWorkerResult(status_code=ended[0].status_code, identifier=str(handle.pid))
