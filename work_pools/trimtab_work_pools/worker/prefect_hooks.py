"""Everything private of Prefect that the workers rely on, in one place; a test fails when Prefect moves it."""

from __future__ import annotations

from dataclasses import dataclass

from prefect.client.schemas.objects import FlowRun
from prefect.workers.base import BaseWorker

__all__ = ["OVERRIDDEN", "USED", "Entry"]

OVERRIDDEN = (
    "_get_scheduled_flow_runs",
    "_propose_pending_state",
    "_submit_run_and_capture_errors",
)
"""Methods of BaseWorker that GpuProcessWorker replaces or wraps."""

USED = ("_submit_scheduled_flow_runs", "_runs_task_group", "_scheduled_task_scopes", "_work_queues", "_work_pool_name")
"""Names that it reads."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What `_submit_scheduled_flow_runs` reads of an entry of the server's answer."""

    flow_run: FlowRun


def missing(worker: type[BaseWorker]) -> list[str]:  # type: ignore[type-arg]
    """Names of OVERRIDDEN that Prefect's class does not have any more."""
    return [name for name in OVERRIDDEN if not hasattr(worker, name)]
