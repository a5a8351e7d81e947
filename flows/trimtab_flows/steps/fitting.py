"""Trains one model and measures it on rows it has not seen; training and replay both call this, so they agree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import polars as pl

from trimtab_flows.recipe import Recipe, Resources
from trimtab_flows.steps.predictions import predictions_table
from trimtab_flows.steps.split import Split, split_by_time

__all__ = ["Fitted", "fit", "measure"]


@dataclass(frozen=True)
class Fitted:
    """A trained model, the rows it saw and did not see, its predictions on the latter, and its metrics there."""

    model: Any
    split: Split
    predictions: pl.DataFrame
    metrics: dict[str, float]


def fit(
    recipe: Recipe,
    frame: pl.DataFrame,
    end: datetime,
    parameters: Mapping[str, Any],
    seed: int,
    resources: Resources,
) -> Fitted:
    """Train on the labelled rows before the holdout, and measure on the holdout.

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
    return Fitted(model, split, predictions, measure(recipe, split.holdout, scores))


def measure(recipe: Recipe, frame: pl.DataFrame, scores: np.ndarray) -> dict[str, float]:
    """Every metric of the recipe on labelled rows; NaN where a metric is not defined (no rows, one class)."""
    labels = frame.get_column(recipe.label.column).cast(pl.Float64).to_numpy()
    return {metric.name: float(metric.function(labels, scores)) for metric in recipe.metrics}
