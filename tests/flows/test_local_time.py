"""Days of a zone as moments: the same wherever the process runs, across changes of the clock, and a day left out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pandera.polars as pa
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toy_recipe import Toy
from trimtab_flows.contracts.check import check
from trimtab_flows.contracts.contract import Contract
from trimtab_flows.drift.calendar import Blackout, Hours
from trimtab_flows.drift.policy import Policy
from trimtab_flows.lifecycle import arrived
from trimtab_flows.loading import BrokenRecipe, load_recipe
from trimtab_flows.local_time import InvalidZone, due, ends, exists, moment_of, starts, wall_time, zone_named
from trimtab_flows.recipe import Label
from trimtab_flows.steps.split import split_by_time
from trimtab_flows.windows import Window

BERLIN, NEW_YORK, KOLKATA, APIA = "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Pacific/Apia"
ZONES = [
    BERLIN,
    NEW_YORK,
    KOLKATA,
    APIA,
    "UTC",
    "America/Sao_Paulo",
    "America/Havana",
    "Australia/Lord_Howe",
    "Africa/Cairo",
]


@pytest.fixture(autouse=True, params=["America/Los_Angeles", "Pacific/Kiritimati"])
def of_the_process(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What the host's clock is set to makes no difference."""
    with monkeypatch.context() as changed:
        changed.setenv("TZ", request.param)
        time.tzset()
        yield
    time.tzset()


def z(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("zone", "window", "first", "after"),
    [
        (BERLIN, "2024-03", "2024-02-29T23:00", "2024-03-31T22:00"),
        (BERLIN, "2024-03-31", "2024-03-30T23:00", "2024-03-31T22:00"),  # 23 hours
        (BERLIN, "2024-10-27", "2024-10-26T22:00", "2024-10-27T23:00"),  # 25 hours
        (NEW_YORK, "2024-03-10", "2024-03-10T05:00", "2024-03-11T04:00"),
        (NEW_YORK, "2024-11", "2024-11-01T04:00", "2024-12-01T05:00"),
        (KOLKATA, "2024-01-01", "2023-12-31T18:30", "2024-01-01T18:30"),
        (APIA, "2011-12-29", "2011-12-29T10:00", "2011-12-30T10:00"),
        (APIA, "2011-12-31", "2011-12-30T10:00", "2011-12-31T10:00"),
        (APIA, "2011-12", "2011-12-01T10:00", "2011-12-31T10:00"),  # 30 days
        ("America/Sao_Paulo", "2018-11-04", "2018-11-04T03:00", "2018-11-05T02:00"),  # begins at one o'clock
        ("UTC", "2024-W10", "2024-03-04T00:00", "2024-03-11T00:00"),
    ],
)
def test_ends_of_windows(zone: str, window: str, first: str, after: str) -> None:
    found = Window.parse(window)
    assert (starts(found, ZoneInfo(zone)), ends(found, ZoneInfo(zone))) == (z(first), z(after))


@given(st.dates(date(1900, 1, 1), date(2037, 1, 1)), st.sampled_from(ZONES))
def test_a_day_begins_with_its_first_second(day: date, zone: str) -> None:
    window, there = Window(day, day + timedelta(days=1)), ZoneInfo(zone)
    first = starts(window, there)
    assert wall_time(first - timedelta(seconds=1), there).date() < day
    assert (wall_time(first, there).date() == day) is exists(window, there)
    assert ends(window, there) >= first


@given(st.datetimes(datetime(1970, 1, 1), datetime(2037, 1, 1)), st.sampled_from(ZONES))
def test_a_clock_time_is_the_first_moment_that_shows_it_or_more(wall: datetime, zone: str) -> None:
    there = ZoneInfo(zone)
    found = moment_of(wall, there)
    shown = wall_time(found, there)
    assert shown >= wall
    assert shown == wall or wall_time(found - timedelta(seconds=1), there) < wall
    assert moment_of(wall, there, fold=1) >= found


@pytest.mark.parametrize(
    ("zone", "window", "after", "expected"),
    [
        (BERLIN, "2024-03-30", timedelta(days=1), "2024-03-31T22:00"),  # the next midnight, 23 hours later
        (BERLIN, "2024-03-30", timedelta(hours=6), "2024-03-31T05:00"),  # six hours, though the clock shows seven
        (BERLIN, "2024-10-26", timedelta(days=1, hours=6), "2024-10-28T05:00"),
        (NEW_YORK, "2024-10", timedelta(days=7), "2024-11-08T05:00"),
        (KOLKATA, "2024-10", timedelta(0), "2024-10-31T18:30"),
        (APIA, "2011-12-28", timedelta(days=1), "2011-12-30T10:00"),
        (APIA, "2011-12-28", timedelta(days=2), "2011-12-30T10:00"),
    ],
)
def test_labels_are_due(zone: str, window: str, after: timedelta, expected: str) -> None:
    assert due(Window.parse(window), after, ZoneInfo(zone)) == z(expected)


def recipe(zone: str, **changed: object) -> Toy:
    made = Toy()
    for name, value in {"timezone": zone, **changed}.items():
        setattr(made, name, value)
    return made


@pytest.mark.parametrize("zone", [BERLIN, NEW_YORK, KOLKATA, APIA])
@pytest.mark.parametrize("window", ["2024-02", "2024-03", "2024-10", "2024-11"])
def test_a_window_has_arrived_when_its_labels_are_due_and_not_a_second_before(zone: str, window: str) -> None:
    daily, last = recipe(zone, start="2024-01"), Window.parse(window)
    moment = daily.due(last)
    assert list(arrived(daily, moment))[-1] == last
    assert list(arrived(daily, moment.astimezone(ZoneInfo("Asia/Tokyo"))))[-1] == last
    assert list(arrived(daily, moment - timedelta(seconds=1)))[-1] < last
    naive = wall_time(moment, daily.zone)
    assert list(arrived(daily, naive))[-1] == last
    assert list(arrived(daily, naive - timedelta(seconds=1)))[-1] < last


def test_a_day_that_was_left_out_is_no_window() -> None:
    daily = recipe(APIA, start="2011-12-27", cadence="day", label=Label("y"))
    labels = [window.label for window in arrived(daily, z("2012-01-01T10:00"))]
    assert labels == ["2011-12-27", "2011-12-28", "2011-12-29", "2011-12-31", "2012-01-01"]
    assert [each.label for each in daily.windows(Window.parse("2011-12-29..2011-12-31"))] == [
        "2011-12-29",
        "2011-12-31",
    ]


@pytest.mark.parametrize("columns", ["UTC", BERLIN, None])
def test_rows_are_held_back_by_the_recipes_days_whatever_zone_the_column_has(columns: str | None) -> None:
    """The last day of March 2024 in Berlin has 23 hours, from 23:00 UTC on the 30th."""
    made = recipe(BERLIN, holdout=timedelta(days=1))
    hours = pl.datetime_range(z("2024-03-29T00:00"), z("2024-03-31T21:00"), "1h", time_unit="us", eager=True)
    times = hours.dt.convert_time_zone(BERLIN if columns is None else columns)
    times = times.dt.replace_time_zone(None) if columns is None else times
    frame = pl.DataFrame({"id": range(len(times)), "at": times, "x": 0.0, "y": True})
    split = split_by_time(frame, made, Window.parse("2024-03").end_time)
    assert (split.holdout.height, split.training.height) == (23, 47)


@pytest.mark.parametrize(("zone", "late"), [(BERLIN, 0), (NEW_YORK, 0), (KOLKATA, 3), (None, 0)])
def test_a_table_speaks_for_the_days_of_its_recipe(zone: str | None, late: int) -> None:
    """Three rows of Berlin's last hours of March: in Kolkata it was April."""
    schema = pa.DataFrameSchema({"at": pa.Column(pl.Datetime("us", BERLIN))})
    times = [datetime(2024, 3, 31, hour, 30, tzinfo=ZoneInfo(BERLIN)) for hour in (21, 22, 23)]
    frame = pl.DataFrame({"at": times}, schema={"at": pl.Datetime("us", BERLIN)})
    end = Window.parse("2024-03").end_time
    verdict = check(Contract("t", schema, ("at",), "at"), frame, as_of=end, zone=zone_named(zone) if zone else None)
    assert sum(failure.count for failure in verdict.failures if "later than" in failure.check) == late


@pytest.mark.parametrize(
    ("zone", "blackout", "moment", "expected"),
    [
        (NEW_YORK, Blackout("2024-03-10", "2024-03-10"), "2024-03-10T05:00", "2024-03-11T04:00"),
        (NEW_YORK, Blackout("2024-03-10", "2024-03-10"), "2024-03-10T04:59", "2024-03-10T04:59"),
        (BERLIN, Blackout("2024-10-27T01:00", "2024-10-27T02:30"), "2024-10-27T00:30", "2024-10-27T01:30"),
        (BERLIN, Blackout("2024-03-31T02:30", "2024-03-31T04:00"), "2024-03-31T01:00", "2024-03-31T02:00"),
        (KOLKATA, Blackout("2024-03-31", "2024-03-31"), "2024-03-31T10:00", "2024-03-31T18:30"),
        (APIA, Blackout("2011-12-30", "2011-12-30"), "2011-12-30T10:00", "2011-12-30T10:00"),
        (APIA, Blackout("2011-12-29", "2011-12-31"), "2011-12-30T10:00", "2011-12-31T10:00"),
    ],
)
def test_blackouts_are_local_to_the_recipe_unless_the_policy_names_a_zone(
    zone: str, blackout: Blackout, moment: str, expected: str
) -> None:
    policy = Policy(blackouts=(blackout,)).in_zone(zone)
    assert policy.calendar.next_start(z(moment))[0] == z(expected)
    own = replace(policy, timezone="UTC").in_zone(zone)
    assert own.timezone == "UTC"


def test_allowed_hours_that_a_clock_leaves_out_begin_when_it_is_put_forward() -> None:
    policy = Policy(allowed=(Hours(("sun",), "02:30", "05:00"),), timezone=BERLIN)
    assert policy.calendar.next_start(z("2024-03-30T12:00"))[0] == z("2024-03-31T01:00")


@pytest.mark.parametrize("name", ["Mars/Olympus", "", 5, None, "CET/../UTC"])
def test_what_is_no_zone_is_refused(name: object) -> None:
    with pytest.raises(InvalidZone, match="write an IANA name"):
        zone_named(name)


def test_a_recipe_with_a_wrong_zone_is_refused(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wrongly_zoned.py").write_text(
        "from toy_recipe import Toy\nr = Toy()\nr.timezone = 'Europe/Atlantis'\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(BrokenRecipe, match="timezone: 'Europe/Atlantis' is no time zone"):
        load_recipe("wrongly_zoned:r")
