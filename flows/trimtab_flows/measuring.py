"""Measures a scored window: every signal, and the metrics they are logged as."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl
from mlflow.exceptions import MlflowException

from trimtab_flows import runtime, tracking
from trimtab_flows.drift.domain import DomainShift, domain_shift
from trimtab_flows.drift.estimated import Calibration, Estimate, estimate
from trimtab_flows.drift.performance import Interval, interval
from trimtab_flows.drift.season import WINDOWS_OF_A_YEAR, Season, SeasonalReference, seasonal, windows_needed
from trimtab_flows.drift.signals import PREDICTION, Reference, Signal, measure
from trimtab_flows.drift.streams import StreamChange, errors_of, watch
from trimtab_flows.gather import place_of
from trimtab_flows.ingest import FEATURES
from trimtab_flows.recipe import Recipe
from trimtab_flows.score import PREDICTIONS
from trimtab_flows.steps.predictions import SCORE, Scored, scored_labels
from trimtab_flows.train import CALIBRATION, REFERENCE
from trimtab_flows.windows import Window

__all__ = ["Measured", "figures_of", "measure_window"]


@dataclass(frozen=True)
class Measured:
    """All signals of one window; what could not be measured is None."""

    signals: tuple[Signal, ...]
    domain: DomainShift | None
    season: SeasonalReference | None
    seasonal: tuple[Signal, ...]
    seasonal_scores: tuple[Signal, ...]
    performance: Interval
    estimate: Estimate | None
    streams: tuple[StreamChange, ...]
    seen: Scored

    def of(self, kind: str) -> tuple[tuple[str, float], ...]:
        """One figure of each input, by column."""
        return _of_inputs(self.signals, kind)

    def of_predictions(self, kind: str) -> float:
        """The same of the scores."""
        return next((each.value for each in self.signals if (each.kind, each.column) == (kind, PREDICTION)), 0.0)

    @property
    def seasonal_psi(self) -> tuple[tuple[str, float], ...]:
        """PSI of each input against its season, by column."""
        return _of_inputs(self.seasonal, "psi")

    @property
    def seasonal_prediction_psi(self) -> float | None:
        """The same of the scores; None when there are none to compare with."""
        return next((each.value for each in self.seasonal_scores if each.kind == "psi"), None)


def _of_inputs(signals: tuple[Signal, ...], kind: str) -> tuple[tuple[str, float], ...]:
    return tuple(
        sorted((each.column, each.value) for each in signals if each.kind == kind and each.column != PREDICTION)
    )


def measure_window(
    recipe: Recipe, version: int, frame: pl.DataFrame, predictions: pl.DataFrame, window: Window
) -> Measured:
    """Measure a window against what the model was trained on, and against its season."""
    trained = tracking.model_version(recipe.name, version)
    run_id = tracking.training_run(trained)
    reference = Reference.from_json(json.dumps(tracking.read_json(run_id, REFERENCE)))
    scores = predictions.get_column(SCORE).to_numpy()
    seen = scored_labels(recipe, frame.sort(recipe.features.event_time or "", maintain_order=True), predictions)
    metric, season = recipe.metrics[0], _season(recipe, window, FEATURES, recipe.inputs)
    scored = _season(recipe, window, PREDICTIONS, (SCORE,))
    rows = trained.tags.get("trimtab.reference_rows")
    calibration = _calibration(run_id)
    errors = errors_of(seen.labels, seen.scores)
    return Measured(
        signals=measure(reference, frame, scores),
        domain=domain_shift(runtime.library().get(rows), frame, recipe.inputs) if rows else None,
        season=season,
        seasonal=measure(season.reference, frame, scores) if season else (),
        seasonal_scores=measure(scored.reference, predictions, scores) if scored else (),
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


def _season(recipe: Recipe, window: Window, table: str, columns: Sequence[str]) -> SeasonalReference | None:
    """What a table looked like at the same time of the year, or in the windows before."""
    season = Season(WINDOWS_OF_A_YEAR[recipe.cadence])
    first, place = Window.parse(recipe.start).start, place_of(recipe, window)
    places = dict(enumerate(Window(first, window.end).split(recipe.cadence)))
    catalog, history = runtime.catalog(recipe.name), {}
    for needed in windows_needed(place, season):
        entry = catalog.find(table, places[needed])
        if entry is not None:
            history[needed] = runtime.library().get(entry.digest)
    return seasonal(history, columns, place, season)


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
    inputs = [value for _, value in measured.seasonal_psi]
    if inputs:
        found["drift/season/worst_psi"] = max(inputs)
        found["drift/season/mean_psi"] = sum(inputs) / len(inputs)
    if measured.seasonal_prediction_psi is not None:
        found["drift/season/prediction_psi"] = measured.seasonal_prediction_psi
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
