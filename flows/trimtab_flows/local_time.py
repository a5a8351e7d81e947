"""Days and clock times of a time zone as moments, also where a clock is put forward or back, or a day is left out.

A *wall time* is a naive datetime: what a clock in the zone shows. A *moment* has its zone, mostly UTC.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import polars as pl

from trimtab_flows.windows import Window

__all__ = ["InvalidZone", "bound", "due", "ends", "exists", "moment_of", "starts", "wall_time", "zone_named"]


class InvalidZone(ValueError):
    """A text that is no time zone's name."""


def zone_named(name: object) -> ZoneInfo:
    """The time zone of an IANA name.

    Raises:
        InvalidZone: there is none of this name.
    """
    try:
        return ZoneInfo(name)  # type: ignore[arg-type]
    except (ValueError, OSError, TypeError, AttributeError, LookupError):
        raise InvalidZone(f"{name!r} is no time zone: write an IANA name, like UTC or Europe/Berlin") from None


def moment_of(wall: datetime, zone: ZoneInfo, fold: int = 0) -> datetime:
    """The moment, in UTC, at which a clock in the zone shows a wall time.

    Of a time that it shows twice, the first; the second with ``fold`` 1. Of one that it leaves out, the moment at which
    it is put forward.
    """
    found = wall.replace(tzinfo=zone, fold=fold).astimezone(UTC)
    if wall_time(found, zone) == wall.replace(fold=0):
        return found
    before, after = found - timedelta(days=2), found + timedelta(days=2)
    while after - before > timedelta(seconds=1):
        middle = before + (after - before) / 2
        before, after = (before, middle) if wall_time(middle, zone) >= wall else (middle, after)
    return after.replace(microsecond=0)


def wall_time(moment: datetime, zone: ZoneInfo) -> datetime:
    """What a clock in the zone shows at a moment; a naive one is a wall time already."""
    return moment if moment.tzinfo is None else moment.astimezone(zone).replace(tzinfo=None, fold=0)


def starts(window: Window, zone: ZoneInfo) -> datetime:
    """The first moment of a window in a zone, in UTC."""
    return _midnight(window.start, zone)


def ends(window: Window, zone: ZoneInfo) -> datetime:
    """The first moment after a window in a zone, in UTC."""
    return _midnight(window.end, zone)


def exists(window: Window, zone: ZoneInfo) -> bool:
    """Whether a zone has any time of the window: Apia left out 2011-12-30."""
    return starts(window, zone) < ends(window, zone)


def due(window: Window, after: timedelta, zone: ZoneInfo) -> datetime:
    """The moment so long after the end of a window, in UTC.

    Whole days are days of the zone, the rest is time that passes: a day and six hours after the end is six hours after
    the next midnight, however long that day is.
    """
    days = timedelta(days=after.days)
    return _midnight(window.end + days, zone) + (after - days)


def bound(column: pl.DataType, wall: datetime, zone: ZoneInfo) -> pl.Expr:
    """A wall time to compare an event time with: as it is, or as a moment where the column's values are moments."""
    there = column.time_zone if isinstance(column, pl.Datetime) else None
    if there is None:
        return pl.lit(wall)
    return pl.lit(moment_of(wall, zone)).dt.convert_time_zone(there)


def _midnight(day: date, zone: ZoneInfo) -> datetime:
    return moment_of(datetime.combine(day, time.min), zone)
