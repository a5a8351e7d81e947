"""Puts scores beside the rows they belong to, and labels beside scores."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from trimtab_flows.recipe import Recipe

__all__ = ["SCORE", "Scored", "predictions_table", "scored_labels"]

#: The column of a predictions table that holds what the model said.
SCORE = "score"


def predictions_table(recipe: Recipe, frame: pl.DataFrame, scores: np.ndarray) -> pl.DataFrame:
    """The key of each row of the features table, and its score.

    Raises:
        ValueError: ``predict`` did not return one number a row.
    """
    scores = np.asarray(scores, dtype=np.float64)
    if scores.shape != (frame.height,):
        raise ValueError(
            f"{recipe.name}: predict returned an array of shape {scores.shape} for {frame.height:,} rows; "
            f"it must be ({frame.height},): one number a row"
        )
    return frame.select(recipe.features.key).with_columns(pl.Series(SCORE, scores))


@dataclass(frozen=True)
class Scored:
    """Labels, scores and days of the rows that have a label, each of shape (labelled rows,)."""

    labels: np.ndarray
    scores: np.ndarray
    days: np.ndarray


def scored_labels(recipe: Recipe, features: pl.DataFrame, predictions: pl.DataFrame) -> Scored:
    """Labels beside scores, by key. Rows of one day are not independent, so the day comes along."""
    both = features.join(predictions, on=list(recipe.features.key), how="inner", maintain_order="left").filter(
        pl.col(recipe.label.column).is_not_null()
    )
    return Scored(
        labels=both.get_column(recipe.label.column).cast(pl.Float64).to_numpy(),
        scores=both.get_column(SCORE).to_numpy(),
        days=both.get_column(recipe.features.event_time or "").cast(pl.Date).to_numpy(),
    )
