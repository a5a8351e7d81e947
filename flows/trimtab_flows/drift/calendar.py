"""When a retraining may start: allowed hours of the week, and black-outs; both in the policy's own time zone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from trimtab_flows.drift.values import InvalidPolicy, from_plain, must_be_text, read_moment
from trimtab_flows.local_time import moment_of

__all__ = ["Blackout", "Calendar", "Hours", "zone_of"]

WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")

#: A start further away than this is none: the policy then allows nothing.
_LOOK_AHEAD = timedelta(days=400)


@dataclass(frozen=True)
class Hours:
    """Hours of some weekdays in which a retraining may start.

    Attributes:
        weekdays: of ``mon tue wed thu fri sat sun``; every day, when not given.
        start: local time of day, ``22:00``; midnight when not given.
        end: the first time of day after the hours, ``06:00``; ``24:00``, the default, is the end of the day. At or
            before ``start`` it is on the next day.

    Raises:
        InvalidPolicy: a value that is not allowed; the message names the field.
    """

    weekdays: tuple[str, ...] = WEEKDAYS
    start: str = "00:00"
    end: str = "24:00"

    def __post_init__(self) -> None:
        days = self.weekdays
        if isinstance(days, str) or not isinstance(days, list | tuple) or not days or not set(days) <= set(WEEKDAYS):
            raise InvalidPolicy(
                f"policy: field allowed.weekdays is {days!r}; it must be a list of days of {' '.join(WEEKDAYS)}"
            )
        object.__setattr__(self, "weekdays", tuple(day for day in WEEKDAYS if day in days))
        for name in ("start", "end"):
            value = getattr(self, name)
            # TOML has times of day; YAML 1.1 reads 22:00 as a number of minutes in base 60.
            if isinstance(value, time):
                value = f"{value:%H:%M}"
            elif isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 1440:
                value = f"{value // 60:02}:{value % 60:02}"
            object.__setattr__(self, name, value)
            _minutes(f"allowed.{name}", value)

    def opens(self, day: datetime) -> tuple[datetime, datetime] | None:
        """First moment of the hours that begin on this local day, and the first after them; None on other weekdays."""
        if WEEKDAYS[day.weekday()] not in self.weekdays:
            return None
        first, last = _minutes("allowed.start", self.start), _minutes("allowed.end", self.end)
        last += 0 if last > first else 1440
        return _at(day, first), _at(day, last)


def _minutes(name: str, text: object) -> int:
    """Minutes since midnight of a time of day like 22:00."""
    try:
        hours, minutes = (int(part) for part in text.split(":"))  # type: ignore[attr-defined]
    except (AttributeError, ValueError):
        hours, minutes = -1, 0
    if not ((0 <= hours <= 23 and 0 <= minutes <= 59) or (hours, minutes) == (24, 0)):
        raise InvalidPolicy(f'policy: field {name} is {text!r}; it must be a time of day from "00:00" to "24:00"')
    return hours * 60 + minutes


def _at(day: datetime, minutes: int, fold: int = 0) -> datetime:
    """The moment of a wall-clock time of a local day, or of the next."""
    on = day.date() + timedelta(days=minutes // 1440)
    return _moment(datetime.combine(on, time(minutes % 1440 // 60, minutes % 60)), day.tzinfo, fold)


def _moment(wall: datetime, zone: Any, fold: int = 0) -> datetime:
    """Of a time that the clock shows twice the first, or second; of one that it leaves out, when it is put forward."""
    return moment_of(wall, zone, fold) if isinstance(zone, ZoneInfo) else wall.replace(tzinfo=zone)


@dataclass(frozen=True)
class Blackout:
    """A stretch of time in which no retraining may start.

    Attributes:
        start: its first moment, local to the policy's time zone unless it names one.
        end: the first moment after it. A date alone means all of that day.
        reason: told when it holds a retraining back.

    Raises:
        InvalidPolicy: a value that is not allowed; the message names the field.
    """

    start: str
    end: str
    reason: str = ""

    def __post_init__(self) -> None:
        must_be_text("policy", "blackouts.reason", self.reason, empty=True)
        for name in ("start", "end"):
            value = getattr(self, name)
            moment = read_moment("policy", f"blackouts.{name}", value, InvalidPolicy)
            whole_day = len(str(value)) == len("2026-11-27")
            object.__setattr__(self, name, str(value) if whole_day else moment.isoformat())
        start, end = self.within(UTC)
        if end <= start:
            raise InvalidPolicy(f"policy: field blackouts.end is {self.end!r}; it must be later than {self.start!r}")

    def within(self, zone: Any) -> tuple[datetime, datetime]:
        """First moment, and the first after it."""
        ends = [datetime.fromisoformat(text) for text in (self.start, self.end)]
        if len(self.end) == len("2026-11-27"):
            ends[1] += timedelta(days=1)
        # An end that the clock shows twice is the second: nothing starts in between.
        start, end = (moment if moment.tzinfo else _moment(moment, zone, fold) for fold, moment in enumerate(ends))
        return start, end


def zone_of(name: str) -> ZoneInfo:
    """The time zone of an IANA name.

    Raises:
        InvalidPolicy: there is none of this name.
    """
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, TypeError, AttributeError, LookupError):
        raise InvalidPolicy(
            f"policy: field timezone is {name!r}; it must be a time zone's IANA name, like UTC or Europe/Berlin"
        ) from None


@dataclass(frozen=True)
class Calendar:
    """Allowed hours (none: always) less the black-outs."""

    zone: ZoneInfo
    allowed: tuple[Hours, ...] = ()
    blackouts: tuple[Blackout, ...] = ()

    @property
    def empty(self) -> bool:
        """Whether every moment is allowed."""
        return not self.allowed and not self.blackouts

    def next_start(self, moment: datetime) -> tuple[datetime | None, tuple[str, ...]]:
        """The first allowed moment from this one on, in UTC, and what held it back, as phrases.

        None where there is none within 400 days.
        """
        candidate, held = moment.astimezone(UTC), []
        limit = candidate + _LOOK_AHEAD
        while candidate <= limit:
            blackout = next((each for each in self.blackouts if self._inside(each, candidate)), None)
            if blackout is not None:
                held.append(f"a black-out from {blackout.start} to {blackout.end}{_because(blackout.reason)}")
                candidate = blackout.within(self.zone)[1].astimezone(UTC)
                continue
            opening = self._opening(candidate)
            if opening == candidate:
                return candidate, tuple(dict.fromkeys(held))
            if opening is None:
                break
            held.append("the allowed hours")
            candidate = opening
        return None, tuple(dict.fromkeys(held)) or ("the allowed hours",)

    def _inside(self, blackout: Blackout, moment: datetime) -> bool:
        start, end = blackout.within(self.zone)
        return start <= moment < end

    def _opening(self, moment: datetime) -> datetime | None:
        """The first moment from this one on that lies in allowed hours."""
        if not self.allowed:
            return moment
        today = moment.astimezone(self.zone)
        found = []
        # Hours that began yesterday may reach into today; the next ones of any weekday begin within a week.
        for ahead in range(-1, 9):
            day = today + timedelta(days=ahead)
            for hours in self.allowed:
                stretch = hours.opens(day)
                if stretch is not None and stretch[1].astimezone(UTC) > moment:
                    found.append(max(stretch[0].astimezone(UTC), moment))
        return min(found, default=None)


def _because(reason: str) -> str:
    return f" ({reason})" if reason else ""


def hours_from(value: object) -> tuple[Hours, ...]:
    """Allowed hours from plain data: a list of mappings."""
    return tuple(
        from_plain(Hours, each, "policy: field allowed", InvalidPolicy) for each in _mappings("allowed", value, Hours)
    )


def blackouts_from(value: object) -> tuple[Blackout, ...]:
    """Black-outs from plain data: a list of mappings."""
    found = _mappings("blackouts", value, Blackout)
    return tuple(from_plain(Blackout, each, "policy: field blackouts", InvalidPolicy) for each in found)


def _mappings(name: str, value: object, kind: type[Any]) -> list[Mapping[str, Any]]:
    if isinstance(value, str | Mapping) or not isinstance(value, Sequence):
        raise InvalidPolicy(f"policy: field {name} is {value!r}; it must be a list")
    plain = [vars(each) if isinstance(each, kind) else each for each in value]
    wrong = next((each for each in plain if not isinstance(each, Mapping)), None)
    if wrong is not None:
        raise InvalidPolicy(f"policy: field {name} lists {wrong!r}; each must have fields by name")
    return plain
