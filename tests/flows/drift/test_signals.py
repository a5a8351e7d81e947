"""Signals: the figures by hand, defined results for every kind of column and window, and time."""

from __future__ import annotations

import json
import math
import time
from datetime import date, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon

from trimtab_flows.drift.reference import InvalidReference, Profile
from trimtab_flows.drift.signals import PREDICTION, Reference, Signal, fit_reference, measure

NOTHING = np.empty(0)


def of(signals: tuple[Signal, ...], column: str, kind: str = "psi") -> Signal:
    return next(signal for signal in signals if (signal.column, signal.kind) == (column, kind))


def drift(before: pl.Series, now: pl.Series) -> Signal:
    """PSI of one column."""
    reference = fit_reference(pl.DataFrame({"x": before}), ["x"], NOTHING)
    return of(measure(reference, pl.DataFrame({"x": now}), NOTHING), "x")


def normal(rows: int, seed: int = 0, mean: float = 0.0) -> pl.Series:
    return pl.Series(np.random.default_rng(seed).normal(mean, 1, rows))


def test_figures_of_two_categories_are_those_worked_out_by_hand():
    before = pl.Series(["a"] * 6 + ["b"] * 2)
    now = pl.Series(["a"] * 2 + ["b"] * 2)
    # Half a row of the smaller sample (0.5 / 4) on the shares 6/8, 2/8 and 1/2, 1/2, then scaled to 1.
    p, q = np.array([0.75, 0.25]) + 0.125, np.array([0.5, 0.5]) + 0.125
    p, q = p / p.sum(), q / q.sum()
    reference = fit_reference(pl.DataFrame({"x": before}), ["x"], NOTHING)
    found = measure(reference, pl.DataFrame({"x": now}), NOTHING)
    psi, js = of(found, "x"), of(found, "x", "js")
    assert psi.value == pytest.approx(sum((q - p) * np.log(q / p)))
    # scipy's is the distance, the root of the divergence.
    assert js.value == pytest.approx(jensenshannon(p, q, base=2) ** 2)
    assert psi.by_chance == pytest.approx((2 - 1) * (1 / 8 + 1 / 4))


def test_signals_come_for_every_input_and_for_the_scores_in_order():
    frame = pl.DataFrame({"b": [1.0, 2.0], "a": ["x", "y"], "unused": [0, 0]})
    found = measure(fit_reference(frame, ["b", "a"], np.array([0.1, 0.2])), frame, np.array([0.1, 0.2]))
    assert [(signal.kind, signal.column) for signal in found] == [
        ("gone", "a"),
        *(("js", column) for column in ("a", "b", PREDICTION)),
        ("missing", "a"),
        ("missing", "b"),
        *(("psi", column) for column in ("a", "b", PREDICTION)),
        ("unseen", "a"),
        ("unseen", "b"),
    ]
    assert all(signal.value == 0 for signal in found)


@pytest.mark.parametrize("rows", [50, 1_000, 50_000])
def test_without_drift_psi_is_what_chance_gives(rows: int):
    found = [drift(normal(50_000, seed), normal(rows, seed + 1_000)) for seed in range(40)]
    mean = float(np.mean([signal.value for signal in found]))
    # The mean of 40 draws of chi-squared with 9 to 11 degrees of freedom is within a quarter of its own; the smoothing
    # takes some of the chance from small windows.
    assert 0.6 < mean / np.mean([signal.by_chance for signal in found]) < 1.25


def test_a_shift_is_seen_and_grows_with_its_size():
    values = [drift(normal(10_000), normal(10_000, 1, mean)).value for mean in (0.0, 0.25, 0.5, 1.0, 3.0)]
    assert values == sorted(values)
    assert values[0] < 0.01
    assert values[2] > 0.1


@pytest.mark.parametrize("now", [4.0, 6.0])
def test_a_constant_column_that_becomes_another_constant_drifts_both_ways(now: float):
    constant = pl.Series([5.0] * 1000)
    assert drift(constant, constant).value == 0
    assert drift(constant, pl.Series([now] * 1000)).value > 5


def test_values_outside_the_range_of_the_reference_drift():
    before = pl.Series(np.linspace(0, 1, 1000))
    for outside in (pl.Series(np.linspace(-2, -1, 1000)), pl.Series(np.linspace(2, 3, 1000))):
        assert drift(before, outside).value > 5
    assert drift(before, before * 60).value > 1  # a unit that changed


def test_a_new_category_counts_for_its_share():
    before = pl.Series(["a", "b"] * 500)
    few = drift(before, pl.Series(["a", "b"] * 495 + ["new"] * 10)).value
    many = drift(before, pl.Series(["a", "b"] * 100 + ["new"] * 800)).value
    assert 0 < few < 0.05 < 1 < many


def test_missing_values_are_a_bin_of_their_own():
    whole = normal(1000)
    holes = pl.select(pl.when(pl.int_range(1000) % 2 == 0).then(whole)).to_series()
    assert drift(whole, holes).value > 1
    assert drift(holes, holes).value == 0
    reference = fit_reference(pl.DataFrame({"x": holes}), ["x"], NOTHING)
    assert reference.profiles[0].missing_share == 0.5
    assert sum(reference.profiles[0].proportions) == pytest.approx(1)


def test_null_and_nan_are_both_missing():
    reference = pl.Series([1.0, 2.0, None, None])
    assert drift(reference, pl.Series([1.0, 2.0, float("nan"), None])).value == 0


def kinds(before: pl.Series, now: pl.Series) -> dict[str, float]:
    reference = fit_reference(pl.DataFrame({"x": before}), ["x"], NOTHING)
    found = measure(reference, pl.DataFrame({"x": now}), NOTHING)
    return {signal.kind: signal.value for signal in found if signal.column == "x" and signal.kind not in ("psi", "js")}


def test_what_changed_in_an_input_is_told_in_shares():
    before = pl.Series(["a", "b", "c", None] * 100)
    now = pl.Series(["a", "new", "a", "b", None, None, None, None] * 10)
    assert kinds(before, before) == {"missing": 0, "unseen": 0, "gone": 0}
    assert kinds(before, now) == pytest.approx({"missing": 0.25, "unseen": 1 / 8, "gone": 0.25})


def test_values_out_of_the_range_of_a_quantity_are_unseen():
    before = pl.Series(np.linspace(0, 1, 1000))
    assert kinds(before, pl.Series([0.5, -1.0, 2.0, 0.1])) == {"missing": 0, "unseen": 0.5}
    assert kinds(before, pl.Series([None, None], dtype=pl.Float64)) == {"missing": 1, "unseen": 0}
    nothing = pl.Series([None] * 10, dtype=pl.Float64)
    assert kinds(nothing, pl.Series([1.0, None])) == {"missing": 0.5, "unseen": 0.5}


def test_chance_is_told_beside_what_changed():
    reference = fit_reference(pl.DataFrame({"x": [f"v{n % 40}" for n in range(4000)]}), ["x"], NOTHING)
    found = [
        of(measure(reference, pl.DataFrame({"x": [f"v{n}" for n in drawn]}), NOTHING), "x", "gone")
        for drawn in np.random.default_rng(0).integers(0, 40, (200, 60))
    ]
    assert np.mean([signal.value for signal in found]) == pytest.approx(found[0].by_chance, rel=0.1)


COLUMNS = {
    "float": pl.Series([0.5, 1.5, 2.5, 3.5] * 5),
    "infinite": pl.Series([1.0, math.inf, -math.inf, 2.0] * 5),
    "integer": pl.Series([1, 2, 3, 4] * 5),
    "decimal": pl.Series([1, 2, 3, 4] * 5).cast(pl.Decimal(10, 2)),
    "constant": pl.Series([7.0] * 20),
    "bool": pl.Series([True, False, True, True] * 5),
    "text": pl.Series(["a", "b", "c", "d"] * 5),
    "categorical": pl.Series(["a", "b", "c", "d"] * 5).cast(pl.Categorical),
    "enum": pl.Series(["a", "b", "a", "b"] * 5).cast(pl.Enum(["a", "b"])),
    "date": pl.Series([date(2024, 1, 1), date(2024, 2, 1)] * 10),
    "datetime": pl.Series([datetime(2024, 1, 1), datetime(2024, 2, 1, 5)] * 10),
    "zoned": pl.Series([datetime(2024, 1, 1), datetime(2024, 2, 1)] * 10).dt.replace_time_zone("Europe/Berlin"),
    "duration": pl.Series([timedelta(hours=1), timedelta(days=2)] * 10),
    "time": pl.Series([datetime(2024, 1, 1, 5), datetime(2024, 2, 1, 9)] * 10).dt.time(),
    "list": pl.Series([[1.0, 2.0], [3.0]] * 10),
    "struct": pl.Series([{"a": 1}, {"a": 2}] * 10),
    "binary": pl.Series([b"a", b"b"] * 10),
    "object": pl.Series([object()] * 20, dtype=pl.Object),
    "null": pl.Series([None] * 20),
    "all missing": pl.Series([None] * 20, dtype=pl.Float64),
    "one row": pl.Series([1.0]),
    "no rows": pl.Series([], dtype=pl.Float64),
    "no text": pl.Series([], dtype=pl.String),
}


@pytest.mark.parametrize("before", COLUMNS)
def test_every_kind_of_column_against_every_other_is_finite(before: str):
    reference = fit_reference(pl.DataFrame({"x": COLUMNS[before]}), ["x"], NOTHING)
    again = Reference.from_json(reference.to_json())
    assert again == reference
    for now, column in COLUMNS.items():
        for signal in measure(again, pl.DataFrame({"x": column}), NOTHING):
            assert 0 <= signal.value < math.inf, now
            assert 0 <= signal.by_chance < math.inf, now
            assert signal.kind == "psi" or signal.value <= 1, now
            assert signal.kind not in ("missing", "unseen", "gone") or signal.by_chance <= 1, now
            if before == now or signal.column == PREDICTION:
                assert signal.value == 0, now


def test_the_unit_that_a_time_is_stored_in_is_no_drift():
    hours = pl.Series([datetime(2024, 1, 1, hour) for hour in range(24)])
    assert drift(hours.cast(pl.Datetime("us")), hours.cast(pl.Datetime("ms"))).value == 0


def test_a_column_that_the_window_lacks_is_missing_in_every_row():
    frame = pl.DataFrame({"x": normal(100), "y": normal(100)})
    reference = fit_reference(frame, ["x", "y"], NOTHING)
    found = measure(reference, frame.drop("y"), NOTHING)
    assert of(found, "x").value == 0
    assert of(found, "y").value > 1


def test_columns_named_like_polars_own_are_measured():
    frame = pl.DataFrame({"count": ["a", "b"], "value": ["a", "b"], "rows": ["a", "b"]})
    found = measure(fit_reference(frame, frame.columns, NOTHING), frame, NOTHING)
    assert {signal.column for signal in found} == {*frame.columns, PREDICTION}


def test_the_same_rows_in_another_order_give_the_same_reference():
    frame = pl.DataFrame({"x": [f"v{number % 70}" for number in range(700)], "y": range(700)})
    shuffled = frame.sample(fraction=1, shuffle=True, seed=3)
    assert fit_reference(frame, ["x", "y"], NOTHING) == fit_reference(shuffled, ["x", "y"], NOTHING)


def test_many_categories_are_kept_up_to_a_number_and_the_rest_counted_together():
    frame = pl.DataFrame({"x": [f"v{number}" for number in range(10_000)] + ["often"] * 10})
    profile = fit_reference(frame, ["x"], NOTHING).profiles[0]
    assert profile.categories is not None
    assert len(profile.categories) == 50
    assert "often" in profile.categories
    assert profile.rows == 10_010
    assert profile.counts[-2:] == (10_000 - 49, 0)


@given(
    st.lists(st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True, width=32)), max_size=40),
    st.lists(st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True, width=32)), max_size=40),
)
def test_any_numbers_give_finite_figures_within_their_range(before: list[float | None], now: list[float | None]):
    columns = pl.Series(before, dtype=pl.Float64), pl.Series(now, dtype=pl.Float64)
    reference = fit_reference(pl.DataFrame({"x": columns[0]}), ["x"], NOTHING)
    assert reference.profiles[0].rows == len(before)
    for signal in measure(reference, pl.DataFrame({"x": columns[1]}), NOTHING):
        assert 0 <= signal.value < math.inf
        assert signal.kind == "psi" or signal.value <= 1


numbers = st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True))
texts = st.one_of(st.none(), st.sampled_from(["a", "b", "c", "1", "nan", ""]))
flags = st.one_of(st.none(), st.booleans())
moments = st.one_of(st.none(), st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1)))
rows_of_all_kinds = st.lists(st.tuples(numbers, texts, flags, moments, st.floats(0, 1)), max_size=30)
SCHEMA = {"n": pl.Float64, "t": pl.String, "f": pl.Boolean, "m": pl.Datetime("us")}


def split(rows: list[tuple]) -> tuple[pl.DataFrame, np.ndarray]:
    """Inputs and scores."""
    frame = pl.DataFrame([row[:4] for row in rows], schema=SCHEMA, orient="row")
    return frame, np.array([row[4] for row in rows], dtype=np.float64)


@given(rows_of_all_kinds)
def test_a_frame_does_not_drift_from_itself(rows: list[tuple]):
    frame, scores = split(rows)
    found = measure(fit_reference(frame, frame.columns, scores), frame, scores)
    assert len([signal for signal in found if signal.kind in ("psi", "js")]) == 2 * (frame.width + 1)
    # Fifty categories are kept by name, and here are fewer: nothing is unseen, and nothing gone.
    assert all(signal.value == 0 for signal in found)


@given(rows_of_all_kinds, rows_of_all_kinds, st.randoms(use_true_random=False))
def test_the_order_of_rows_changes_no_figure(before: list[tuple], now: list[tuple], random):
    (frame, scores), (later, later_scores) = split(before), split(now)
    found = measure(fit_reference(frame, frame.columns, scores), later, later_scores)
    random.shuffle(before)
    random.shuffle(now)
    (frame, scores), (later, later_scores) = split(before), split(now)
    assert measure(fit_reference(frame, frame.columns, scores), later, later_scores) == found


@given(rows_of_all_kinds, rows_of_all_kinds)
def test_every_figure_is_finite_and_survives_json(before: list[tuple], now: list[tuple]):
    (frame, scores), (later, later_scores) = split(before), split(now)
    reference = fit_reference(frame, frame.columns, scores)
    found = measure(reference, later, later_scores)
    assert measure(Reference.from_json(reference.to_json()), later, later_scores) == found
    for signal in found:
        assert 0 <= signal.value < math.inf
        assert signal.kind == "psi" or signal.value <= 1


def test_an_input_named_like_the_scores_is_refused():
    with pytest.raises(ValueError, match="an input may not be named 'prediction'"):
        fit_reference(pl.DataFrame({PREDICTION: [1.0]}), [PREDICTION], NOTHING)


def test_an_input_without_a_name_is_refused_for_no_metric_could_bear_it():
    with pytest.raises(ValueError, match="an input has an empty name"):
        fit_reference(pl.DataFrame({"": [1.0]}), [""], NOTHING)


def test_an_input_listed_twice_is_refused_by_name():
    with pytest.raises(ValueError, match="inputs x are listed more than once"):
        fit_reference(pl.DataFrame({"x": [1.0], "y": [1.0]}), ["x", "y", "x"], NOTHING)


def test_a_column_that_the_frame_lacks_is_refused_by_name():
    with pytest.raises(ValueError, match="no column y to profile; it has x"):
        fit_reference(pl.DataFrame({"x": [1.0]}), ["x", "y"], NOTHING)


def test_scores_of_two_dimensions_are_refused():
    with pytest.raises(ValueError, match=r"shape \(2, 2\); it must be \(rows,\)"):
        fit_reference(pl.DataFrame({"x": [1.0]}), ["x"], np.zeros((2, 2)))


@pytest.mark.parametrize(
    "text",
    [
        "no json",
        "[]",
        "{}",
        '{"format": 2, "profiles": []}',
        '{"format": 1, "profiles": [{"column": "x"}]}',
        '{"format": 1, "profiles": [{"column": "x", "edges": null, "categories": null, "counts": []}]}',
        '{"format": 1, "profiles": [{"column": "x", "edges": [1], "categories": null, "counts": [1]}]}',
    ],
)
def test_a_text_that_is_no_reference_is_refused(text: str):
    with pytest.raises(InvalidReference):
        Reference.from_json(text)


def test_a_reference_is_standard_json():
    reference = fit_reference(pl.DataFrame({"x": COLUMNS["infinite"]}), ["x"], np.array([math.nan, 0.5]))
    parsed = json.loads(reference.to_json(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert [profile["column"] for profile in parsed["profiles"]] == ["x", PREDICTION]
    assert isinstance(reference.profiles[0], Profile)


def test_a_million_rows_of_twenty_columns_against_as_many():
    random, rows = np.random.default_rng(0), 1_000_000
    frame = pl.DataFrame(
        {f"n{number}": random.normal(size=rows) for number in range(12)}
        | {f"d{number}": random.integers(0, 30, rows) for number in range(3)}
        | {f"c{number}": pl.Series(random.integers(0, 40, rows)).cast(pl.String) for number in range(4)}
        | {"unique": pl.Series(range(rows)).cast(pl.String)}
    )
    scores = random.random(rows)
    # Time of this process: another's load on the machine is no matter of ours.
    started = time.process_time()
    found = measure(fit_reference(frame, frame.columns, scores), frame, scores)
    took_s = time.process_time() - started
    print(f"reference and signals of {rows:,} rows x {frame.width}: {took_s:.2f} s")
    assert len([signal for signal in found if signal.kind in ("psi", "js")]) == 2 * 21
    assert took_s < 5
