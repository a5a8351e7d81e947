"""Every end of a retrain run is one event: ``trimtab.model.trained`` by the run itself, or ``trimtab.retrain.failed``.

A run that never started, was killed, or was cancelled while it waited can say nothing, and one that failed may be put
back in the queue by its worker a moment later. So ends are told by a run of their own, which an automation starts some
seconds after the state of a retrain run changed to an end (prefect.yaml), and which looks at what the run is by then.
Only a run that has no such deployment, or none at all, tells of its failure itself.

All events about one end have one id, so that it is told once. An automation may miss the news (a busy SQLite database
loses some): each such run looks at those that ended lately, too.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, Literal
from uuid import NAMESPACE_URL, UUID, uuid5

from prefect import flow, get_run_logger
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.events import emit_event
from prefect.exceptions import ObjectNotFound
from prefect.flows import Flow

from trimtab_blocks.paging import PAGE, by_offset
from trimtab_flows.automations import RETRAIN_FAILED, resource_of
from trimtab_flows.loading import RecipeError, load_recipe

__all__ = ["end_id", "retrain_ended", "tell_of_failure"]

#: Name of the flow, and of its deployment before the slash.
NAME = "retrain-ended"

_FLOW_RUN = "prefect.flow-run."

#: For so long an end that was not told is looked for; and after so long its worker has not put it back in the queue.
_LATELY, _SETTLED = timedelta(days=2), timedelta(seconds=60)

_BADLY = FlowRunFilterState(
    type=FlowRunFilterStateType(any_=[StateType.FAILED, StateType.CRASHED, StateType.CANCELLED])
)

#: What became of a run: nothing to tell (it goes on, or said so itself), told before, told now.
Told = Literal["nothing", "before", "now"]


def end_id(client: SyncPrefectClient, run: FlowRun) -> UUID:
    """Id of the event about the end of a run: the one it is at, or the next. A run that is tried again has another end.

    A state that names the cause of an end, set after it, is no other end.
    """
    states = sorted(client.read_flow_run_states(run.id), key=lambda state: state.timestamp)
    final = [state.is_final() for state in states]
    ends = sum(now and not before for before, now in pairwise([False, *final]))
    number = ends if final and final[-1] else ends + 1
    return uuid5(NAMESPACE_URL, f"trimtab.retrain.ended/{run.id}/{number}")


@flow(name=NAME, flow_run_name=f"{NAME} {{run}}", retries=5, retry_delay_seconds=10)
def retrain_ended(run: str) -> Told:
    """Tell of the end of a retrain run, if it ended without a verdict of the gate; and of others that nobody told of.

    Args:
        run: id of the flow run, or the resource that Prefect's events name it by (``prefect.flow-run.ID``).
    """
    with get_client(sync_client=True) as client:
        try:
            ended = client.read_flow_run(UUID(run.removeprefix(_FLOW_RUN)))
        except ObjectNotFound:
            get_run_logger().info("run %s was deleted", run)
            return "nothing"
        told = _tell(client, ended)
        get_run_logger().info("%s is %s; to tell: %s", ended.name, ended.state_name, told)
        for other in _ended_lately(client, ended):
            if _tell(client, other) == "now":
                get_run_logger().warning("the end of %s had not been told", other.name)
    return told


def tell_of_failure(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """A hook of the retrain flow: tells of a failure at once, where nobody else will."""
    with get_client(sync_client=True) as client:
        ended = client.read_flow_run(flow_run.id)
        if not _is_watched(client, ended):
            _tell(client, ended)


def _ended_lately(client: SyncPrefectClient, run: FlowRun) -> list[FlowRun]:
    """Other retrain runs of the same deployment that ended badly in the last days, and not just now."""
    if run.deployment_id is None:
        return []
    now = datetime.now(UTC)
    deployment = DeploymentFilter(id=DeploymentFilterId(any_=[run.deployment_id]))
    since = FlowRunFilterExpectedStartTime.model_validate({"after_": now - _LATELY})
    wanted = FlowRunFilter(state=_BADLY, expected_start_time=since)
    found = by_offset(
        lambda offset: client.read_flow_runs(
            deployment_filter=deployment, flow_run_filter=wanted, sort=FlowRunSort.ID_DESC, limit=PAGE, offset=offset
        )
    )
    return [
        other
        for other in found
        if other.id != run.id and other.state is not None and now - _LATELY < other.state.timestamp < now - _SETTLED
    ]


def _is_watched(client: SyncPrefectClient, run: FlowRun) -> bool:
    model = _deployed_as(client, run)
    if model is None:
        return False
    try:
        client.read_deployment_by_name(f"{NAME}/{model}")
    except ObjectNotFound:
        return False
    return True


def _tell(client: SyncPrefectClient, run: FlowRun) -> Told:
    state, given = run.state, run.parameters
    if state is None or not state.is_final() or state.is_completed():
        return "nothing"
    event = end_id(client, run)
    if _is_told(client, event):
        return "before"
    emit_event(
        RETRAIN_FAILED,
        resource=_resource(client, run),
        payload={
            "outcome": state.type.value.capitalize(),
            "decision": given.get("decision"),
            "windows": given.get("windows"),
            "reason": f"{run.name} {str(state.name).lower()}: {state.message or 'nothing was said of why'}",
            "flow_run": str(run.id),
        },
        id=event,
    )
    return "now"


def _is_told(client: SyncPrefectClient, event: UUID) -> bool:
    found = client.request("POST", "/events/filter", json={"filter": {"id": {"id": [str(event)]}}, "limit": 1})
    return bool(found.json()["events"])


def _resource(client: SyncPrefectClient, run: FlowRun) -> dict[str, str]:
    """The model; its recipe may be what is broken, so its deployment's name comes first."""
    model = _deployed_as(client, run)
    if model is not None:
        return resource_of(model)
    reference = str(run.parameters.get("recipe"))
    try:
        return resource_of(load_recipe(reference).recipe.name)
    except RecipeError:
        return {"prefect.resource.id": f"trimtab.recipe.{reference}", "prefect.resource.name": reference}


def _deployed_as(client: SyncPrefectClient, run: FlowRun) -> str | None:
    if run.deployment_id is None:
        return None
    try:
        return str(client.read_deployment(run.deployment_id).name)
    except ObjectNotFound:
        return None
