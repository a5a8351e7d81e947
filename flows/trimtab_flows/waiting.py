"""Decide runs that wait for their turn while another one begins: it looks after they were to look, and sees it all."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.responses import SetStateStatus
from prefect.client.schemas.sorting import FlowRunSort
from prefect.states import Cancelled

from trimtab_blocks.paging import PAGE, by_offset

__all__ = ["take_over"]


def take_over(run_id: str | None, now: datetime | None = None) -> list[FlowRun]:
    """Cancel the runs of the same deployment that were to begin by now and would ask the same; which they were.

    Runs that bring an order, or ask with another policy or of another time, are left: they have something to say. So
    are those that are for later: what they are to see may not have come yet.

    Args:
        run_id: of the run that decides; None where it is no run of a deployment: then none is taken over.
        now: the moment up to which it sees all.
    """
    if run_id is None:
        return []
    moment = now or datetime.now(UTC)
    with get_client(sync_client=True) as client:
        ours = client.read_flow_run(UUID(run_id))
        if ours.deployment_id is None:
            return []
        deployment = DeploymentFilter(id=DeploymentFilterId(any_=[ours.deployment_id]))
        scheduled = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED]))
        # All of them, before any is cancelled and so leaves the list.
        waiting = list(
            by_offset(
                lambda offset: client.read_flow_runs(
                    deployment_filter=deployment,
                    flow_run_filter=FlowRunFilter(state=scheduled),
                    sort=FlowRunSort.ID_DESC,
                    limit=PAGE,
                    offset=offset,
                )
            )
        )
        same = [
            run
            for run in waiting
            if run.id != ours.id
            and run.expected_start_time is not None
            and run.expected_start_time <= moment
            and _asked(run) == _asked(ours)
            and not run.parameters.get("order")
        ]
        why: State[Any] = Cancelled(message=f"{ours.name} decides on what this was to look at")
        return [run for run in same if client.set_flow_run_state(run.id, why).status == SetStateStatus.ACCEPT]


def _asked(run: FlowRun) -> dict[str, Any]:
    """What a run asks, apart from who asks; a parameter that is left out is None."""
    without = ("because", "order")
    return {name: value for name, value in run.parameters.items() if name not in without and value is not None}
