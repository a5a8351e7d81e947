"""Trains one model and measures it on rows it has not seen; training and replay both call this, so they agree.

A recipe that asks for a refit gets a second model, of all rows: the first is judged in its place, the second serves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import polars as pl

from trimtab_flows.recipe import Recipe, Resources
from trimtab_flows.steps.predictions import predictions_table
from trimtab_flows.steps.split import Split, labelled, split_by_time

__all__ = ["Fitted", "fit", "measure"]


@dataclass(frozen=True)
class Fitted:
    """A model to serve, and how it does on rows that it has not seen.

    Attributes:
        model: to be served.
        judged: the model whose predictions on the holdout decide: ``model`` itself, or with a refit its twin that was
            trained on the rows before the holdout alone.
        split: the rows before the holdout, and the holdout.
        seen: the rows that ``model`` was trained on.
        cut: the first moment that ``model`` has seen no row of.
        predictions: of ``judged`` on the holdout.
        metrics: of these predictions.
        served: predictions of ``model`` on the holdout; the same ones without a refit.
    """

    model: Any
    judged: Any
    split: Split
    seen: pl.DataFrame
    cut: datetime
    predictions: pl.DataFrame
    metrics: dict[str, float]
    served: pl.DataFrame


def fit(
    recipe: Recipe,
    frame: pl.DataFrame,
    end: datetime,
    parameters: Mapping[str, Any],
    seed: int,
    resources: Resources,
) -> Fitted:
    """Train on the labelled rows before the holdout, and measure on the holdout; then train on all, if the recipe asks.

    Args:
        frame: features table, all windows of the training joined.
        end: the first moment after those windows.

    Raises:
        ValueError: no labelled row to train on, or scores of a wrong shape.
    """
    split = split_by_time(frame, recipe, end)
    model = recipe.train(split.training, parameters, seed, resources)
    scores = np.asarray(recipe.predict(model, split.holdout), dtype=np.float64)
    predictions = predictions_table(recipe, split.holdout, scores)
    metrics = measure(recipe, split.holdout, scores)
    if not recipe.refit or split.holdout.is_empty():
        return Fitted(model, model, split, split.training, split.cut, predictions, metrics, predictions)
    rows = labelled(frame, recipe)
    serves = recipe.train(rows, parameters, seed, resources)
    again = np.asarray(recipe.predict(serves, split.holdout), dtype=np.float64)
    served = predictions_table(recipe, split.holdout, again)
    return Fitted(serves, model, split, rows, end, predictions, metrics, served)


def measure(recipe: Recipe, frame: pl.DataFrame, scores: np.ndarray) -> dict[str, float]:
    """Every metric of the recipe on labelled rows; NaN where a metric is not defined (no rows, one class)."""
    labels = frame.get_column(recipe.label.column).cast(pl.Float64).to_numpy()
    return {metric.name: float(metric.function(labels, scores)) for metric in recipe.metrics}
