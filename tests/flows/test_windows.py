from __future__ import annotations

from datetime import date, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab_flows.windows import InvalidWindow, Window

days = st.dates(min_value=date(1990, 1, 1), max_value=date(2090, 1, 1))
cadences = st.sampled_from(["day", "week", "month"])


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("2013-03", date(2013, 3, 1), date(2013, 4, 1)),
        ("2013-12", date(2013, 12, 1), date(2014, 1, 1)),
        ("2013-W01", date(2012, 12, 31), date(2013, 1, 7)),
        ("2013-03-04", date(2013, 3, 4), date(2013, 3, 5)),
        ("2013-01..2013-02", date(2013, 1, 1), date(2013, 3, 1)),
        ("2013-01-05..2013-01-07", date(2013, 1, 5), date(2013, 1, 8)),
    ],
)
def test_a_text_names_a_window(text: str, start: date, end: date) -> None:
    assert Window.parse(text) == Window(start, end)
    assert Window.parse(text).label == text


@pytest.mark.parametrize(
    "text", ["", "March", "2013", "2013-13", "2013-W60", "2013-02-30", "2013-03..", "2013-03..2013-01"]
)
def test_another_text_is_refused_and_quoted(text: str) -> None:
    with pytest.raises(InvalidWindow) as refusal:
        Window.parse(text)
    assert "window" in str(refusal.value)


def test_an_unknown_cadence_is_refused() -> None:
    with pytest.raises(InvalidWindow, match="use day, week or month"):
        Window.containing(date(2013, 1, 1), "year")  # type: ignore[arg-type]


@given(days, cadences)
def test_a_label_is_read_back(day: date, cadence) -> None:
    window = Window.containing(day, cadence)
    assert window.start <= day < window.end
    assert Window.parse(window.label) == window


@given(days, days)
def test_a_range_of_days_is_read_back(one: date, other: date) -> None:
    window = Window(min(one, other), date.fromordinal(max(one, other).toordinal() + 1))
    assert Window.parse(window.label) == window


@given(days, cadences, st.integers(1, 20))
def test_windows_follow_each_other_without_gap(day: date, cadence, count: int) -> None:
    window = first = Window.containing(day, cadence)
    for _ in range(count):
        following = window.following(cadence)
        assert following.start == window.end
        window = following
    parts = list(Window(first.start, window.end).split(cadence))
    assert parts[0] == first
    assert parts[-1] == window
    assert len(parts) == count + 1


def test_moments_are_the_ends() -> None:
    window = Window.parse("2013-02")
    assert (window.start_time, window.end_time) == (datetime(2013, 2, 1), datetime(2013, 3, 1))
