"""Windows of data: half-open ranges of days that arrive one at a time."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Literal

__all__ = ["Cadence", "InvalidWindow", "Window"]

Cadence = Literal["day", "week", "month"]


class InvalidWindow(ValueError):
    """A text that names no window."""


@dataclass(frozen=True, order=True)
class Window:
    """The days from ``start`` up to, not including, ``end``."""

    start: date
    end: date

    def __post_init__(self) -> None:
        if self.end <= self.start:
            raise InvalidWindow(f"window {self.start}..{self.end} is empty: its end must be later than its start")

    @classmethod
    def containing(cls, day: date, cadence: Cadence) -> Window:
        """The calendar day, ISO week or calendar month that ``day`` lies in."""
        match cadence:
            case "day":
                return cls(day, day + timedelta(days=1))
            case "week":
                start = day - timedelta(days=day.weekday())
                return cls(start, start + timedelta(days=7))
            case "month":
                start = day.replace(day=1)
                return cls(start, (start + timedelta(days=31)).replace(day=1))
            case _:
                raise InvalidWindow(f"cadence {cadence!r} is unknown: use day, week or month")

    @classmethod
    def parse(cls, text: str) -> Window:
        """Read ``2013-03`` (a month), ``2013-W05`` (an ISO week), ``2013-03-04`` (a day), or a range ``A..B`` of those.

        Raises:
            InvalidWindow: the text is none of these.
        """
        first, found, last = text.partition("..")
        if found:
            return cls(cls.parse(first).start, cls.parse(last).end)
        try:
            if re.fullmatch(r"\d{4}-\d{2}", text):
                return cls.containing(date.fromisoformat(f"{text}-01"), "month")
            if re.fullmatch(r"\d{4}-W\d{2}", text):
                return cls.containing(date.fromisoformat(f"{text}-1"), "week")
            if re.fullmatch(r"\d{4}-\d{2}-\d{2}", text):
                return cls.containing(date.fromisoformat(text), "day")
        except ValueError as error:
            raise InvalidWindow(f"window {text!r}: {error}") from None
        raise InvalidWindow(
            f"window {text!r} is not understood: write a month (2013-03), a week (2013-W05), a day (2013-03-04), "
            "or a range of those (2013-01..2013-02)"
        )

    @property
    def label(self) -> str:
        """The shortest text that ``parse`` reads back as this window: 2013-03, or 2013-01..2013-02."""
        last_day = self.end - timedelta(days=1)
        cadences: tuple[tuple[Cadence, str], ...] = (("month", "%Y-%m"), ("week", "%G-W%V"), ("day", "%Y-%m-%d"))
        for cadence, form in cadences:
            first, last = Window.containing(self.start, cadence), Window.containing(last_day, cadence)
            if (first.start, last.end) == (self.start, self.end):
                return f"{first.start:{form}}" if first == last else f"{first.start:{form}}..{last.start:{form}}"
        raise AssertionError("every window is made of whole days")

    @property
    def start_time(self) -> datetime:
        """The first moment inside the window (naive, a clock time of the recipe's zone)."""
        return datetime.combine(self.start, time.min)

    @property
    def end_time(self) -> datetime:
        """The first moment after the window (naive, a clock time of the recipe's zone)."""
        return datetime.combine(self.end, time.min)

    def following(self, cadence: Cadence) -> Window:
        """The window of this cadence that begins where this one ends."""
        return Window.containing(self.end, cadence)

    def split(self, cadence: Cadence) -> Iterator[Window]:
        """The windows of this cadence that this one is made of, in order."""
        current = Window.containing(self.start, cadence)
        while current.start < self.end:
            yield current
            current = current.following(cadence)

    def __str__(self) -> str:
        return self.label
