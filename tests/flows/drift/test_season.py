"""References that know the season: a year that turns round is no drift to them, and what is new still is."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import polars as pl
import pytest

from trimtab_flows.drift.evidence import Seen
from trimtab_flows.drift.reference import Reference
from trimtab_flows.drift.season import (
    Season,
    SeasonalReference,
    combine,
    recount,
    seasonal,
    seasonal_performance,
    windows_needed,
)
from trimtab_flows.drift.signals import fit_reference, measure

NOTHING = np.empty(0)
COLUMNS = ("temp", "kind")
YEAR = Season(period=12, rolling=3, around=1)


def month(place: int, shift: float = 0.0) -> pl.DataFrame:
    """2,000 rows of a month: the temperature goes round in twelve of them."""
    random = np.random.default_rng(place)
    warm = 10 - 10 * np.cos(2 * np.pi * place / 12)
    return pl.DataFrame({"temp": random.normal(warm + shift, 2, 2000), "kind": random.choice(["a", "b"], 2000)})


@pytest.fixture(scope="module")
def model() -> Reference:
    """Trained on January and February of the first year."""
    return fit_reference(pl.concat([month(0), month(1)]), ["temp", "kind"], NOTHING)


def psi(reference: Reference, frame: pl.DataFrame) -> float:
    found = measure(reference, frame, NOTHING)
    return next(each.value for each in found if (each.kind, each.column) == ("psi", "temp"))


def history(places: Iterable[int], shift_from: int = 10**6) -> dict[int, pl.DataFrame]:
    return {place: month(place, 5.0 if place >= shift_from else 0.0) for place in places}


def of(places: Iterable[int], place: int, shift_from: int = 10**6) -> SeasonalReference:
    found = seasonal(history(places, shift_from), COLUMNS, place, YEAR)
    assert found is not None
    return found


def test_summer_drifts_from_winter_but_not_from_the_summer_before(model: Reference):
    july = month(18)
    adjusted, same = of(range(18), 18), of((5, 6, 7), 18)
    assert (adjusted.kind, same.kind) == ("adjusted", "same")
    assert psi(model, july) > 3
    assert psi(adjusted.reference, july) < 0.3
    assert psi(same.reference, july) < 0.3


def test_without_a_year_of_history_it_is_the_windows_just_before(model: Reference):
    found = of(range(2, 6), 6)
    assert (found.kind, found.places) == ("rolling", (3, 4, 5))
    assert psi(found.reference, month(6)) < psi(model, month(6))


@pytest.mark.parametrize("places", [range(18), range(5, 8), range(15, 18)])
def test_a_shift_of_its_own_drifts_from_every_season(places: range):
    assert psi(of(places, 18).reference, month(18, shift=8.0)) > 0.5


def test_a_level_that_stays_is_taken_into_the_adjusted_reference():
    # From month 13 on it is five degrees warmer; the season of the year before tells how July differs from spring.
    warmer = month(18, shift=5.0)
    same = of((5, 6, 7), 18)
    assert psi(of(range(18), 18, shift_from=13).reference, warmer) < psi(same.reference, warmer)


def test_nothing_before_is_no_reference():
    assert seasonal({}, COLUMNS, 0, YEAR) is None
    assert seasonal(history(range(1)), COLUMNS, 20, YEAR) is None
    assert seasonal({place: month(0).clear() for place in range(12)}, COLUMNS, 12, YEAR) is None


def test_only_windows_before_are_used():
    assert windows_needed(2, YEAR) == (0, 1)
    assert windows_needed(14, YEAR) == (0, 1, 2, 3, 11, 12, 13)
    assert of((0, 1, 2, 3, 9), 2).places == (0, 1)


def test_combined_counts_are_the_counts_of_all_rows(model: Reference):
    both = combine([recount(model, month(3)), recount(model, month(4))])
    assert both == recount(model, pl.concat([month(3), month(4)]))
    assert all(profile.rows == 4000 for profile in both.profiles)


def test_lost_columns_are_defined(model: Reference):
    assert recount(model, month(3).drop("temp")).profiles[0].missing_share == 1
    lost = {place: month(place).drop("temp") if place % 2 else month(place) for place in range(12)}
    found = seasonal(lost, COLUMNS, 12, YEAR)
    assert found is not None
    assert all(np.isfinite(signal.value) for signal in measure(found.reference, month(12), NOTHING))


def test_bins_that_differ_are_not_combined(model: Reference):
    other = fit_reference(month(6), ["temp", "kind"], NOTHING)
    with pytest.raises(ValueError, match="different bins"):
        combine([recount(model, month(3)), recount(other, month(3))])


@pytest.mark.parametrize("wrong", [{"period": 1}, {"period": 12, "rolling": 0}, {"period": 3, "around": 2}])
def test_a_season_that_cannot_be_is_refused_by_field(wrong: dict[str, int]):
    with pytest.raises(ValueError, match=list(wrong)[-1]):
        Season(**wrong)


def seen(performance: float | None, rows: int = 100) -> Seen:
    return Seen("", performance, 0.01, rows=rows)


def test_how_champions_did_a_season_ago_is_weighed_by_rows_and_never_taken_from_the_windows_just_before():
    year_ago = {5: seen(0.6), 6: seen(0.7, rows=300), 7: seen(None), 15: seen(0.9), 16: seen(0.9), 17: seen(0.9)}
    found = seasonal_performance(year_ago, 18, YEAR)
    assert found == pytest.approx((0.675, 0.01 * np.hypot(100, 300) / 400))
    assert seasonal_performance({each: year_ago[each] for each in (7, 15, 16, 17)}, 18, YEAR) is None
    assert seasonal_performance({6: seen(0.7, rows=0)}, 18, YEAR) is None
