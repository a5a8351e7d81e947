"""Signals: how far a window's inputs and predictions are from those a model was made with.

Two figures for each column, both from the same bins: the population stability index (PSI; Lewis, An Introduction to
Credit Scoring, 1994) and the Jensen-Shannon divergence to base 2, which lies in 0..1 (Lin, IEEE Trans. Inf. Theory
37(1), 1991). The bins are the reference's and are kept with it, so that every window is measured with the same rule.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import polars as pl

__all__ = ["PREDICTION", "Profile", "Reference", "Signal", "fit_reference", "measure"]

#: Name that the model's scores are measured under.
PREDICTION = "prediction"

_BINS = 10
_CATEGORIES = 50
#: Added to every bin as so many rows, so that an empty bin gives a finite PSI (Laplace smoothing).
_SMOOTHING = 0.5

Kind = Literal["psi", "js"]


@dataclass(frozen=True)
class Signal:
    """One figure of one column; 0 is no drift."""

    kind: Kind
    column: str
    value: float


@dataclass(frozen=True)
class Profile:
    """How a column was distributed: counts of its bins, in order, then of other values, then of missing ones.

    A numeric column has ``edges`` (inner bin edges, ascending); another has ``categories``.
    """

    edges: tuple[float, ...] | None
    categories: tuple[str, ...] | None
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Reference:
    """The profiles of a model's inputs and scores."""

    profiles: Mapping[str, Profile]

    def to_json(self) -> str:
        """The reference as JSON."""
        return json.dumps({name: asdict(profile) for name, profile in self.profiles.items()})

    @classmethod
    def from_json(cls, text: str | bytes) -> Reference:
        """Read what ``to_json`` wrote.

        Raises:
            ValueError: it is no reference.
        """
        try:
            return cls({name: _profile_from(fields) for name, fields in json.loads(text).items()})
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"this is no drift reference: {error}") from None


def fit_reference(frame: pl.DataFrame, columns: Sequence[str], scores: np.ndarray) -> Reference:
    """Profile the inputs a model was trained on, and its scores on rows it was not trained on.

    Args:
        frame: training rows, shape (rows, at least these columns).
        columns: the inputs.
        scores: shape (other rows,).
    """
    profiles = {column: _fit(frame.get_column(column)) for column in columns}
    return Reference({**profiles, PREDICTION: _fit(pl.Series(np.asarray(scores, dtype=np.float64)))})


def measure(reference: Reference, frame: pl.DataFrame, scores: np.ndarray) -> tuple[Signal, ...]:
    """PSI and Jensen-Shannon divergence of every profiled column; all finite, 0 for a window without rows.

    Args:
        frame: the window's rows; a profiled column that it lacks counts as missing in every row.
        scores: what the model said of those rows, shape (rows,).
    """
    found: list[Signal] = []
    for name, profile in reference.profiles.items():
        if name == PREDICTION:
            column = pl.Series(np.asarray(scores, dtype=np.float64))
        elif name in frame.columns:
            column = frame.get_column(name)
        else:
            column = pl.Series([None] * frame.height, dtype=pl.Float64)
        now, before = _count(column, profile), np.asarray(profile.counts)
        found += [Signal("psi", name, _psi(before, now)), Signal("js", name, _js(before, now))]
    return tuple(sorted(found, key=lambda signal: (signal.kind, signal.column)))


def _fit(column: pl.Series) -> Profile:
    numbers = _numbers(column)
    if numbers is not None:
        known = numbers.drop_nulls().drop_nans().to_numpy()
        known = known[np.isfinite(known)]
        inner = np.linspace(0, 1, _BINS + 1)[1:-1]
        edges = np.unique(np.quantile(known, inner)) if known.size else np.empty(0)
        empty = Profile(tuple(float(edge) for edge in edges), None, ())
    else:
        common = (
            column.cast(pl.String).drop_nulls().value_counts().sort(["count", column.name], descending=[True, False])
        )
        empty = Profile(None, tuple(sorted(common.get_column(column.name).head(_CATEGORIES))), ())
    return Profile(empty.edges, empty.categories, tuple(int(count) for count in _count(column, empty)))


def _numbers(column: pl.Series) -> pl.Series | None:
    """The column as floats, if it is a quantity; yes and no are categories."""
    if column.dtype.is_numeric() or column.dtype.is_temporal():
        return column.to_physical().cast(pl.Float64)
    return None


def _count(column: pl.Series, profile: Profile) -> np.ndarray:
    """Rows by bin or category, then of any other value, then missing; shape (bins + 2,)."""
    if profile.edges is not None:
        numbers = _numbers(column)
        if numbers is None:
            numbers = column.cast(pl.String).cast(pl.Float64, strict=False)
        known = numbers.fill_null(float("nan")).to_numpy()
        missing = np.isnan(known)
        place = np.searchsorted(profile.edges, known[~missing], side="left")
        counts = np.bincount(place, minlength=len(profile.edges) + 1)
        return np.concatenate([counts, [0, int(missing.sum())]])
    categories = profile.categories or ()
    by_value = dict(column.cast(pl.String).alias("value").value_counts().iter_rows())
    missing_rows = by_value.pop(None, 0)
    named = [by_value.pop(category, 0) for category in categories]
    return np.array([*named, sum(by_value.values()), missing_rows])


def _shares(before: np.ndarray, now: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both as proportions over the bins that either has, smoothed."""
    used = (before + now) > 0
    first, second = before[used] + _SMOOTHING, now[used] + _SMOOTHING
    return first / first.sum(), second / second.sum()


def _psi(before: np.ndarray, now: np.ndarray) -> float:
    """Sum of (q - p) ln(q / p)."""
    if before.sum() == 0 or now.sum() == 0:
        return 0.0
    p, q = _shares(before, now)
    return float(np.sum((q - p) * np.log(q / p)))


def _js(before: np.ndarray, now: np.ndarray) -> float:
    """Mean of the two Kullback-Leibler divergences to the midpoint, base 2."""
    if before.sum() == 0 or now.sum() == 0:
        return 0.0
    p, q = _shares(before, now)
    middle = (p + q) / 2
    return float(np.clip((np.sum(p * np.log2(p / middle)) + np.sum(q * np.log2(q / middle))) / 2, 0.0, 1.0))


def _profile_from(fields: dict[str, list[float] | list[str] | None]) -> Profile:
    edges, categories, counts = fields["edges"], fields["categories"], fields["counts"]
    return Profile(
        None if edges is None else tuple(float(edge) for edge in edges),
        None if categories is None else tuple(str(name) for name in categories),
        tuple(int(count) for count in counts or ()),
    )
