"""Measures a scored window: every signal, and the metrics they are logged as."""

from __future__ import annotations

import json
from dataclasses import dataclass

import polars as pl
from mlflow.exceptions import MlflowException

from trimtab_flows import runtime, tracking
from trimtab_flows.drift.domain import DomainShift, domain_shift
from trimtab_flows.drift.estimated import Calibration, Estimate, estimate
from trimtab_flows.drift.performance import Interval, interval
from trimtab_flows.drift.season import Season, SeasonalReference, seasonal, windows_needed
from trimtab_flows.drift.signals import PREDICTION, Reference, Signal, measure
from trimtab_flows.drift.streams import StreamChange, errors_of, watch
from trimtab_flows.gather import place_of
from trimtab_flows.ingest import FEATURES
from trimtab_flows.recipe import Recipe
from trimtab_flows.steps.predictions import SCORE, Scored, scored_labels
from trimtab_flows.train import CALIBRATION, REFERENCE
from trimtab_flows.windows import Window

__all__ = ["Measured", "figures_of", "measure_window"]

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
