from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pandera.polars as pa
import polars as pl
import pytest

from trimtab_flows.contracts.contract import Contract
from trimtab_flows.recipe import Label, Metric, Recipe, Resources
from trimtab_flows.steps.fitting import fit
from trimtab_flows.steps.predictions import predictions_table, scored_labels
from trimtab_flows.steps.split import split_by_time
from trimtab_flows.windows import Window

END = datetime(2024, 2, 1)


class Mean(Recipe):
    """Predicts the mean label of the training rows plus the seed."""

    name = "mean"
    start = "2024-01"
    holdout = timedelta(days=10)
    label = Label("y")
    features = Contract(
        "features",
        pa.DataFrameSchema(
            {
                "id": pa.Column(int),
                "at": pa.Column(pl.Datetime),
                "x": pa.Column(float),
                "y": pa.Column(float, nullable=True),
            }
        ),
        key=("id",),
        event_time="at",
    )
    predictions = Contract("predictions", pa.DataFrameSchema({"id": pa.Column(int), "score": pa.Column(float)}))
    raw = {"rows": features}
    metrics = (Metric("bias", lambda labels, scores: float(np.mean(scores - labels)) if len(labels) else float("nan")),)

    def load(self, window: Window) -> Mapping[str, pl.DataFrame]:
        raise AssertionError("not used here")

    def build(self, tables: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
        return tables["rows"]

    def train(self, frame: pl.DataFrame, parameters: Mapping[str, Any], seed: int, resources: Resources) -> float:
        return float(frame["y"].mean()) + seed

    def predict(self, model: float, frame: pl.DataFrame) -> np.ndarray:
        return np.full(frame.height, model)


RECIPE = Mean()


def january(labels: list[float | None]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "id": range(len(labels)),
            "at": [datetime(2024, 1, 1) + timedelta(days=day) for day in range(len(labels))],
            "x": [0.0] * len(labels),
            "y": labels,
        },
        schema_overrides={"y": pl.Float64},
    )


def test_the_newest_stretch_is_held_back_and_rows_without_label_train_nothing() -> None:
    frame = january([None if day % 5 == 0 else 1.0 for day in range(31)])
    split = split_by_time(frame, RECIPE, END)
    assert split.cut == datetime(2024, 1, 22)
    assert split.training["at"].max() < split.cut <= split.holdout["at"].min()
    assert split.training.height + split.holdout.height == frame["y"].count()


def test_a_row_at_the_cut_belongs_to_the_holdout() -> None:
    split = split_by_time(january([1.0] * 31), RECIPE, END)
    assert split.holdout["at"].min() == split.cut


def test_nothing_to_train_on_is_said_with_the_numbers() -> None:
    with pytest.raises(ValueError, match=r"no labelled row before 2024-01-22 00:00 to train on \(31 rows, 10 of them"):
        split_by_time(january([None] * 21 + [1.0] * 10), RECIPE, END)


def test_fitting_measures_on_the_holdout_only() -> None:
    fitted = fit(RECIPE, january([0.0] * 21 + [1.0] * 10), END, {}, 0, Resources())
    assert fitted.metrics == {"bias": -1.0}
    assert fitted.predictions.columns == ["id", "score"]
    assert fitted.predictions["id"].to_list() == list(range(21, 31))


def test_an_empty_holdout_gives_no_number_and_no_error() -> None:
    fitted = fit(RECIPE, january([0.0] * 20), END, {}, 0, Resources())
    assert fitted.predictions.is_empty()
    assert np.isnan(fitted.metrics["bias"])


@pytest.mark.parametrize("scores", [np.zeros((31, 2)), np.zeros(30), np.float64(1)])
def test_scores_of_another_shape_are_refused(scores: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"for 31 rows; it must be \(31,\)"):
        predictions_table(RECIPE, january([0.0] * 31), scores)


def test_labels_meet_their_scores_by_key_whatever_the_order() -> None:
    frame = january([0.0, None, 1.0, 0.0])
    predictions = predictions_table(RECIPE, frame, np.array([0.1, 0.2, 0.9, 0.3])).reverse()
    scored = scored_labels(RECIPE, frame, predictions)
    assert scored.labels.tolist() == [0.0, 1.0, 0.0]
    assert scored.scores.tolist() == [0.1, 0.9, 0.3]
    assert [str(day) for day in scored.days] == ["2024-01-01", "2024-01-03", "2024-01-04"]


def test_inputs_are_the_columns_that_are_neither_key_nor_time_nor_label() -> None:
    assert RECIPE.inputs == ("x",)
