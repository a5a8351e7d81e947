"""From evidence to a decision on record: in MLflow, as an artifact with pictures, and as an event. One code for all."""

from __future__ import annotations

import json

from mlflow.entities import RunTag
from prefect.artifacts import create_markdown_artifact
from prefect.events import emit_event

from trimtab_flows import tracking
from trimtab_flows.automations import DECISION_MADE, resource_of
from trimtab_flows.drift.charts import evidence_markdown, evidence_svg
from trimtab_flows.drift.decision import Decision, Evidence, Policy, decide
from trimtab_flows.history import monitored_windows
from trimtab_flows.recipe import Recipe
from trimtab_flows.windows import Window

__all__ = ["conclude", "emit_decision", "previous_decision"]


def previous_decision(recipe: Recipe, window: Window) -> Decision | None:
    """The decision about the window before, from which an alarm goes on."""
    earlier = [run for label, run in monitored_windows(recipe.name).items() if Window.parse(label).start < window.start]
    if not earlier:
        return None
    return Decision.from_json(json.dumps(tracking.read_json(earlier[-1].info.run_id, "decision.json")))


def conclude(run_id: str, recipe: Recipe, evidence: Evidence, policy: Policy) -> Decision:
    """Decide, and log the decision with all it was made from: ``decide`` of the files gives it again."""
    window = Window.parse(evidence.window)
    previous = previous_decision(recipe, window)
    decision = decide(evidence, previous, policy)
    api = tracking.client()
    files = {"evidence": evidence, "policy": policy, "decision": decision}
    for name, value in {**files, **({"previous": previous} if previous else {})}.items():
        api.log_dict(run_id, json.loads(value.to_json()), f"{name}.json")  # type: ignore[attr-defined]
    api.log_text(run_id, evidence_svg(evidence, decision), "decision.svg")
    tags = {
        "trimtab.verdict": decision.verdict,
        "trimtab.reasons": "\n".join(decision.reasons),
        "trimtab.retrain_on": Window(Window.parse(recipe.start).start, window.end).label,
        "trimtab.as_of": evidence.as_of or "",
        "trimtab.policy": policy.digest,
        "trimtab.at": decision.at or "",
        "trimtab.resources": json.dumps(decision.resources),
        "trimtab.needs_approval": "yes" if decision.needs_approval else "no",
    }
    api.log_batch(run_id, tags=[RunTag(tag, text) for tag, text in tags.items()])
    said = decision.said
    create_markdown_artifact(
        markdown=f"# {said}: {recipe.name} after {window}\n\n{evidence_markdown(evidence, decision)}",
        key=f"decision-{recipe.name}-{window}".replace("_", "-").lower(),
        description=f"{said}: {decision.reasons[0] if decision.reasons else ''}",
    )
    return decision


def emit_decision(recipe: Recipe, key: str, run_id: str, decision: Decision) -> None:
    """Tell of a decision, whatever it is."""
    emit_event(
        DECISION_MADE,
        resource={**resource_of(recipe.name), "trimtab.verdict": decision.verdict},
        related=[{"prefect.resource.id": f"mlflow.run.{run_id}", "prefect.resource.role": "run"}],
        payload={"decision": key, **json.loads(decision.to_json())},
    )
