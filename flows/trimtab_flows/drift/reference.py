"""The reference keeps how a model's inputs and scores were distributed, so that later windows are counted alike."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl

__all__ = [
    "PREDICTION",
    "SAMPLE",
    "InvalidReference",
    "Profile",
    "Reference",
    "as_numbers",
    "as_text",
    "count_rows",
    "fit_profile",
    "sample_rows",
]

#: Name that the model's scores are measured under.
PREDICTION = "prediction"

#: Bins between the smallest and the largest value of a quantity, each with about as many rows.
_BINS = 10

#: Categories kept by name, the most frequent ones; the others are counted together.
_CATEGORIES = 50

_FORMAT = 1

#: Rows that a classifier is trained on, of either side. More find smaller differences, which matter less: 5,000 tell an
#: AUC of .52 from .5 (its standard error is about .006).
SAMPLE = 5_000


class InvalidReference(ValueError):
    """A text that is no drift reference."""


@dataclass(frozen=True)
class Profile:
    """How one column was distributed.

    Attributes:
        column: its name.
        edges: of a quantity, ascending: a row is in bin ``i`` if ``i`` edges are below its value. The first edge is
            just below the smallest value and the last is the largest, so that the outer bins are for values never seen.
            None for categories.
        categories: the names of the categories that are counted one by one. None for a quantity.
        counts: rows of each bin or category in order, then of any other value, then of missing ones (null, NaN).
    """

    column: str
    edges: tuple[float, ...] | None
    categories: tuple[str, ...] | None
    counts: tuple[int, ...]

    def __post_init__(self) -> None:
        if (self.edges is None) == (self.categories is None):
            raise InvalidReference(f"profile of {self.column!r} must have either edges or categories")
        bins = len(self.categories) if self.edges is None else len(self.edges) + 1  # type: ignore[arg-type]
        if len(self.counts) != bins + 2:
            raise InvalidReference(f"profile of {self.column!r} has {len(self.counts)} counts for {bins} bins + 2")

    @property
    def rows(self) -> int:
        """How many rows were counted."""
        return sum(self.counts)

    @property
    def proportions(self) -> tuple[float, ...]:
        """``counts`` as shares of all rows; all 0 without rows."""
        return tuple(count / self.rows if self.rows else 0.0 for count in self.counts)

    @property
    def missing_share(self) -> float:
        """Share of rows without a value, 0 to 1."""
        return self.proportions[-1]


@dataclass(frozen=True)
class Reference:
    """The profiles of a model's inputs and, last, of its scores."""

    profiles: tuple[Profile, ...]

    def to_json(self) -> str:
        """The reference as JSON, to be kept beside the model."""
        return json.dumps({"format": _FORMAT, "profiles": [asdict(profile) for profile in self.profiles]})

    @classmethod
    def from_json(cls, text: str | bytes) -> Reference:
        """Read what ``to_json`` wrote.

        Raises:
            InvalidReference: it is no reference, or one of another format.
        """
        try:
            found = json.loads(text)
            if found["format"] != _FORMAT:
                raise InvalidReference(f"drift reference has format {found['format']!r}; this version reads {_FORMAT}")
            return cls(tuple(_profile_from(fields) for fields in found["profiles"]))
        except InvalidReference:
            raise
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InvalidReference(f"this is no drift reference: {type(error).__name__}: {error}") from None


def _profile_from(fields: dict[str, Any]) -> Profile:
    edges, categories = fields["edges"], fields["categories"]
    return Profile(
        column=str(fields["column"]),
        edges=None if edges is None else tuple(float(edge) for edge in edges),
        categories=None if categories is None else tuple(str(name) for name in categories),
        counts=tuple(int(count) for count in fields["counts"]),
    )


def sample_rows(frame: pl.DataFrame, columns: Sequence[str], rows: int = SAMPLE, seed: int = 0) -> pl.DataFrame:
    """So many rows of some columns, drawn without replacement, in their order; all of them where there are fewer."""
    if frame.height <= rows:
        return frame.select(columns)
    picked = np.sort(np.random.default_rng(seed).choice(frame.height, rows, replace=False))
    return frame.select(columns)[picked]


def fit_profile(name: str, column: pl.Series) -> Profile:
    """Choose bins for a column and count its rows.

    Quantities (numbers, dates, times, durations) get ten bins by quantile, fewer where many values are the same;
    everything else is a category, yes and no too. Of nested and binary values only their presence is profiled.
    """
    numbers = as_numbers(column)
    if numbers is not None:
        edges = _edges(numbers)
        empty = Profile(name, edges, None, (0,) * (len(edges) + 3))
    else:
        known = as_text(column).drop_nulls().alias("value")
        # Most frequent first; of equally frequent ones the first by name.
        common = known.value_counts(name="rows").top_k(_CATEGORIES, by=["rows", "value"], reverse=[False, True])
        categories = tuple(sorted(common.get_column("value")))
        empty = Profile(name, None, categories, (0,) * (len(categories) + 2))
    return Profile(name, empty.edges, empty.categories, tuple(int(rows) for rows in count_rows(column, empty)))


def count_rows(column: pl.Series, profile: Profile) -> np.ndarray:
    """Rows of a column by the bins of a profile, shape (len(profile.counts),)."""
    if profile.edges is not None:
        numbers = as_numbers(column)
        if numbers is None:
            numbers = as_text(column).cast(pl.Float64, strict=False).to_numpy()
        known = numbers.size - np.count_nonzero(np.isnan(numbers))
        # One pass for each of a dozen edges is six times faster than np.searchsorted for each row; NaN is never below.
        up_to = [np.count_nonzero(numbers <= edge) for edge in profile.edges]
        return np.array([*np.diff([0, *up_to, known]), 0, numbers.size - known])
    categories = profile.categories or ()
    text = as_text(column).alias("value")
    seen = text.drop_nulls().value_counts(name="rows")
    named = dict(seen.filter(pl.col("value").is_in(categories)).iter_rows())
    counts = [named.get(category, 0) for category in categories]
    missing = text.null_count()
    return np.array([*counts, text.len() - missing - sum(counts), missing])


def _edges(numbers: np.ndarray) -> tuple[float, ...]:
    """Ascending bin edges of a quantity, see ``Profile.edges``; none without a finite value."""
    known = np.sort(numbers[np.isfinite(numbers)])
    if known.size == 0:
        return ()
    # Edges are values that occur: between two of them, a column of few distinct values would gain empty bins.
    inner = known[np.ceil(np.arange(1, _BINS) / _BINS * known.size).astype(int) - 1]
    with np.errstate(over="ignore"):  # nothing finite is below the smallest float: that edge falls away
        below = np.nextafter(known[0], -np.inf)
    edges = np.unique(np.concatenate([[below], inner, known[-1:]]))
    return tuple(float(edge) for edge in edges if np.isfinite(edge))


def as_numbers(column: pl.Series) -> np.ndarray | None:
    """A quantity as floats of shape (rows,), missing as NaN; None if the column is no quantity.

    Times are counted in microseconds, whatever unit they are stored in.
    """
    kind = column.dtype
    if kind == pl.Datetime or kind == pl.Date:
        column = column.cast(pl.Datetime("us")).to_physical()
    elif kind == pl.Duration:
        column = column.cast(pl.Duration("us")).to_physical()
    elif kind == pl.Time:
        column = column.to_physical()
    elif not kind.is_numeric():
        return None
    return column.cast(pl.Float64).fill_null(float("nan")).to_numpy()


def as_text(column: pl.Series) -> pl.Series:
    """A column as the names of its categories, null where it has no value."""
    if column.dtype.is_nested() or column.dtype in (pl.Binary, pl.Object):
        present = column.is_not_null()
        return pl.select(pl.when(present).then(pl.lit("present"))).to_series()
    if column.dtype == pl.Duration:  # polars writes no durations as text
        column = column.to_physical()
    return column.cast(pl.String)
