"""What to do with runs that a stopped stack left behind: nothing lost, nothing left Running for ever.

Asked between the start of the server and the start of the worker, when no process of the stack executes anything: every
run that still says Running, Pending or Cancelling has no process. A run that a deployment made goes back to the queue;
a run inside another one is Crashed, and its parent makes it anew or takes its finished result.
"""

from __future__ import annotations

from dataclasses import dataclass

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.states import Cancelled, Crashed, Scheduled

__all__ = ["Recovered", "next_state", "recover"]

_INTERRUPTED = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]


@dataclass(frozen=True)
class Recovered:
    """Names of the runs that were put back, and how many inner runs were closed."""

    rescheduled: tuple[str, ...]
    closed: int


def next_state(run: FlowRun) -> State:
    """What becomes of a run whose process is gone."""
    message = "The stack stopped while this run was in progress."
    if run.state_type == StateType.CANCELLING:
        return Cancelled(message=message)
    if run.parent_task_run_id is not None or run.deployment_id is None:
        return Crashed(message=message)
    return Scheduled(name="AwaitingRetry", message=f"{message} It goes on from the last finished stage.")


def recover(client: SyncPrefectClient) -> Recovered:
    """Give every interrupted run its next state."""
    interrupted = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=_INTERRUPTED)))
    rescheduled, closed = [], 0
    while runs := client.read_flow_runs(flow_run_filter=interrupted, limit=200):
        for run in runs:
            state = next_state(run)
            client.set_flow_run_state(run.id, state, force=True)
            if state.is_scheduled():
                rescheduled.append(run.name)
            else:
                closed += 1
    return Recovered(tuple(rescheduled), closed)
