"""A recipe that trains in milliseconds, for `trimtab bench act`: ``x`` says ``y``, and never ceases to."""

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
from trimtab_flows.metrics import auc
from trimtab_flows.recipe import Label, Recipe, Resources
from trimtab_flows.windows import Window

__all__ = ["steady"]

_ROWS = 600
_TIME = pl.Datetime("us")
_SCHEMA = pa.DataFrameSchema(
    {"id": pa.Column(pl.Int64), "at": pa.Column(_TIME), "x": pa.Column(pl.Float64), "y": pa.Column(pl.Boolean)}
)


class Steady(Recipe):
    """600 rows a month."""

    name = "steady"
    start = "2024-01"
    holdout = timedelta(days=10)
    label = Label("y", known_after=timedelta(days=1))
    metrics = (auc,)
    parameters: Mapping[str, Any] = {"C": 1.0}
    raw: Mapping[str, Contract] = {"events": Contract("events", _SCHEMA, key=("id",), event_time="at")}
    features = Contract("features", _SCHEMA, key=("id",), event_time="at")
    predictions = prediction_contract({"id": pl.Int64}, low=0.0, high=1.0)

    def load(self, window: Window) -> Mapping[str, pl.DataFrame]:
        """Numbers made from the window alone."""
        random = np.random.default_rng(window.start.toordinal())
        x, first = random.normal(size=_ROWS), window.start.toordinal() * _ROWS
        step = (window.end_time - window.start_time) / _ROWS
        columns = {
            "id": range(first, first + _ROWS),
            "at": [window.start_time + step * place for place in range(_ROWS)],
            "x": x,
            "y": x + random.normal(size=_ROWS) > 0,
        }
        return {"events": pl.DataFrame(columns, schema_overrides={"at": _TIME})}

    def version(self, window: Window) -> str | None:  # noqa: ARG002 - the protocol's
        """Never another."""
        return "1"

    def build(self, tables: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
        """As it came."""
        return tables["events"]

    def train(self, frame: pl.DataFrame, parameters: Mapping[str, Any], seed: int, resources: Resources) -> Any:  # noqa: ARG002
        """A logistic regression."""
        return LogisticRegression(C=parameters["C"]).fit(frame.select("x").to_numpy(), frame.get_column("y").to_numpy())

    def predict(self, model: Any, frame: pl.DataFrame) -> np.ndarray:
        """Probabilities."""
        return np.asarray(model.predict_proba(frame.select("x").to_numpy())[:, 1]) if frame.height else np.empty(0)


steady = Steady()
