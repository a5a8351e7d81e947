"""How well a model did on rows whose labels are known, with an interval, and which method gave it.

The AUC has DeLong's (DeLong, DeLong and Clarke-Pearson, Biometrics 44(3), 1988), in O(n log n) by ranks (Sun and Xu,
IEEE Signal Processing Letters 21(11), 2014), and with rows in groups that of Obuchowski (Biometrics 53(2), 1997).
Other metrics have the bootstrap, over groups where given.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from trimtab_flows.drift.bootstrap import ScoreMetric, draws, grouped

__all__ = ["Interval", "delong", "interval"]

#: Standard errors to either side of a 95 % interval.
_Z95 = 1.959964


@dataclass(frozen=True)
class Interval:
    """A metric with its 95 % interval; all None where it is not defined (no rows, one class).

    ``method``: ``DeLong``, ``DeLong by groups``, ``bootstrap``, ``bootstrap by groups``, or ``none``.
    """

    value: float | None
    standard_error: float | None
    low: float | None
    high: float | None
    method: str
    rows: int


def delong(labels: np.ndarray, scores: np.ndarray, groups: np.ndarray | None = None) -> tuple[float, float]:
    """AUC and its standard error.

    Args:
        labels: shape (rows,), 1 and 0.
        scores: shape (rows,), finite.
        groups: shape (rows,), what each row belongs to (its day): rows of one group may depend on each other.

    Returns:
        NaN and 0 where a class has no row; an error of 0 where a class has but one.
    """
    positive = np.asarray(labels) > 0.5
    hits, misses = np.asarray(scores)[positive], np.asarray(scores)[~positive]
    m, n = hits.size, misses.size
    if m == 0 or n == 0:
        return float("nan"), 0.0
    below = _placements(misses, hits)
    above = 1 - _placements(hits, misses)
    auc = float(below.mean())
    if groups is not None and grouped(groups):
        return auc, _clustered(below - auc, above - auc, np.asarray(groups), positive)
    if m < 2 or n < 2:
        return auc, 0.0
    return auc, float(np.sqrt(below.var(ddof=1) / m + above.var(ddof=1) / n))


def _placements(others: np.ndarray, values: np.ndarray) -> np.ndarray:
    """For each value the share of the others below it, ties half. Sorted both ways: a search then walks, not jumps."""
    order = np.argsort(values, kind="stable")
    ranked, among = values[order], np.sort(others)
    found = np.empty(values.size)
    left, right = np.searchsorted(among, ranked, "left"), np.searchsorted(among, ranked, "right")
    found[order] = (left + right) / (2 * others.size)
    return found


def _clustered(below: np.ndarray, above: np.ndarray, groups: np.ndarray, positive: np.ndarray) -> float:
    """Obuchowski's standard error: the deviations of each group are added up before they are squared."""
    names, member = np.unique(groups, return_inverse=True)
    count, m, n = names.size, below.size, above.size
    of_hits = np.bincount(member[positive], below, minlength=count)
    of_misses = np.bincount(member[~positive], above, minlength=count)
    with_hits, with_misses = np.unique(member[positive]).size, np.unique(member[~positive]).size
    total = 0.0
    for sums, groups_there, rows in ((of_hits, with_hits, m), (of_misses, with_misses, n)):
        if groups_there > 1:
            total += groups_there / (groups_there - 1) * float(np.sum(sums**2)) / rows**2
    total += 2 * count / (count - 1) * float(np.sum(of_hits * of_misses)) / (m * n)
    return float(np.sqrt(max(total, 0.0)))


def interval(
    labels: np.ndarray,
    scores: np.ndarray,
    metric: ScoreMetric,
    groups: np.ndarray | None = None,
    seed: int = 0,
    resamples: int = 200,
) -> Interval:
    """A metric of one window with its 95 % interval.

    The AUC's is symmetric on the logit scale, and so stays within 0 and 1. Where all scores are in order it has no
    spread; the interval then comes from as many independent pairs as the smaller class has rows.

    Args:
        labels, scores: shape (rows,).
        metric: one named ``auc`` is taken for the area under the ROC curve.
        groups: shape (rows,), what each row belongs to (its day). Fewer than five different ones are ignored.
        seed: of the bootstrap.
    """
    rows = int(np.size(labels))
    value = float(metric.function(labels, scores)) if rows else float("nan")
    if not np.isfinite(value):
        return Interval(None, None, None, None, "none", rows)
    by_groups = " by groups" if grouped(groups) else ""
    if metric.name == "auc":
        auc, error = delong(labels, scores, groups)
        low, high = _within_one(auc, error, int(min(np.sum(labels > 0.5), np.sum(labels <= 0.5))))
        return Interval(auc, error, low, high, f"DeLong{by_groups}", rows)
    drawn = [metric.function(labels[picked], scores[picked]) for picked in draws(rows, groups, seed, resamples)]
    known = np.array([each for each in drawn if np.isfinite(each)])
    if known.size < 2:
        return Interval(value, None, None, None, f"bootstrap{by_groups}", rows)
    low, high = np.quantile(known, [0.025, 0.975])
    return Interval(value, float(known.std(ddof=1)), float(low), float(high), f"bootstrap{by_groups}", rows)


def _within_one(auc: float, error: float, smaller: int) -> tuple[float, float]:
    if error == 0 or auc in (0.0, 1.0):
        edge = 0.025 ** (1 / max(smaller, 1))
        return (edge, 1.0) if auc >= 0.5 else (0.0, 1 - edge)
    logit, width = math.log(auc / (1 - auc)), _Z95 * error / (auc * (1 - auc))

    def back(x: float) -> float:
        return 1 / (1 + math.exp(-x)) if x > -700 else 0.0

    return back(logit - width), back(logit + width)
