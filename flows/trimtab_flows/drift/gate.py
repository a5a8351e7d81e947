"""The gate decides whether a challenger may replace the champion: better on rows neither has seen, beyond chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

import numpy as np

from trimtab_flows.drift.bootstrap import MIN_GROUPS, ScoreMetric, differences, draws, grouped, standard_error
from trimtab_flows.drift.values import must_be_number, must_be_whole

__all__ = ["Comparison", "GatePolicy", "GateVerdict", "ScoreMetric", "gate", "standard_error"]


@dataclass(frozen=True)
class GatePolicy:
    """How sure the gate has to be.

    Attributes:
        confidence: of the interval of the difference, between 0 and 1; its lower end must be above ``min_gain``.
        min_gain: by how much the challenger must be better, in the metric's own units.
        resamples: of the bootstrap.
        min_rows: fewer labelled rows decide nothing.

    Raises:
        InvalidPolicy: a value that is not allowed; the message names the field.
    """

    confidence: float = 0.9
    min_gain: float = 0.0
    resamples: int = 500
    min_rows: int = 100

    def __post_init__(self) -> None:
        must_be_number("gate policy", "confidence", self.confidence, 0, 1, open_ends=True)
        must_be_number("gate policy", "min_gain", self.min_gain)
        # The ends of a 90 % interval are the 5th values of 100 from either side: fewer would be no ends at all.
        must_be_whole("gate policy", "resamples", self.resamples, 100)
        must_be_whole("gate policy", "min_rows", self.min_rows, 1)


@dataclass(frozen=True)
class Comparison:
    """One metric of both models.

    ``difference`` and its interval are positive where the challenger is better, whatever the metric's direction.
    None: not defined on these rows.
    """

    metric: str
    champion: float | None
    challenger: float | None
    difference: float | None
    ci_low: float | None = None
    ci_high: float | None = None


@dataclass(frozen=True)
class GateVerdict:
    """Promote or keep, why, and the figures of every metric."""

    promote: bool
    reason: str
    comparisons: tuple[Comparison, ...]


def gate(
    labels: np.ndarray,
    champion_scores: np.ndarray | None,
    challenger_scores: np.ndarray,
    metrics: Sequence[ScoreMetric],
    seed: int = 0,
    policy: GatePolicy = GatePolicy(),
    groups: np.ndarray | None = None,
) -> GateVerdict:
    """Compare two models on the same rows; the first metric decides.

    The interval is a paired percentile bootstrap (Efron and Tibshirani, 1993): rows, or whole groups of rows that
    belong together (days), are drawn with replacement, the same ones for both models. 10,000 rows and three metrics
    take 0.7 s of one core (tests/flows/drift/test_gate.py).

    Args:
        labels: shape (rows,).
        champion_scores: shape (rows,); None when there is no champion: then a constant prediction, the mean label, is
            the one to beat.
        challenger_scores: shape (rows,).
        metrics: at least one.
        seed: of the resampling.
        policy: how sure to be.
        groups: shape (rows,), what each row belongs to; fewer than five different ones are ignored, and the reason
            says so.

    Raises:
        ValueError: arrays of different lengths, or no metric.
    """
    labels, new = np.asarray(labels, dtype=np.float64), np.asarray(challenger_scores, dtype=np.float64)
    constant = np.full(labels.shape, labels.mean() if labels.size else 0.0)
    old = constant if champion_scores is None else np.asarray(champion_scores, dtype=np.float64)
    _must_match(labels, metrics, {"champion_scores": old, "challenger_scores": new, "groups": groups})
    if labels.size < policy.min_rows:
        reason = f"Only {labels.size:,} labelled rows to compare on; {policy.min_rows:,} are needed."
        return GateVerdict(False, reason, tuple(_compare(metric, labels, old, new) for metric in metrics))
    resamples = draws(labels.size, groups, seed, policy.resamples)
    gains = differences(metrics, labels, old, new, resamples)
    comparisons = tuple(
        _compare(metric, labels, old, new, _interval(gains[:, place], policy.confidence))
        for place, metric in enumerate(metrics)
    )
    against = "a constant prediction" if champion_scores is None else "the champion"
    promote, reason = _judge(comparisons[0], labels.size, against, policy)
    if groups is not None and not grouped(groups):
        reason += f" Fewer than {MIN_GROUPS} groups of rows: single rows were drawn, so the interval is too narrow."
    return GateVerdict(promote, reason, comparisons)


def _must_match(labels: np.ndarray, metrics: Sequence[ScoreMetric], arrays: dict[str, np.ndarray | None]) -> None:
    if not metrics:
        raise ValueError("the gate needs at least one metric: the first one decides")
    for name, array in arrays.items():
        if array is not None and array.shape != labels.shape:
            raise ValueError(f"{name} has the shape {array.shape} and labels {labels.shape}; they must be the same")


def _judge(first: Comparison, rows: int, against: str, policy: GatePolicy) -> tuple[bool, str]:
    """Whether the deciding metric lets the challenger through, and why."""
    if first.difference is None or first.ci_low is None or first.ci_high is None:
        return False, f"{first.metric} is not defined on these {rows:,} rows, so the challenger shows no gain."
    promote = first.ci_low > policy.min_gain
    way = "better" if first.difference > 0 else "worse"
    gap = f"{abs(first.difference):.4f} {way}" if first.difference else "no difference"
    least = f" by more than {policy.min_gain:g}" if policy.min_gain else ""
    return promote, (
        f"{first.metric} {first.challenger:.4f} against {first.champion:.4f} of {against}, "
        f"{gap} ({policy.confidence:.0%} interval {first.ci_low:+.4f} to {first.ci_high:+.4f}): "
        f"{'' if promote else 'not '}better{least} beyond chance."
    )


def _compare(
    metric: ScoreMetric,
    labels: np.ndarray,
    old: np.ndarray,
    new: np.ndarray,
    interval: tuple[float | None, float | None] = (None, None),
) -> Comparison:
    before, after = _known(metric.function(labels, old)), _known(metric.function(labels, new))
    if before is None or after is None:
        return Comparison(metric.name, before, after, None)
    return Comparison(metric.name, before, after, (after - before) * (1 if metric.higher_is_better else -1), *interval)


def _known(value: float) -> float | None:
    return float(value) if isfinite(value) else None


def _interval(gains: np.ndarray, confidence: float) -> tuple[float | None, float | None]:
    """Percentile interval of resampled differences; none if the metric is not defined in half of the resamples."""
    known = gains[np.isfinite(gains)]
    if known.size * 2 < gains.size or known.size == 0:
        return None, None
    tail = (1 - confidence) / 2
    low, high = np.quantile(known, [tail, 1 - tail])
    return float(low), float(high)
