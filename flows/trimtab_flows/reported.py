"""What others logged about a model to MLflow since its last window was monitored, as evidence."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain

from mlflow.entities import Metric, Run

from trimtab_flows import tracking
from trimtab_flows.drift.decision import Evidence
from trimtab_flows.recipe import Recipe

__all__ = ["reported"]


def reported(recipe: Recipe, monitored: Run, evidence: Evidence) -> Evidence:
    """The evidence with what others logged about the model since its last window was monitored.

    Looked at are runs with the tag ``trimtab.model``, or of the monitoring experiment, that no flow of ours made: the
    newest value of ``performance/METRIC`` (with ``performance/rows`` and ``performance/METRIC_standard_error``),
    ``drift/psi/prediction`` and ``drift/psi/INPUT``.
    """
    figures = _figures(recipe.name, monitored.info.start_time or 0)
    performance = figures.get(f"performance/{evidence.metric}")
    if performance is not None:
        evidence = replace(
            evidence,
            performance=performance,
            performance_se=figures.get(f"performance/{evidence.metric}_standard_error", 0.0),
            labelled_rows=_rows(figures.get("performance/rows", 0.0)),
        )
    psi = {name.removeprefix("drift/psi/"): value for name, value in figures.items() if name.startswith("drift/psi/")}
    if psi:
        # What was reported counts, whatever the policy compares with: our own of the season gives way to it.
        season = tuple((column, value) for column, value in evidence.seasonal_psi if column not in psi)
        if "prediction" in psi:
            evidence = replace(evidence, prediction_psi=psi.pop("prediction"), seasonal_prediction_psi=None)
        inputs = tuple(sorted({**dict(evidence.input_psi), **psi}.items()))
        evidence = replace(evidence, input_psi=inputs, seasonal_psi=season)
    return evidence


def _figures(name: str, since_ms: int) -> dict[str, float]:
    """Newest value of each metric in runs of others, logged since a time."""
    newest: dict[str, Metric] = {}
    for run in _runs_of_others(name):
        for metric in run.data._metric_objs:
            known = newest.get(metric.key)
            if metric.timestamp >= since_ms and (known is None or metric.timestamp >= known.timestamp):
                newest[metric.key] = metric
    return {key: metric.value for key, metric in newest.items()}


def _runs_of_others(name: str) -> Iterator[Run]:
    """Oldest first. One that was begun long ago may get a new point, so all are looked at, however many there are."""
    told = tracking.all_runs(tracking.all_experiments(), f"tags.`trimtab.model` = '{name}'")
    beside = tracking.all_runs([tracking.experiment_id(tracking.monitoring_experiment(name))])
    for run in chain((run for run in beside if "trimtab.model" not in run.data.tags), told):
        if "trimtab.stage" not in run.data.tags:
            yield run


def _rows(figure: float) -> int:
    """A count that anybody may have logged: what is no number of rows counts as none."""
    return int(figure) if math.isfinite(figure) and figure > 0 else 0
