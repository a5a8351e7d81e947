"""Everything private of Prefect that the workers rely on, in one place; a test fails when Prefect moves it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import Abort
from prefect.flows import load_flow_from_flow_run
from prefect.runner._control_channel import ControlChannel
from prefect.runner._flow_run_executor import FlowRunExecutionResult, FlowRunExecutorContext
from prefect.runner._hook_runner import HookRunner
from prefect.runner._process_manager import ProcessHandle
from prefect.runner._workspace_runtime import WorkspaceSupervisorConfig, write_private_model
from prefect.runner._workspace_starter import WorkspaceResolvingEngineCommandStarter
from prefect.settings.context import get_current_settings
from prefect.states import Cancelling
from prefect.utilities.engine import propose_state
from prefect.utilities.processutils import command_from_string, get_sys_executable
from prefect.workers.base import BaseWorker
from prefect.workers.process import ProcessJobConfiguration

__all__ = [
    "OVERRIDDEN",
    "Abort",
    "ControlChannel",
    "Entry",
    "FlowRunExecutionResult",
    "FlowRunExecutorContext",
    "ProcessHandle",
    "Workspace",
    "command_line",
    "engine_environment",
    "forget_submission",
    "load_flow_from_flow_run",
    "missing",
    "propose_state",
    "run_cancellation_hooks",
    "worker_labels",
]

OVERRIDDEN = (
    "_get_scheduled_flow_runs",
    "_propose_crashed_state",
    "_propose_pending_state",
    "_submit_run",
    "_submit_run_and_capture_errors",
    "_submit_scheduled_flow_runs",
    "_give_worker_labels_to_flow_run",
)
"""Methods of BaseWorker that GpuWorker replaces or wraps."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What `_submit_scheduled_flow_runs` reads of an entry of the server's answer."""

    flow_run: FlowRun


def missing(worker: type[BaseWorker]) -> list[str]:  # type: ignore[type-arg]
    """Names of OVERRIDDEN that Prefect's class does not have any more."""
    return [name for name in OVERRIDDEN if not hasattr(worker, name)]


def forget_submission(worker: BaseWorker[Any, Any, Any], run_id: UUID) -> None:
    """Nothing of a submission that broke off is left: the run may be submitted again."""
    worker._submitting_flow_run_ids.discard(run_id)
    if worker._cancelling_observer is not None:
        worker._cancelling_observer.remove_in_flight_flow_run_id(run_id)
    worker._release_limit_slot(run_id)


def worker_labels(worker: BaseWorker) -> dict[str, str]:  # type: ignore[type-arg]
    """What `_give_worker_labels_to_flow_run` writes, to be written in one call with ours."""
    labels = {"prefect.worker.name": worker.name, "prefect.worker.type": worker.type}
    if worker._work_pool:
        pool = worker._work_pool
        labels |= {"prefect.work-pool.name": pool.name, "prefect.work-pool.id": str(pool.id)}
    return labels


def engine_environment(run_id: UUID, channel: ControlChannel | None) -> dict[str, str]:
    """What `prefect.engine` is told beside the run's own environment, as EngineCommandStarter tells it.

    Cancelling and crash hooks are the executor's. Without a control channel a run is cancelled by its signal only.
    """
    env = {name: value for name, value in _settings().items() if value is not None}
    env |= {"PREFECT__FLOW_RUN_ID": str(run_id), "PREFECT__ENABLE_CANCELLATION_AND_CRASHED_HOOKS": "false"}
    if channel is not None:
        with contextlib.suppress(RuntimeError):  # it could not open its socket
            port, token = channel.register(run_id)
            env |= {"PREFECT__CONTROL_PORT": str(port), "PREFECT__CONTROL_TOKEN": token}
    return env


async def run_cancellation_hooks(flow_run: FlowRun) -> None:
    """Those of the run's flow, as Prefect's own worker runs them."""
    hooks = HookRunner(resolve_flow=load_flow_from_flow_run)
    await hooks.run_cancellation_hooks(flow_run, Cancelling(message="Flow run was cancelled."))


def command_line(configuration: ProcessJobConfiguration) -> list[str] | None:
    """The user's own command; None if the run is to be started as Prefect does."""
    if not configuration._command_configured or configuration.command is None:
        return None
    return command_from_string(configuration.command)


class Workspace(WorkspaceResolvingEngineCommandStarter):
    """How Prefect (3.8) starts a run as a new program: one that does the pull steps, and becomes the engine.

    Used for what it prepares; the program is started by us.
    """

    def __init__(self, flow_run: FlowRun, folder: Path, configuration: ProcessJobConfiguration) -> None:
        super().__init__(
            workspace_root=folder,
            stream_output=configuration.stream_output,
            source_cwd=folder,
            environment=configuration.env,
        )
        write_private_model(
            self._config_path,
            WorkspaceSupervisorConfig(
                flow_run_id=flow_run.id, workspace_root=folder, manifest_path=self._manifest_path, command=None
            ),
        )

    @property
    def command(self) -> list[str]:
        return [get_sys_executable(), "-m", "prefect.runner._workspace_supervisor", str(self._config_path)]

    def told(self, settings: Mapping[str, str]) -> dict[str, str]:
        """Of `settings` (see `engine_environment`), what is not for the run to change."""
        return {name: value for name, value in settings.items() if name.startswith("PREFECT__")}

    def hooks(self) -> dict[str, Any]:
        """For `FlowRunExecutorContext.create_executor`: hooks run in the workspace."""
        return {"hook_runner": self.hook_runner}


def _settings() -> dict[str, str]:
    return get_current_settings().to_environment_variables(exclude_unset=True)
