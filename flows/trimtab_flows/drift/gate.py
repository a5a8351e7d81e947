"""The gate decides whether a challenger may replace the champion: better on rows neither has seen, beyond chance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

__all__ = ["Comparison", "GatePolicy", "GateVerdict", "ScoreMetric", "gate", "standard_error"]


class ScoreMetric(Protocol):
    """A figure of merit of labels and scores, both of shape (rows,)."""

    @property
    def name(self) -> str: ...
    @property
    def function(self) -> Callable[[np.ndarray, np.ndarray], float]: ...
    @property
    def higher_is_better(self) -> bool: ...


@dataclass(frozen=True)
class GatePolicy:
    """How sure the gate has to be.

    Attributes:
        confidence: of the interval of the difference; its lower bound must be above ``min_gain``.
        min_gain: by how much the challenger must be better, in the metric's own units.
        resamples: of the bootstrap.
        min_rows: fewer labelled rows decide nothing.
    """

    confidence: float = 0.9
    min_gain: float = 0.0
    resamples: int = 500
    min_rows: int = 100


@dataclass(frozen=True)
class Comparison:
    """One metric of both models; ``difference`` is positive when the challenger is better, whatever the direction."""

    metric: str
    champion: float | None
    challenger: float
    difference: float | None
    ci_low: float | None = None
    ci_high: float | None = None


@dataclass(frozen=True)
class GateVerdict:
    """Promote or keep, why, and the figures."""

    promote: bool
    reason: str
    comparisons: tuple[Comparison, ...]


def gate(
    *,
    labels: np.ndarray,
    champion_scores: np.ndarray | None,
    challenger_scores: np.ndarray,
    metrics: Sequence[ScoreMetric],
    seed: int,
    policy: GatePolicy,
    groups: np.ndarray | None = None,
) -> GateVerdict:
    """Compare two models on the same rows; the first metric decides.

    The interval is a paired percentile bootstrap (Efron and Tibshirani, 1993): rows, or whole groups of rows that
    belong together (days), are drawn with replacement, the same ones for both models.

    Args:
        labels: shape (rows,).
        champion_scores: shape (rows,); None when there is no champion: then a constant prediction is the one to beat.
        challenger_scores: shape (rows,).
        seed: of the resampling.
        groups: shape (rows,), what each row belongs to.
    """
    old = np.full(labels.shape, labels.mean() if labels.size else 0.0) if champion_scores is None else champion_scores
    comparisons = [_compare(metric, labels, old, challenger_scores) for metric in metrics]
    if labels.size < policy.min_rows:
        reason = f"Only {labels.size:,} labelled rows to compare on; {policy.min_rows:,} are needed."
        return GateVerdict(False, reason, tuple(comparisons))
    first, decided = comparisons[0], metrics[0]
    if first.difference is None:
        reason = f"{first.metric} is not defined on these {labels.size:,} rows, so the challenger shows no gain."
        return GateVerdict(False, reason, tuple(comparisons))
    low, high = _interval(decided, labels, old, challenger_scores, seed, policy, groups)
    comparisons[0] = Comparison(first.metric, first.champion, first.challenger, first.difference, low, high)
    promote = low > policy.min_gain
    against = "a constant prediction" if champion_scores is None else "the champion"
    reason = (
        f"{first.metric} {first.challenger:.4f} against {first.champion:.4f} of {against}: "
        f"{first.difference:+.4f}, {policy.confidence:.0%} interval {low:+.4f} to {high:+.4f}; "
        + ("better beyond chance." if promote else f"not better by more than {policy.min_gain:g} beyond chance.")
    )
    return GateVerdict(promote, reason, tuple(comparisons))


def standard_error(
    labels: np.ndarray,
    scores: np.ndarray,
    metric: ScoreMetric,
    seed: int,
    groups: np.ndarray | None = None,
    resamples: int = 100,
) -> float:
    """Standard error of a metric by bootstrap; 0 where it is not defined."""
    values = [metric.function(labels[rows], scores[rows]) for rows in _draws(labels.size, groups, seed, resamples)]
    known = np.array([value for value in values if np.isfinite(value)])
    return float(known.std(ddof=1)) if known.size > 1 else 0.0


def _compare(metric: ScoreMetric, labels: np.ndarray, old: np.ndarray, new: np.ndarray) -> Comparison:
    before, after = float(metric.function(labels, old)), float(metric.function(labels, new))
    known = bool(np.isfinite(before) and np.isfinite(after))
    sign = 1 if metric.higher_is_better else -1
    return Comparison(metric.name, before, after, sign * (after - before) if known else None)


def _interval(
    metric: ScoreMetric,
    labels: np.ndarray,
    old: np.ndarray,
    new: np.ndarray,
    seed: int,
    policy: GatePolicy,
    groups: np.ndarray | None,
) -> tuple[float, float]:
    sign = 1 if metric.higher_is_better else -1
    differences = [
        sign * (metric.function(labels[rows], new[rows]) - metric.function(labels[rows], old[rows]))
        for rows in _draws(labels.size, groups, seed, policy.resamples)
    ]
    known = [value for value in differences if np.isfinite(value)]
    if not known:
        return -np.inf, np.inf
    tail = (1 - policy.confidence) / 2
    low, high = np.quantile(known, [tail, 1 - tail])
    return float(low), float(high)


def _draws(rows: int, groups: np.ndarray | None, seed: int, count: int):  # type: ignore[no-untyped-def]
    """Row numbers of each resample."""
    random = np.random.default_rng(seed)
    if rows == 0:
        return
    if groups is None:
        for _ in range(count):
            yield random.integers(0, rows, rows)
        return
    _, member = np.unique(groups, return_inverse=True)
    by_group = np.split(np.argsort(member, kind="stable"), np.cumsum(np.bincount(member))[:-1])
    for _ in range(count):
        yield np.concatenate([by_group[group] for group in random.integers(0, len(by_group), len(by_group))])
