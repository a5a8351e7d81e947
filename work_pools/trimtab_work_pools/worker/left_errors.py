"""Reads what a run has left on the server, where its own message does not say what happened: how its tasks failed, and
what it logged as errors, tracebacks with all that they were raised from.
"""

from __future__ import annotations

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    LogFilter,
    LogFilterFlowRunId,
    LogFilterLevel,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import LogSort, TaskRunSort

from trimtab_work_pools.diagnosis import of_log

__all__ = ["left_errors"]

_TASKS, _LOGS = 50, 100
"""The last ones."""
_ERROR = 40


async def left_errors(client: PrefectClient, run: FlowRun) -> tuple[str, ...]:
    """Texts for `Ended.errors`, the most telling first; none if the state's message says enough, or all is well."""
    state = run.state
    if state is None or not (state.is_failed() or state.is_crashed() or state.is_running() or state.is_pending()):
        return ()
    if of_log(state.message or "").settled:
        return ()
    return (*await _of_tasks(client, run), await _logged(client, run))


async def _of_tasks(client: PrefectClient, run: FlowRun) -> list[str]:
    ended_badly = TaskRunFilterStateType(any_=[StateType.FAILED, StateType.CRASHED])
    tasks = await client.read_task_runs(
        flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run.id])),
        task_run_filter=TaskRunFilter(state=TaskRunFilterState(type=ended_badly)),
        sort=TaskRunSort.END_TIME_DESC,
        limit=_TASKS,
    )
    return [task.state.message for task in tasks if task.state is not None and task.state.message]


async def _logged(client: PrefectClient, run: FlowRun) -> str:
    wanted = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.id]), level=LogFilterLevel(ge_=_ERROR))
    logs = await client.read_logs(wanted, limit=_LOGS, sort=LogSort.TIMESTAMP_DESC)
    return "\n".join(log.message for log in reversed(logs))
