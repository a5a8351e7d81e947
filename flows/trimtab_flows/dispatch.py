"""From an announced decision to its retrain run: with what the policy asks of the node, in time, and after approval.

An automation can start a deployment with templated parameters, but its job variables are fixed: Prefect does not
template them. So the automation starts this flow, which makes the run. One run comes of a decision, however often it is
announced.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from prefect import flow, get_run_logger
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound
from prefect.flow_runs import suspend_flow_run
from prefect.input import RunInput
from prefect.states import Scheduled
from pydantic import Field

__all__ = ["Approval", "NoDeployment", "dispatch"]

#: Seconds a person has to answer; afterwards the run fails, and with it the decision.
ANSWER_WITHIN_S = 7 * 86400


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
        Id of the retrain run; None when a person said no.
    """
    logger = get_run_logger()
    if needs_approval:
        answer = suspend_flow_run(wait_for_input=Approval, timeout=ANSWER_WITHIN_S, key="approval")
        if not answer.approve:
            logger.info("%s is not retrained: %s said no", model, answer.by or "a person")
            return None
        logger.info("approved by %s", answer.by or "a person")
    name = f"retrain/{model}"
    with get_client(sync_client=True) as client:
        try:
            deployment = client.read_deployment_by_name(name)
        except ObjectNotFound:
            raise NoDeployment(f"there is no deployment {name}; `prefect deploy --all` makes it") from None
        asked = dict((deployment.job_variables or {}).get("resources") or {})
        run = client.create_flow_run_from_deployment(
            deployment.id,
            parameters={"recipe": recipe, "windows": windows, "decision": decision},
            state=Scheduled(scheduled_time=_moment(at)),
            idempotency_key=f"trimtab/{decision}/{attempt}",
            job_variables={"resources": merge(asked, resources or {})},
            tags=["trimtab", model],
        )
    logger.info("%s (%s) is scheduled%s", run.name, run.id, f" for {at}" if at else "")
    identity: UUID = run.id
    return str(identity)


def merge(asked: dict[str, Any], policy: dict[str, Any]) -> dict[str, Any]:
    """A deployment's resources with the policy's over them; labels are joined, and the policy's win."""
    labels = {**(asked.get("labels") or {}), **(policy.get("labels") or {})}
    return {**asked, **policy, **({"labels": labels} if labels else {})}


def _moment(at: str | None) -> datetime:
    now = datetime.now(UTC)
    return max(datetime.fromisoformat(at), now) if at else now
