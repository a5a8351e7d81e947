"""Measures a scored window and gathers the evidence of a decision: what monitoring and deciding have in common."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import polars as pl
from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from trimtab_flows import runtime, tracking
from trimtab_flows.drift.decision import Evidence
from trimtab_flows.drift.domain import DomainShift, domain_shift
from trimtab_flows.drift.estimated import Calibration, Estimate, estimate
from trimtab_flows.drift.evidence import Seen
from trimtab_flows.drift.performance import Interval, interval
from trimtab_flows.drift.season import Season, SeasonalReference, seasonal, windows_needed
from trimtab_flows.drift.signals import PREDICTION, Reference, Signal, measure
from trimtab_flows.drift.streams import StreamChange, errors_of, watch
from trimtab_flows.history import decisions_of, monitored_windows
from trimtab_flows.ingest import FEATURES
from trimtab_flows.order_book import orders_of
from trimtab_flows.recipe import Recipe
from trimtab_flows.settle import is_acted_on
from trimtab_flows.steps.predictions import SCORE, Scored, scored_labels
from trimtab_flows.train import CALIBRATION, REFERENCE
from trimtab_flows.windows import Window

__all__ = ["Measured", "evidence_of", "figures_of", "measure_window", "place_of", "refresh"]

#: Windows of one year, by cadence.
_YEAR = {"day": 365, "week": 52, "month": 12}


@dataclass(frozen=True)
class Measured:
    """All signals of one window; what could not be measured is None."""

    signals: tuple[Signal, ...]
    domain: DomainShift | None
    season: SeasonalReference | None
    seasonal: tuple[Signal, ...]
    performance: Interval
    estimate: Estimate | None
    streams: tuple[StreamChange, ...]
    seen: Scored

    def of(self, kind: str) -> tuple[tuple[str, float], ...]:
        """One figure of each input, by column."""
        found = ((each.column, each.value) for each in self.signals if each.kind == kind)
        return tuple(sorted(pair for pair in found if pair[0] != PREDICTION))

    def of_predictions(self, kind: str) -> float:
        """The same of the scores."""
        return next((each.value for each in self.signals if (each.kind, each.column) == (kind, PREDICTION)), 0.0)


def place_of(recipe: Recipe, window: Window) -> int:
    """The window's place since the recipe's first, so that metrics line up over time in MLflow."""
    return sum(1 for _ in Window(Window.parse(recipe.start).start, window.end).split(recipe.cadence)) - 1


def measure_window(
    recipe: Recipe, version: int, frame: pl.DataFrame, predictions: pl.DataFrame, window: Window
) -> Measured:
    """Measure a window against what the model was trained on, and against its season."""
    trained = tracking.model_version(recipe.name, version)
    run_id = tracking.training_run(trained)
    reference = Reference.from_json(json.dumps(tracking.read_json(run_id, REFERENCE)))
    scores = predictions.get_column(SCORE).to_numpy()
    seen = scored_labels(recipe, frame.sort(recipe.features.event_time or "", maintain_order=True), predictions)
    metric, season = recipe.metrics[0], _season(recipe, window)
    rows = trained.tags.get("trimtab.reference_rows")
    calibration = _calibration(run_id)
    errors = errors_of(seen.labels, seen.scores)
    return Measured(
        signals=measure(reference, frame, scores),
        domain=domain_shift(runtime.library().get(rows), frame, recipe.inputs) if rows else None,
        season=season,
        seasonal=measure(season.reference, frame, scores) if season else (),
        performance=interval(seen.labels, seen.scores, metric, seen.days),
        estimate=estimate(calibration, scores, metric) if calibration else None,
        streams=tuple(watch(errors, detector) for detector in ("adwin", "page-hinkley")),
        seen=seen,
    )


def _calibration(run_id: str) -> Calibration | None:
    try:
        return Calibration.from_json(json.dumps(tracking.read_json(run_id, CALIBRATION)))
    except (MlflowException, OSError):  # scores that are no probabilities, or a version of before
        return None


def _season(recipe: Recipe, window: Window) -> SeasonalReference | None:
    """What the same time of the year, or the windows before, looked like."""
    season = Season(period=_YEAR[recipe.cadence])
    first, place = Window.parse(recipe.start).start, place_of(recipe, window)
    places = dict(enumerate(Window(first, window.end).split(recipe.cadence)))
    catalog, history = runtime.catalog(recipe.name), {}
    for needed in windows_needed(place, season):
        entry = catalog.find(FEATURES, places[needed])
        if entry is not None:
            history[needed] = runtime.library().get(entry.digest)
    return seasonal(history, recipe.inputs, place, season)


def figures_of(recipe: Recipe, measured: Measured) -> dict[str, float]:
    """The signals as MLflow metrics. Of missing, unseen and gone values only what is not 0."""
    found = {
        f"drift/{each.kind}/{each.column}": each.value
        for each in measured.signals
        if each.value or each.kind in ("psi", "js")
    }
    if measured.domain is not None and measured.domain.known:
        found["drift/domain/auc"] = measured.domain.auc
        found["drift/domain/auc_low"] = measured.domain.low
    inputs = [each.value for each in measured.seasonal if each.kind == "psi" and each.column != PREDICTION]
    if inputs:
        found["drift/season/worst_psi"] = max(inputs)
        found["drift/season/mean_psi"] = sum(inputs) / len(inputs)
    for change in measured.streams:
        found[f"drift/stream/{change.detector}"] = float(change.worse)
    name, seen = recipe.metrics[0].name, measured.seen
    found |= {f"performance/{each.name}": each.function(seen.labels, seen.scores) for each in recipe.metrics}
    for end in ("low", "high", "standard_error"):
        value = getattr(measured.performance, end)
        if value is not None:
            found[f"performance/{name}_{end}"] = value
    if measured.estimate is not None:
        found[f"performance/estimated_{name}"] = measured.estimate.value
    return found


def evidence_of(recipe: Recipe, window: Window, version: int, measured: Measured) -> Evidence:
    """All that the decision about a window may look at. Its moment is when the window's labels are known."""
    metric, performance = recipe.metrics[0], measured.performance
    trained = tracking.model_version(recipe.name, version)
    held_out = tracking.client().get_run(tracking.training_run(trained)).data.metrics
    cut, earlier = datetime.fromisoformat(trained.tags["trimtab.cut"]), _earlier(recipe, window)
    as_of = (window.end_time + recipe.label.known_after).replace(tzinfo=UTC)
    new_rows = sum(
        int(run.data.metrics.get("data/labelled", 0)) for label, run in earlier if Window.parse(label).start_time >= cut
    )
    missing = dict(measured.of("missing"))
    evidence = Evidence(
        window=window.label,
        labelled_rows=performance.rows,
        metric=metric.name,
        higher_is_better=metric.higher_is_better,
        performance=performance.value,
        performance_se=performance.standard_error or 0.0,
        reference_performance=held_out.get(f"holdout/{metric.name}"),
        reference_se=held_out.get(f"holdout_se/{metric.name}", 0.0),
        input_psi=measured.of("psi"),
        prediction_psi=measured.of_predictions("psi"),
        input_js=measured.of("js"),
        prediction_js=measured.of_predictions("js"),
        ordinal=place_of(recipe, window),
        windows_since_retrain=None,
        champion_age=_age(recipe, cut, window),
        as_of=as_of.isoformat(),
        window_days=(window.end - window.start) / timedelta(days=1),
        champion_age_days=max((window.end_time - cut) / timedelta(days=1), 0.0),
        training_rows=int(held_out.get("train/rows", 0)),
        new_labelled_rows=new_rows + performance.rows,
        estimated_performance=measured.estimate.value if measured.estimate else None,
        estimated_se=measured.estimate.standard_error if measured.estimate else 0.0,
        domain_auc=measured.domain.auc if measured.domain and measured.domain.known else None,
        missing_change=tuple(missing.items()),
        new_categories=measured.of("unseen"),
        stream_alarms=tuple(change.detector for change in measured.streams if change.worse),
        history=tuple(_seen(run, metric.name) for _, run in earlier),
        orders=orders_of(recipe.name),
    )
    return _with_last_retrain(recipe, window, evidence, earlier_only=True)


def refresh(recipe: Recipe, run: Run, champion: ModelVersion, as_of: datetime) -> Evidence:
    """The evidence of a monitored window, as it is at a later moment.

    What was measured stays; the champion's age, orders and decisions since are new. Where another champion serves by
    now, nothing is known of how it does.
    """
    window = Window.parse(run.data.tags["trimtab.window"])
    stored = Evidence.from_json(json.dumps(tracking.read_json(run.info.run_id, "evidence.json")))
    cut = datetime.fromisoformat(champion.tags["trimtab.cut"])
    now = replace(
        stored,
        as_of=as_of.isoformat(),
        champion_age_days=max((as_of.replace(tzinfo=None) - cut) / timedelta(days=1), 0.0),
        orders=orders_of(recipe.name),
    )
    if int(champion.version) != int(run.data.tags["trimtab.model_version"]):
        held_out = tracking.client().get_run(tracking.training_run(champion)).data.metrics
        now = replace(
            now,
            performance=None,
            labelled_rows=0,
            estimated_performance=None,
            reference_performance=held_out.get(f"holdout/{stored.metric}"),
            reference_se=held_out.get(f"holdout_se/{stored.metric}", 0.0),
            prediction_psi=0.0,
            prediction_js=0.0,
            input_psi=(),
            input_js=(),
            domain_auc=None,
            stream_alarms=(),
            champion_age=_age(recipe, cut, window),
            training_rows=int(held_out.get("train/rows", 0)),
        )
    return _with_last_retrain(recipe, window, now, earlier_only=False)


def _with_last_retrain(recipe: Recipe, window: Window, evidence: Evidence, earlier_only: bool) -> Evidence:
    """With the last decision to retrain: in windows before this one alone, or up to now."""
    for run in reversed(decisions_of(recipe.name)):
        last = Window.parse(run.data.tags["trimtab.window"])
        if run.data.tags["trimtab.verdict"] not in ("retrain", "later") or last.start > window.start:
            continue
        if earlier_only and last.start == window.start:
            continue
        if not is_acted_on(recipe.name, run.data.tags["trimtab.key"], run.data.tags["trimtab.verdict"]):
            continue
        since = sum(1 for _ in Window(last.end, window.end).split(recipe.cadence)) if last.end < window.end else 0
        at = run.data.tags.get("trimtab.as_of")
        return replace(evidence, windows_since_retrain=since, last_retrain_at=at)
    return evidence


def _earlier(recipe: Recipe, window: Window) -> list[tuple[str, Run]]:
    """Monitoring runs of the windows before this one, oldest first."""
    runs = monitored_windows(recipe.name)
    return [(label, run) for label, run in runs.items() if Window.parse(label).start < window.start]


def _seen(run: Run, metric: str) -> Seen:
    figures = run.data.metrics
    return Seen(
        window=run.data.tags["trimtab.window"],
        performance=figures.get(f"performance/{metric}"),
        performance_se=figures.get(f"performance/{metric}_standard_error", 0.0),
        champion_age=int(figures.get("data/champion_age", 0)),
        rows=int(figures.get("data/labelled", 0)),
    )


def _age(recipe: Recipe, cut: datetime, window: Window) -> int:
    """Windows since a champion's training data ended."""
    return sum(1 for _ in Window(min(cut.date(), window.start), window.end).split(recipe.cadence)) - 1
