"""Measure one scored window, log drift and performance to MLflow, and decide whether to retrain, with evidence."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import numpy as np
import polars as pl
from mlflow.entities import Run
from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from pydantic import BaseModel

from trimtab_flows import runtime, tracking
from trimtab_flows.automations import RetrainRequested
from trimtab_flows.drift.charts import drift_markdown, drift_svg
from trimtab_flows.drift.decision import Decision, Evidence, Policy, decide
from trimtab_flows.drift.gate import standard_error
from trimtab_flows.drift.signals import PREDICTION, Reference, Signal, measure
from trimtab_flows.faults import RETRIES
from trimtab_flows.history import MONITOR, monitored_windows
from trimtab_flows.ingest import FEATURES
from trimtab_flows.loading import LoadedRecipe, load_recipe
from trimtab_flows.recipe import Recipe
from trimtab_flows.score import PREDICTIONS
from trimtab_flows.settle import announce
from trimtab_flows.steps.predictions import SCORE, Scored, scored_labels
from trimtab_flows.train import REFERENCE
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
        )

    def request(self, recipe: str) -> RetrainRequested:
        """The event that announces the decision."""
        return RetrainRequested(self.model, recipe, self.retrain_on, self.decision, self.reasons)


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
            signals = _log_drift(run_id, loaded, version, frame, scores, period)
            seen = scored_labels(loaded.recipe, frame, scores)
            evidence = _evidence(loaded.recipe, period, version, seen, signals)
            figures = {
                "data/rows": frame.height,
                "data/quarantined": quarantined,
                "data/labelled": len(seen.labels),
                **{
                    f"performance/{each.name}": each.function(seen.labels, seen.scores)
                    for each in loaded.recipe.metrics
                },
            }
            tracking.log_metrics(run_id, figures, step=_step(loaded.recipe, period))
            _log_decision(run_id, loaded.recipe, period, evidence, Policy.from_mapping(policy))
        run = tracking.find_run(experiment, key)
        assert run is not None
    return Monitored.of(name, run)


@flow(name="monitor", flow_run_name="monitor {window}", persist_result=True)
def monitor(recipe: str, window: str, policy: dict[str, Any] | None = None) -> Monitored:
    """Measure a scored window and decide. A decision to retrain is announced, for the automation to act on.

    Args:
        recipe: ``module:attribute``.
        window: an ingested and scored window whose labels are known.
        policy: fields of the retraining policy that differ from the defaults.

    Raises:
        NotIngested: the window has not been ingested, or not been scored.
        ValueError: the policy has an unknown field or a value that is not allowed.
    """
    Policy.from_mapping(policy or {})
    monitored = measure_and_decide(recipe, window, policy or {})
    said = "retrain" if monitored.retrain else "keep"
    get_run_logger().info("%s %s: %s. %s", monitored.model, window, said, " ".join(monitored.reasons))
    if monitored.retrain:
        announce(monitored.request(recipe))
    return monitored


def _quarantined(recipe: Recipe, window: Window) -> int:
    """Rows of the window that are in quarantine, over all tables."""
    catalog = runtime.catalog(recipe.name)
    tables = (FEATURES, PREDICTIONS, *(f"raw.{table}" for table in recipe.raw))
    entries = [catalog.find(table, window) for table in tables]
    return sum(entry.quarantined for entry in entries if entry is not None)


def _step(recipe: Recipe, window: Window) -> int:
    """The window's place since the recipe's first, so that metrics line up over time in MLflow."""
    return sum(1 for _ in Window(Window.parse(recipe.start).start, window.end).split(recipe.cadence)) - 1


def _log_drift(
    run_id: str, loaded: LoadedRecipe, version: int, frame: pl.DataFrame, predictions: pl.DataFrame, window: Window
) -> tuple[Signal, ...]:
    """Compare the window with what the model was trained on; metrics ``drift/psi/...`` and ``drift/js/...``."""
    recipe = loaded.recipe
    trained = tracking.model_version(recipe.name, version)
    reference = Reference.from_json(json.dumps(tracking.read_json(tracking.training_run(trained), REFERENCE)))
    signals = measure(reference, frame, predictions.get_column(SCORE).to_numpy())
    metrics = {f"drift/{signal.kind}/{signal.column}": signal.value for signal in signals}
    tracking.log_metrics(run_id, metrics, step=_step(recipe, window))
    tracking.client().log_text(run_id, drift_svg(signals), "drift.svg")
    create_markdown_artifact(
        markdown=f"# Drift of {recipe.name}, {window}, against version {version}\n\n{drift_markdown(signals)}",
        key=f"drift-{recipe.name}-{window}".replace("_", "-").lower(),
        description=f"{recipe.name} {window} against what version {version} was trained on",
    )
    return signals


def _evidence(recipe: Recipe, window: Window, version: int, seen: Scored, signals: tuple[Signal, ...]) -> Evidence:
    """All that the decision may look at."""
    metric = recipe.metrics[0]
    performance = float(metric.function(seen.labels, seen.scores))
    known = bool(np.isfinite(performance))
    trained = tracking.model_version(recipe.name, version)
    held_out = tracking.client().get_run(tracking.training_run(trained)).data.metrics
    psi, js = ({signal.column: signal.value for signal in signals if signal.kind == kind} for kind in ("psi", "js"))
    cut = datetime.fromisoformat(trained.tags["trimtab.cut"])
    return Evidence(
        window=window.label,
        labelled_rows=len(seen.labels),
        metric=metric.name,
        higher_is_better=metric.higher_is_better,
        performance=performance if known else None,
        performance_se=standard_error(seen.labels, seen.scores, metric, seed=0, groups=seen.days) if known else 0.0,
        reference_performance=held_out.get(f"holdout/{metric.name}"),
        reference_se=held_out.get(f"holdout_se/{metric.name}", 0.0),
        input_psi=tuple(sorted((column, value) for column, value in psi.items() if column != PREDICTION)),
        prediction_psi=psi.get(PREDICTION, 0.0),
        input_js=tuple(sorted((column, value) for column, value in js.items() if column != PREDICTION)),
        prediction_js=js.get(PREDICTION, 0.0),
        ordinal=_step(recipe, window),
        windows_since_retrain=_since_retrain(recipe, window),
        champion_age=sum(1 for _ in Window(min(cut.date(), window.start), window.end).split(recipe.cadence)) - 1,
    )


def _earlier(recipe: Recipe, window: Window) -> list[Run]:
    """Monitoring runs of the windows before this one, oldest first."""
    runs = monitored_windows(recipe.name)
    return [run for label, run in runs.items() if Window.parse(label).start < window.start]


def _since_retrain(recipe: Recipe, window: Window) -> int | None:
    """Windows since the last decision to retrain; None if there was none."""
    for run in reversed(_earlier(recipe, window)):
        if run.data.tags["trimtab.verdict"] == "retrain":
            last = Window.parse(run.data.tags["trimtab.window"])
            return sum(1 for _ in Window(last.end, window.end).split(recipe.cadence))
    return None


def _log_decision(run_id: str, recipe: Recipe, window: Window, evidence: Evidence, policy: Policy) -> None:
    """The decision, and all it was made from."""
    earlier = _earlier(recipe, window)
    previous = None
    if earlier:
        previous = Decision.from_json(json.dumps(tracking.read_json(earlier[-1].info.run_id, "decision.json")))
    decision = decide(evidence, previous, policy)
    api = tracking.client()
    for name, value in (("evidence", evidence), ("policy", policy), ("decision", decision)):
        api.log_dict(run_id, json.loads(value.to_json()), f"{name}.json")
    retrain_on = Window(Window.parse(recipe.start).start, window.end).label
    tags = {
        "trimtab.verdict": "retrain" if decision.retrain else "wait",
        "trimtab.reasons": "\n".join(decision.reasons),
        "trimtab.retrain_on": retrain_on,
    }
    for tag, text in tags.items():
        api.set_tag(run_id, tag, text)
    verdict = "Retrain" if decision.retrain else "Keep"
    create_markdown_artifact(
        markdown="\n".join(
            [f"# {verdict} {recipe.name} after {window}", "", *(f"- {why}" for why in decision.reasons)]
        ),
        key=f"decision-{recipe.name}-{window}".replace("_", "-").lower(),
        description=f"{verdict}: {decision.reasons[0] if decision.reasons else ''}",
    )
