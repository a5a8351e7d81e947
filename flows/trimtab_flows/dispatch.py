"""From an announced decision to its retrain run: with what the policy asks of the node, in time, and after approval.

An automation can start a deployment with templated parameters, but its job variables are fixed: Prefect does not
template them. So the automation starts this flow, which makes the run. One run comes of a decision, however often it is
announced, one question is asked about it, and decisions that ask for the same work at the same time have one run.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from prefect import flow, get_run_logger
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.exceptions import ObjectNotFound
from prefect.flow_runs import suspend_flow_run
from prefect.input import RunInput
from prefect.runtime import flow_run
from prefect.states import Scheduled
from pydantic import Field

from trimtab_flows.retrain_runs import is_dispatched, one_at_a_time, open_questions, run_key, runs_of, runs_since

__all__ = ["Approval", "NoDeployment", "dispatch"]

#: Seconds a person has to answer; afterwards the run fails, and with it the decision.
ANSWER_WITHIN_S = 7 * 86400


#: By how much the clocks of hosts may differ.
_CLOCKS_DIFFER = timedelta(seconds=60)


class NoDeployment(LookupError):
    """The deployment that retrains is not there."""


class Approval(RunInput):
    """A person's answer to a decision to retrain."""

    approve: bool = Field(description="Retrain, or leave the champion as it is")
    by: str = Field(default="", description="Who says so")


@flow(name="dispatch", flow_run_name="dispatch {model}: {windows}", persist_result=True)
def dispatch(
    recipe: str,
    windows: str,
    decision: str,
    model: str,
    resources: dict[str, Any] | None = None,
    at: str | None = None,
    needs_approval: bool = False,
    attempt: int = 1,
) -> str | None:
    """Make the retrain run of a decision, once.

    Args:
        recipe, windows, decision: for the retrain flow.
        model: its deployment is ``retrain/MODEL``.
        resources: what the policy asks for, laid over what the deployment asks for: priority, deadline, labels.
        at: when it shall start, with a time zone; at once when not given.
        needs_approval: wait for a person first: the run is suspended, takes no worker's slot, and asks in the UI.
        attempt: counts announcements whose run was lost.

    Returns:
        Id of the retrain run; None when a person said no, or another dispatch run is at it.
    """
    logger = get_run_logger()
    with get_client(sync_client=True) as client:
        first = _dispatched_before(client, model, decision, attempt)
        if first is not None:
            logger.info("%s is at this decision already", first.name)
            return None
        made = next((run for run in runs_of(decision) if run.idempotency_key == run_key(decision, attempt)), None)
    if made is not None:
        logger.info("its run was made before: %s (%s)", made.name, made.id)
        return str(made.id)
    if needs_approval and not _approved(model, decision):
        return None
    with one_at_a_time(model), get_client(sync_client=True) as client:
        same = _same_work(client, model, windows, _moment(at))
        if same is not None and same.parameters.get("decision") != decision:
            _join(model, decision, same)
            return str(same.id)
        run = _make(client, model, recipe, windows, decision, attempt, resources or {}, at)
    logger.info("%s (%s) is scheduled%s", run.name, run.id, f" for {at}" if at else "")
    identity: UUID = run.id
    return str(identity)


def _approved(model: str, decision: str) -> bool:
    """Whether a person agrees; the run is suspended until one has said so. A no is kept, and not asked for again."""
    # MLflow is imported where a person has a say, or two decisions meet: it costs a second, and most runs need none.
    from trimtab_flows.answers import Answer, answer_of, keep_answer

    logger = get_run_logger()
    known = answer_of(model, decision)
    if known is not None:
        logger.info("%s is not retrained: %s", model, known)
        return False
    answer = suspend_flow_run(wait_for_input=Approval, timeout=ANSWER_WITHIN_S, key="approval")
    if answer is None or answer.approve:
        logger.info("approved by %s", (answer and answer.by) or "a person")
        return True
    logger.info("%s is not retrained: %s said no", model, answer.by or "a person")
    if not keep_answer(model, decision, Answer("refused", answer.by)):
        logger.warning("MLflow has no decision %s of %s: that a person said no is kept here alone", decision, model)
    return False


def _dispatched_before(client: SyncPrefectClient, model: str, decision: str, attempt: int) -> FlowRun | None:
    """Another run that dispatches the same announcement, made before this one and not at its end."""
    for run in open_questions(client, model):
        if str(run.id) == flow_run.id:
            return None
        if (run.parameters.get("decision"), run.parameters.get("attempt", 1)) == (decision, attempt):
            return run
    return None


def _same_work(client: SyncPrefectClient, model: str, windows: str, moment: datetime) -> FlowRun | None:
    """A run that trains on the same windows no later than wanted: not at its end, or made after this was announced."""
    announced = (client.read_flow_run(UUID(flow_run.id)).created if flow_run.id else None) or datetime.now(UTC)
    for run in runs_since(client, model, announced):
        # One that a person made is of no decision.
        if run.parameters.get("windows") != windows or not is_dispatched(run):
            continue
        starts = run.next_scheduled_start_time if run.state_type == StateType.SCHEDULED else None
        if run.state_type == StateType.COMPLETED:
            if run.created is not None and run.created >= announced:
                return run
        elif not (run.state and run.state.is_final()) and (starts is None or starts <= moment + _CLOCKS_DIFFER):
            return run
    return None


def _join(model: str, decision: str, run: FlowRun) -> None:
    from trimtab_flows.answers import Answer, keep_answer

    keep_answer(model, decision, Answer("joined", str(run.parameters.get("decision"))))
    get_run_logger().info("%s (%s) trains on the same windows: this decision has its outcome too", run.name, run.id)


def _make(
    client: SyncPrefectClient,
    model: str,
    recipe: str,
    windows: str,
    decision: str,
    attempt: int,
    resources: dict[str, Any],
    at: str | None,
) -> FlowRun:
    name = f"retrain/{model}"
    try:
        deployment = client.read_deployment_by_name(name)
    except ObjectNotFound:
        raise NoDeployment(f"there is no deployment {name}; `prefect deploy --all` makes it") from None
    asked = dict((deployment.job_variables or {}).get("resources") or {})
    return client.create_flow_run_from_deployment(
        deployment.id,
        parameters={"recipe": recipe, "windows": windows, "decision": decision},
        state=Scheduled(scheduled_time=_moment(at)),
        idempotency_key=run_key(decision, attempt),
        job_variables={"resources": merge(asked, resources)},
        tags=["trimtab", model],
    )


def merge(asked: dict[str, Any], policy: dict[str, Any]) -> dict[str, Any]:
    """A deployment's resources with the policy's over them; labels are joined, and the policy's win."""
    labels = {**(asked.get("labels") or {}), **(policy.get("labels") or {})}
    return {**asked, **policy, **({"labels": labels} if labels else {})}


def _moment(at: str | None) -> datetime:
    now = datetime.now(UTC)
    if not at:
        return now
    moment = datetime.fromisoformat(at)
    if moment.tzinfo is None:
        raise ValueError(f'at is {at!r}; it must name its time zone, like "2026-11-27T18:00:00+00:00"')
    return max(moment, now)
