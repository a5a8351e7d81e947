"""Signals: how far a window's inputs and predictions are from those a model was made with.

Two figures for each column of how it is distributed, both from the same bins: the population stability index (PSI;
Lewis, An Introduction to Credit Scoring, 1994), 0 and up, and the Jensen-Shannon divergence (not its root, the
distance) to base 2, which lies in 0..1 (Lin, IEEE Trans. Inf. Theory 37(1), 1991). The bins are the reference's and are
kept with it, so that every window is measured with the same rule. Three more say what changed in an input: the share of
rows without a value (``missing``, by how much it changed), with a value that the reference never saw (``unseen``: a new
category, or a number out of its range), and the share that the categories had which no row has any more (``gone``).

No figure is ever NaN or infinite. Half a row of the smaller of the two samples is added to every bin (additive
smoothing), so that a value seen in only one of them counts for what it weighs. Few rows drift by chance alone: how much
is expected of that is kept beside each figure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl

from trimtab_flows.drift.reference import PREDICTION, Profile, Reference, count_rows, fit_profile

__all__ = ["PREDICTION", "Profile", "Reference", "Signal", "fit_reference", "measure"]

Kind = Literal["psi", "js", "missing", "unseen", "gone"]

#: Of inputs alone.
_INPUT_KINDS: tuple[Kind, ...] = ("missing", "unseen", "gone")

#: Rows of the smaller sample that are added to every bin of both.
_SMOOTHING = 0.5


@dataclass(frozen=True)
class Signal:
    """One figure of one column; 0 is no drift.

    Attributes:
        kind: ``psi``, ``js``, or of inputs ``missing``, ``unseen`` and (categories only) ``gone``, shares from 0 to 1.
        column: name of the input, or ``prediction``.
        value: the figure.
        by_chance: what it would be on average if every row were drawn alike and apart. Rows of one day are not, so
            real windows drift more than this without a cause.
    """

    kind: Kind
    column: str
    value: float
    by_chance: float = 0.0


def fit_reference(frame: pl.DataFrame, columns: Sequence[str], scores: np.ndarray) -> Reference:
    """Profile the inputs a model was trained on, and its scores on rows it was not trained on.

    Scores of training rows would be too sure of themselves: every later window would seem to drift.

    Args:
        frame: training rows, shape (rows, at least these columns).
        columns: the inputs.
        scores: shape (other rows,).

    Raises:
        ValueError: the frame lacks a column, or an input has no name, the name of another or the name ``prediction``.
    """
    absent = [column for column in columns if column not in frame.columns]
    if absent:
        raise ValueError(f"the frame has no column {', '.join(absent)} to profile; it has {', '.join(frame.columns)}")
    twice = sorted({column for column in columns if list(columns).count(column) > 1})
    if twice:
        raise ValueError(f"inputs {', '.join(twice)} are listed more than once; each has one profile")
    if "" in columns:
        raise ValueError("an input has an empty name: no metric can be logged under it; name the column")
    if PREDICTION in columns:
        raise ValueError(f"an input may not be named {PREDICTION!r}: drift of the scores goes by that name; rename it")
    profiles = [fit_profile(column, frame.get_column(column)) for column in columns]
    return Reference((*profiles, fit_profile(PREDICTION, _scores(scores))))


def measure(reference: Reference, frame: pl.DataFrame, scores: np.ndarray) -> tuple[Signal, ...]:
    """The figures of every profiled column, ordered by kind and column.

    All are finite. A window, or a reference, without rows gives 0: nothing is known. A column that the window lacks
    counts as missing in every row; a value of another type than the reference's as another value, or as missing where
    a number was due. Time: 1,000,000 rows of 20 columns against as many in 2 s of one core
    (tests/flows/drift/test_signals.py).

    Args:
        frame: the window's rows, shape (rows, any columns).
        scores: what the model said of them, shape (scored rows,).
    """
    found: list[Signal] = []
    for profile in reference.profiles:
        if profile.column == PREDICTION:
            column = _scores(scores)
        elif profile.column in frame.columns:
            column = frame.get_column(profile.column)
        else:
            column = pl.repeat(None, frame.height, dtype=pl.Float64, eager=True)
        counts = count_rows(column, profile)
        found += _compare(profile.column, np.asarray(profile.counts), counts)
        if profile.column != PREDICTION:
            found += _changes(profile, counts)
    return tuple(sorted(found, key=lambda signal: (signal.kind, signal.column)))


def _scores(scores: np.ndarray) -> pl.Series:
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(f"scores have the shape {values.shape}; it must be (rows,): one number a row")
    return pl.Series(PREDICTION, values)


def _compare(column: str, before: np.ndarray, now: np.ndarray) -> tuple[Signal, Signal]:
    """Both figures from rows by bin, each of shape (bins,)."""
    rows_before, rows_now = int(before.sum()), int(now.sum())
    if rows_before == 0 or rows_now == 0:
        return Signal("psi", column, 0.0), Signal("js", column, 0.0)
    used = (before + now) > 0
    added = _SMOOTHING / min(rows_before, rows_now)
    p, q = before[used] / rows_before + added, now[used] / rows_now + added
    p, q = p / p.sum(), q / q.sum()
    # Without drift PSI is about chi-squared with bins - 1 degrees of freedom, times this
    # (Yurdakul and Naranjo, Journal of Risk Model Validation 14(4), 2020); JS is, to first order, PSI / (8 ln 2).
    by_chance = float((used.sum() - 1) * (1 / rows_before + 1 / rows_now))
    return (
        Signal("psi", column, _psi(p, q), by_chance),
        Signal("js", column, _js(p, q), min(by_chance / (8 * float(np.log(2))), 1.0)),
    )


def _changes(profile: Profile, now: np.ndarray) -> list[Signal]:
    """What changed in an input besides its distribution; all 0 where either sample has no rows."""
    before = np.asarray(profile.counts)
    rows_before, rows_now = int(before.sum()), int(now.sum())
    categories = profile.edges is None
    if rows_before == 0 or rows_now == 0:
        return [Signal(kind, profile.column, 0.0) for kind in _INPUT_KINDS if categories or kind != "gone"]

    def share(counts: np.ndarray, rows: int) -> tuple[float, float]:
        # A quantity's outer bins are for values out of range, and the last but one for values of another type.
        outer = counts[-2] if categories else counts[-2] + counts[0] + (counts[-3] if counts.size > 3 else 0)
        return float(counts[-1]) / rows, float(outer) / rows

    (missing, unseen), (missing_now, unseen_now) = share(before, rows_before), share(now, rows_now)
    # Of a new row, that it lies outside the range of so many: 2 / (rows + 1), whatever the distribution.
    outside = 0.0 if categories else 2 / (rows_before + 1)
    found = [
        Signal(
            "missing", profile.column, abs(missing_now - missing), _wavers(missing, missing_now, rows_before, rows_now)
        ),
        Signal(
            "unseen",
            profile.column,
            max(unseen_now - unseen, 0.0),
            min(outside + _wavers(unseen, unseen_now, rows_before, rows_now), 1.0),
        ),
    ]
    if categories:
        shares = before[:-2] / rows_before
        gone = float(shares[now[:-2] == 0].sum())
        found.append(Signal("gone", profile.column, gone, float(np.sum(shares * (1 - shares) ** rows_now))))
    return found


def _wavers(share: float, share_now: float, rows: int, rows_now: int) -> float:
    """Mean absolute difference of two shares of one probability, of which the two seen are taken together."""
    pooled = (share * rows + share_now * rows_now) / (rows + rows_now)
    return float(np.sqrt(2 / np.pi * pooled * (1 - pooled) * (1 / rows + 1 / rows_now)))


def _psi(p: np.ndarray, q: np.ndarray) -> float:
    """Sum of (q - p) ln(q / p); no term of it is below 0."""
    return float(np.sum((q - p) * np.log(q / p)))


def _js(p: np.ndarray, q: np.ndarray) -> float:
    """Mean of the Kullback-Leibler divergences of both from their midpoint, base 2."""
    middle = (p + q) / 2
    return float(np.clip((np.sum(p * np.log2(p / middle)) + np.sum(q * np.log2(q / middle))) / 2, 0.0, 1.0))
