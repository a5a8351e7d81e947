"""A recipe that trains in milliseconds, on numbers made from the window alone: it turns round in April 2024."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import numpy as np
import pandera.polars as pa
import polars as pl
from sklearn.linear_model import LogisticRegression

from trimtab_flows.contracts.contract import Contract
from trimtab_flows.contracts.predictions import prediction_contract
from trimtab_flows.metrics import auc, log_loss
from trimtab_flows.recipe import Label, Recipe, Resources
from trimtab_flows.windows import Window

TIME = pl.Datetime("us")
ROWS = 600
RAW = pa.DataFrameSchema(
    {
        "id": pa.Column(pl.Int64),
        "at": pa.Column(TIME),
        "x": pa.Column(pl.Float64, pa.Check.in_range(-10, 10)),
        "y": pa.Column(pl.Boolean),
    }
)


class Toy(Recipe):
    """``x`` says ``y``; from April 2024 on it says the opposite."""

    name = "toy"
    start = "2024-01"
    holdout = timedelta(days=10)
    label = Label("y", known_after=timedelta(days=1))
    metrics = (auc, log_loss)
    parameters: Mapping[str, Any] = {"C": 1.0}
    raw: Mapping[str, Contract] = {"events": Contract("events", RAW, key=("id",), event_time="at")}
    features = Contract("features", RAW, key=("id",), event_time="at")
    predictions = prediction_contract({"id": pl.Int64}, low=0.0, high=1.0)

    def load(self, window: Window) -> Mapping[str, pl.DataFrame]:
        random = np.random.default_rng(window.start.toordinal())
        x = random.normal(size=ROWS)
        turned = -1 if window.start.month >= 4 else 1
        first = (window.start.year * 12 + window.start.month) * ROWS
        step = (window.end_time - window.start_time) / ROWS
        return {
            "events": pl.DataFrame(
                {
                    "id": range(first, first + ROWS),
                    "at": [window.start_time + step * place for place in range(ROWS)],
                    "x": x,
                    "y": turned * x + random.normal(size=ROWS) > 0,
                },
                schema_overrides={"at": TIME},
            )
        }

    def version(self, window: Window) -> str | None:
        return "1"

    def build(self, tables: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
        return tables["events"]

    def train(self, frame: pl.DataFrame, parameters: Mapping[str, Any], seed: int, resources: Resources) -> Any:
        return LogisticRegression(C=parameters["C"]).fit(frame.select("x").to_numpy(), frame.get_column("y").to_numpy())

    def predict(self, model: Any, frame: pl.DataFrame) -> np.ndarray:
        if frame.is_empty():
            return np.empty(0)
        return np.asarray(model.predict_proba(frame.select("x").to_numpy())[:, 1])


class BadRows(Toy):
    """Three rows of January are out of range; ``mended`` says which file mends them."""

    name = "toy-bad-rows"

    def load(self, window: Window) -> Mapping[str, pl.DataFrame]:
        events = super().load(window)["events"]
        place = pl.int_range(pl.len())
        return {"events": events.with_columns(x=pl.when(place < 3).then(pl.lit(99.0)).otherwise("x"))}


class BadFeatures(Toy):
    """One feature in twenty is out of the range that the features contract allows."""

    name = "toy-bad-features"
    features = Contract(
        "features",
        RAW.update_column("x", checks=[pa.Check.in_range(-2, 2)]),
        key=("id",),
        event_time="at",
        max_quarantined_share=0.2,
    )


class MissingColumn(Toy):
    """The source lost a column."""

    name = "toy-missing-column"

    def load(self, window: Window) -> Mapping[str, pl.DataFrame]:
        return {"events": super().load(window)["events"].drop("x")}


class Unservable(Toy):
    """Predicts well on many rows and gives NaN on a hundred, as the trial of a promotion asks for."""

    name = "toy-unservable"

    def predict(self, model: Any, frame: pl.DataFrame) -> np.ndarray:
        scores = super().predict(model, frame)
        return np.full(frame.height, np.nan) if frame.height == 100 else scores


class Steady(Toy):
    """Never turns round."""

    name = "toy-steady"

    def load(self, window: Window) -> Mapping[str, pl.DataFrame]:
        events = super().load(window)["events"]
        turned = window.start >= Window.parse("2024-04").start
        return {"events": events.with_columns(~pl.col("y")) if turned else events}


class Refitted(Toy):
    """What serves was trained on the holdout too."""

    name = "toy-refitted"
    refit = True


class Never(Toy):
    """Nothing is ever done with it."""

    name = "toy-never"


class Tiered(Toy):
    """Of tests with a store of their own: what MLflow knows of a recipe names data of one store."""

    name = "toy-tiered"


class Collected(Toy):
    """As ``Tiered``, for another store."""

    name = "toy-collected"


class OnS3(Toy):
    """As ``Tiered``, for a store on S3."""

    name = "toy-on-s3"


toy, bad_rows, bad_features = Toy(), BadRows(), BadFeatures()
tiered, collected, on_s3 = Tiered(), Collected(), OnS3()
missing_column, unservable = MissingColumn(), Unservable()
steady, never, refitted = Steady(), Never(), Refitted()
