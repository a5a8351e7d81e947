"""References that know the season: what a window is compared with, other than what the model was trained on.

A model trained in winter sees its inputs drift in summer, every year. Three references answer that: the windows just
before (rolling), the same time of earlier years (same weeks), and the rolling one moved by what the same time did a
year ago (adjusted; the classical ratio-to-moving-average adjustment, applied to the share of each bin). Bins are chosen
on the rows of all windows that take part: those of a model trained in winter put every summer day into one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import polars as pl

from trimtab_flows.drift.evidence import Seen
from trimtab_flows.drift.reference import PREDICTION, Profile, Reference, count_rows, fit_profile, sample_rows

__all__ = [
    "WINDOWS_OF_A_YEAR",
    "Season",
    "SeasonalReference",
    "combine",
    "recount",
    "seasonal",
    "seasonal_performance",
    "windows_needed",
]

Kind = Literal["adjusted", "same", "rolling"]

#: Windows of one year, by cadence.
WINDOWS_OF_A_YEAR = {"day": 365, "week": 52, "month": 12}

#: Rows that bins are chosen on: deciles are within 0.1 % of their place.
_BINNED_ROWS = 100_000


@dataclass(frozen=True)
class Season:
    """How a season is looked at; all counted in windows.

    Attributes:
        period: windows of one season: 12 for months, 52 for weeks.
        rolling: how many windows before this one are the rolling reference.
        around: how many on either side of the same place a season ago are taken with it.
    """

    period: int
    rolling: int = 3
    around: int = 1

    def __post_init__(self) -> None:
        for name, least in (("period", 2), ("rolling", 1), ("around", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"season: field {name} is {value!r}; it must be a whole number, {least} or more")
        if 2 * self.around + 1 > self.period:
            raise ValueError(
                f"season: field around is {self.around}; twice that and one must fit into the period ({self.period})"
            )


@dataclass(frozen=True)
class SeasonalReference:
    """A reference, how it was made, and the places of the windows in it (of a year ago too, where adjusted)."""

    reference: Reference
    kind: Kind
    places: tuple[int, ...]


def recount(reference: Reference, frame: pl.DataFrame) -> Reference:
    """The inputs of another table, counted in the bins of a reference; a column it lacks is missing in every row."""
    found = []
    for profile in reference.profiles:
        if profile.column == PREDICTION:
            continue
        lacks = pl.repeat(None, frame.height, dtype=pl.Float64, eager=True)
        column = frame.get_column(profile.column) if profile.column in frame.columns else lacks
        found.append(replace(profile, counts=tuple(int(rows) for rows in count_rows(column, profile))))
    return Reference(tuple(found))


def combine(references: Sequence[Reference]) -> Reference:
    """The rows of several references that were counted in the same bins, together.

    Raises:
        ValueError: there is none, or their bins differ.
    """
    if not references:
        raise ValueError("no reference to combine")
    first = references[0].profiles
    bins = [[(one.column, one.edges, one.categories) for one in reference.profiles] for reference in references]
    if any(other != bins[0] for other in bins):
        raise ValueError("references of different bins cannot be combined; recount them by one of them")
    together = []
    for place, profile in enumerate(first):
        counts = np.sum([reference.profiles[place].counts for reference in references], axis=0)
        together.append(replace(profile, counts=tuple(int(rows) for rows in counts)))
    return Reference(tuple(together))


def windows_needed(place: int, season: Season) -> tuple[int, ...]:
    """Places of the earlier windows that ``seasonal`` can use for the window at ``place``, ascending; none below 0."""
    then = place - season.period
    wanted = {
        *range(place - season.rolling, place),
        *range(then - season.around, then + season.around + 1),
        *range(then - season.rolling, then),
    }
    return tuple(sorted(each for each in wanted if 0 <= each < place))


def seasonal(
    history: Mapping[int, pl.DataFrame], columns: Sequence[str], place: int, season: Season
) -> SeasonalReference | None:
    """The best reference that the history allows: adjusted, else the same time a season ago, else rolling.

    Args:
        history: rows of earlier windows by place, shape (rows, at least some of the columns).
        columns: the inputs.
        place: of the window that is to be measured.

    Returns:
        None if no window of use is there, or none of them has a row.
    """
    then = place - season.period
    there = {each: history[each] for each in windows_needed(place, season) if each in history and history[each].height}
    rolling = [each for each in range(place - season.rolling, place) if each in there]
    same = [each for each in range(then - season.around, then + season.around + 1) if each in there]
    before = [each for each in range(then - season.rolling, then) if each in there]
    kind: Kind = "adjusted" if rolling and same and before else "same" if same else "rolling"
    used = {"adjusted": sorted({*rolling, *same, *before}), "same": same, "rolling": rolling}[kind]
    if not used:
        return None
    bins = _bins([there[each] for each in used], columns)
    counted = {each: recount(bins, there[each]) for each in used}

    def together(places: Sequence[int]) -> Reference:
        return combine([counted[each] for each in places])

    if kind != "adjusted":
        return SeasonalReference(together(used), kind, tuple(used))
    profiles = zip(*(together(places).profiles for places in (rolling, same, before)), strict=True)
    return SeasonalReference(Reference(tuple(_adjust(*three) for three in profiles)), kind, tuple(used))


def seasonal_performance(history: Mapping[int, Seen], place: int, season: Season) -> tuple[float, float] | None:
    """How champions did at the same time a season ago: the mean over the windows around it by rows, and its standard
    error. Never of the windows just before: against those, a model that wears out slowly would seem well.

    Args:
        history: earlier windows by place.
        place: of the window that is judged.

    Returns:
        None if none of those windows has a figure.
    """
    then = place - season.period
    found = [
        (seen.performance, seen.performance_se, seen.rows)
        for each in range(then - season.around, then + season.around + 1)
        if each < place and (seen := history.get(each)) is not None
    ]
    known = [(value, error, rows) for value, error, rows in found if value is not None and rows > 0]
    total = sum(rows for _, _, rows in known)
    if not total:
        return None
    mean = sum(value * rows for value, _, rows in known) / total
    return mean, math.hypot(*(error * rows for _, error, rows in known)) / total


def _bins(frames: Sequence[pl.DataFrame], columns: Sequence[str]) -> Reference:
    """Bins for each column, from the rows of all tables that have it; a sample of them, where there are many."""
    each = -(-_BINNED_ROWS // len(frames))
    found = []
    for column in columns:
        parts = [sample_rows(frame, [column], each).get_column(column) for frame in frames if column in frame.columns]
        if parts:
            found.append(fit_profile(column, pl.concat(parts)))
    return Reference(tuple(found))


def _adjust(now: Profile, then: Profile, before: Profile) -> Profile:
    """Shares of ``now`` times what each share did from ``before`` to ``then``, scaled to the rows of ``now``.

    Half a row is added to every bin, so that an empty one adjusts nothing to 0 or without bounds.
    """
    if min(now.rows, then.rows, before.rows) == 0:
        return now if now.rows else then
    p, q, r = (np.asarray(one.counts) + 0.5 for one in (now, then, before))
    moved = (p / p.sum()) * (q / q.sum()) / (r / r.sum())
    used = np.asarray(now.counts) + np.asarray(then.counts) > 0
    moved = np.where(used, moved, 0.0)
    rows = moved / moved.sum() * now.rows
    # Largest remainders: the rows stay whole, and as many as they were.
    floor = np.floor(rows).astype(int)
    order = np.argsort(floor - rows, kind="stable")
    floor[order[: now.rows - int(floor.sum())]] += 1
    return replace(now, counts=tuple(int(each) for each in floor))
