"""Decides which rows train a model and which it is judged on."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import polars as pl

from trimtab_flows.local_time import bound
from trimtab_flows.recipe import Recipe

__all__ = ["Split", "from_time", "labelled", "split_by_time"]


@dataclass(frozen=True)
class Split:
    """Labelled rows before the cut (``training``) and from it on (``holdout``)."""

    training: pl.DataFrame
    holdout: pl.DataFrame
    cut: datetime


def labelled(frame: pl.DataFrame, recipe: Recipe) -> pl.DataFrame:
    """The rows whose label is known."""
    return frame.filter(pl.col(recipe.label.column).is_not_null())


def from_time(frame: pl.DataFrame, recipe: Recipe, wall: datetime) -> pl.Expr:
    """Whether a row of a features table is from a clock time of the recipe's zone on."""
    time = recipe.features.event_time or ""
    return pl.col(time) >= bound(frame.schema[time], wall, recipe.zone)


def split_by_time(frame: pl.DataFrame, recipe: Recipe, end: datetime, holdout: timedelta | None = None) -> Split:
    """Hold the newest stretch of a features table back.

    Args:
        frame: features table, several windows joined.
        end: the first clock time of the recipe's zone after those windows.
        holdout: length of the stretch held back; the recipe's own when not given.

    Raises:
        ValueError: nothing labelled is left to train on.
    """
    cut = end - (recipe.holdout if holdout is None else holdout)
    rows = labelled(frame, recipe)
    held = from_time(rows, recipe, cut)
    split = Split(rows.filter(~held), rows.filter(held), cut)
    if split.training.is_empty():
        raise ValueError(
            f"{recipe.name}: no labelled row before {cut:%Y-%m-%d %H:%M} to train on "
            f"({frame.height:,} rows, {rows.height:,} of them labelled); give more windows or a shorter holdout"
        )
    return split
