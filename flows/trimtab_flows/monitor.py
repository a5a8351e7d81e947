"""Measure one scored window, log drift and performance to MLflow, and decide whether to retrain, with evidence."""

from __future__ import annotations

import json
from typing import Any

from mlflow.entities import Run
from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.events import emit_event
from pydantic import BaseModel

from trimtab_flows import runtime, tracking
from trimtab_flows.automations import LABELS_ARRIVED, RetrainRequested, resource_of
from trimtab_flows.conclude import conclude, emit_decision
from trimtab_flows.drift.charts import drift_markdown, drift_svg
from trimtab_flows.drift.decision import Decision, Policy, in_words
from trimtab_flows.faults import RETRIES
from trimtab_flows.gather import evidence_of, place_of
from trimtab_flows.history import MONITOR
from trimtab_flows.ingest import FEATURES
from trimtab_flows.loading import load_recipe
from trimtab_flows.measuring import Measured, figures_of, measure_window
from trimtab_flows.policies import PolicyGiven, resolve
from trimtab_flows.recipe import Recipe
from trimtab_flows.score import PREDICTIONS
from trimtab_flows.settle import announce
from trimtab_flows.windows import Window

__all__ = ["Monitored", "monitor"]


class Monitored(BaseModel, frozen=True):
    """A monitored window: its MLflow run, and the decision.

    ``decision`` is the id that a retraining carries, ``retrain_on`` the windows it would train on.
    """

    model: str
    version: int
    window: str
    run_id: str
    decision: str
    retrain: bool
    retrain_on: str
    reasons: tuple[str, ...]
    verdict: str = "wait"
    at: str | None = None
    resources: dict[str, Any] = {}
    needs_approval: bool = False

    @classmethod
    def of(cls, name: str, run: Run) -> Monitored:
        """What a finished monitoring run recorded."""
        tags = run.data.tags
        return cls(
            model=name,
            version=int(tags["trimtab.model_version"]),
            window=tags["trimtab.window"],
            run_id=run.info.run_id,
            decision=tags["trimtab.key"],
            retrain=tags["trimtab.verdict"] == "retrain",
            retrain_on=tags["trimtab.retrain_on"],
            reasons=tuple(tags["trimtab.reasons"].split("\n")),
            verdict=tags["trimtab.verdict"],
            at=tags.get("trimtab.at") or None,
            resources=json.loads(tags.get("trimtab.resources", "{}")),
            needs_approval=tags.get("trimtab.needs_approval") == "yes",
        )

    def request(self, recipe: str) -> RetrainRequested:
        """The event that announces the decision."""
        return RetrainRequested(
            self.model,
            recipe,
            self.retrain_on,
            self.decision,
            self.reasons,
            at=self.at,
            resources=self.resources,
            needs_approval=self.needs_approval,
        )


@task(task_run_name="monitor {window}", timeout_seconds=3600, persist_result=True, **RETRIES)
def measure_and_decide(recipe: str, window: str, policy: dict[str, Any]) -> Monitored:
    """Drift, performance, evidence and decision of a window, in one MLflow run. Done before, it is read back."""
    loaded = load_recipe(recipe)
    name, period = loaded.recipe.name, Window.parse(window)
    catalog = runtime.catalog(name)
    features, predictions = catalog.get(FEATURES, period), catalog.get(PREDICTIONS, period)
    version = int((predictions.made_by or "").rpartition("/")[2])
    inputs = {"features": features.digest, "predictions": predictions.digest}
    key = tracking.stage_key(MONITOR, window=window, version=version, policy=policy, code=loaded.code, **inputs)
    experiment = tracking.monitoring_experiment(name)
    run = tracking.find_run(experiment, key)
    if run is None:
        quarantined = _quarantined(loaded.recipe, period)
        tags = {"trimtab.window": window, "trimtab.model_version": str(version), "trimtab.recipe": recipe}
        with tracking.open_run(experiment, MONITOR, key, f"monitor {window}", tags) as opened:
            run_id = opened.info.run_id
            tracking.log_inputs(run_id, inputs, source=f"store://{name}/{window}")
            frame = runtime.library().get(features.digest)
            scores = runtime.library().get(predictions.digest)
            measured = measure_window(loaded.recipe, version, frame, scores, period)
            evidence = evidence_of(loaded.recipe, period, version, measured)
            _log(run_id, loaded.recipe, version, period, measured)
            figures = {
                "data/rows": frame.height,
                "data/quarantined": quarantined,
                "data/labelled": len(measured.seen.labels),
                "data/champion_age": evidence.champion_age,
                **figures_of(loaded.recipe, measured),
            }
            tracking.log_metrics(run_id, figures, step=place_of(loaded.recipe, period))
            chosen = Policy.from_mapping(policy).in_zone(loaded.recipe.timezone)
            decision = conclude(run_id, loaded.recipe, evidence, chosen)
            _tell(loaded.recipe, key, run_id, decision, enough=evidence.labelled_rows >= chosen.min_labelled_rows)
        run = tracking.find_run(experiment, key)
        assert run is not None
    return Monitored.of(name, run)


@flow(name="monitor", flow_run_name="monitor {window}", persist_result=True)
def monitor(recipe: str, window: str, policy: PolicyGiven = None) -> Monitored:
    """Measure a scored window and decide. A decision to retrain is announced, for the automation to act on.

    Args:
        recipe: ``module:attribute``.
        window: an ingested and scored window whose labels are known.
        policy: name of a policy block, or fields of the retraining policy that differ from the defaults.

    Raises:
        NotIngested: the window has not been ingested, or not been scored.
        ValueError: the policy has an unknown field or a value that is not allowed.
    """
    # A policy given as fields keeps them alone: a default that a later version changes makes no window anew.
    plain = resolve(policy).to_plain() if isinstance(policy, str) else (policy or {})
    resolve(plain)
    monitored = measure_and_decide(recipe, window, plain)
    said = in_words(monitored.verdict, monitored.at)
    get_run_logger().info("%s %s: %s. %s", monitored.model, window, said, " ".join(monitored.reasons))
    if monitored.verdict != "wait":
        announce(monitored.request(recipe))
    return monitored


def _quarantined(recipe: Recipe, window: Window) -> int:
    """Rows of the window that are in quarantine, over all tables."""
    catalog = runtime.catalog(recipe.name)
    tables = (FEATURES, PREDICTIONS, *(f"raw.{table}" for table in recipe.raw))
    entries = [catalog.find(table, window) for table in tables]
    return sum(entry.quarantined for entry in entries if entry is not None)


def _log(run_id: str, recipe: Recipe, version: int, window: Window, measured: Measured) -> None:
    """Drift as pictures: in the MLflow run, and as an artifact in Prefect."""
    tracking.client().log_text(run_id, drift_svg(measured.signals), "drift.svg")
    if measured.season is not None:
        tracking.client().log_text(run_id, drift_svg(measured.seasonal), f"drift-{measured.season.kind}.svg")
    create_markdown_artifact(
        markdown=f"# Drift of {recipe.name}, {window}, against version {version}\n\n{drift_markdown(measured.signals)}",
        key=f"drift-{recipe.name}-{window}".replace("_", "-").lower(),
        description=f"{recipe.name} {window} against what version {version} was trained on",
    )


def _tell(recipe: Recipe, key: str, run_id: str, decision: Decision, enough: bool) -> None:
    """Events: the decision, and that there are labels enough to judge by."""
    emit_decision(recipe, key, run_id, decision)
    if enough:
        emit_event(LABELS_ARRIVED, resource=resource_of(recipe.name), payload={"window": decision.window})
