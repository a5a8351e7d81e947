"""Train a challenger, compare it with the champion, and promote it or keep what is in service."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from prefect import flow, get_run_logger
from prefect.client.orchestration import get_client
from prefect.events import emit_event
from pydantic import BaseModel

from trimtab_flows import runtime, tracking
from trimtab_flows.automations import MODEL_TRAINED, resource_of
from trimtab_flows.evaluate import Evaluation, evaluate
from trimtab_flows.loading import load_recipe
from trimtab_flows.promote import promote
from trimtab_flows.retrain_ended import end_id, tell_of_failure
from trimtab_flows.train import train

__all__ = ["Retrained", "retrain"]


class Retrained(BaseModel, frozen=True):
    """The outcome of a retraining: ``promoted`` or ``kept`` (the champion stays), and why."""

    model: str
    version: int
    outcome: str
    reason: str


@flow(name="retrain", flow_run_name="retrain on {windows}", persist_result=True, on_failure=[tell_of_failure])
def retrain(
    recipe: str,
    windows: str,
    decision: str = "by hand",
    parameters: dict[str, Any] | None = None,
    seed: int = 0,
) -> Retrained:
    """Train on ``windows``, evaluate on their holdout, promote if the gate says so.

    Args:
        recipe: ``module:attribute``.
        windows: ingested windows, for example ``2013-01..2013-06``.
        decision: id of the decision that asked for this; it is tagged on the version.
        parameters: given to the recipe's ``train`` over its own defaults.
        seed: of everything random.
    """
    name = load_recipe(recipe).recipe.name
    trained = train(recipe, windows, parameters, seed)
    api = tracking.client()
    version = str(trained.version)
    evaluation = evaluate(recipe, trained.version)
    outcome = "kept"
    if evaluation.promote:
        promote(recipe, trained.version)
        outcome = "promoted"
    api.set_model_version_tag(name, version, "trimtab.outcome", outcome)
    # Last: whoever waits for this decision looks for it, and then finds everything else in place.
    api.set_model_version_tag(name, version, "trimtab.decision", decision)
    emit_event(
        MODEL_TRAINED,
        resource=resource_of(name),
        payload={
            "version": trained.version,
            "outcome": outcome,
            "decision": decision,
            "windows": windows,
            "reason": evaluation.reason,
            "champion": evaluation.champion,
            "figures": figures_of(evaluation),
        },
        id=_end_id(),
    )
    get_run_logger().info("%s version %s %s: %s", name, version, outcome, evaluation.reason)
    return Retrained(model=name, version=trained.version, outcome=outcome, reason=evaluation.reason)


def _end_id() -> UUID | None:
    identity = runtime.flow_run_id()
    if identity is None:
        return None
    with get_client(sync_client=True) as client:
        return end_id(client, client.read_flow_run(UUID(identity)))


def figures_of(evaluation: Evaluation) -> list[str]:
    """Each metric of the challenger beside the champion's, in words for people."""
    found = []
    for name, each in evaluation.metrics.items():
        before, now, difference = each["champion"], each["challenger"], each["difference"]
        if now is None:
            continue
        beside = "" if before is None else f", the champion {before:.4f}"
        better = "" if difference is None else f" ({difference:+.4f})"
        found.append(f"{name} {now:.4f}{beside}{better}")
    return found
