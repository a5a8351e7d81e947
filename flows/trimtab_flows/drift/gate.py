"""The gate decides whether a challenger may replace the champion, by what both did on rows that neither has seen.

The training is paid for by then, so what counts is which of the two is expected to serve better. A holdout is short: a
gain that is worth having may be no larger than its interval, and who asks for one beyond chance keeps a champion that
wears out. Where it is known what retraining gave before (``gain.py``), that is the prior, the comparison moves it, and
the challenger goes into service if what it is then expected to gain is above the least, unless it was seen to be worse
beyond chance. Where nothing is known, as for a model's first version, or where the policy asks for proof, the
challenger has to be better beyond chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import Literal

import numpy as np

from trimtab_flows.drift.bootstrap import MIN_GROUPS, ScoreMetric, differences, draws, grouped, standard_error
from trimtab_flows.drift.gain import Expected
from trimtab_flows.drift.values import InvalidPolicy, must_be_number, must_be_whole

__all__ = [
    "Comparison",
    "GatePolicy",
    "GateVerdict",
    "ScoreMetric",
    "compare",
    "gate",
    "judge",
    "standard_error",
]

Rule = Literal["expected", "proven"]


@dataclass(frozen=True)
class GatePolicy:
    """How sure the gate has to be.

    Attributes:
        rule: ``expected``: the gain that is expected after the comparison must be above ``min_gain``, and the interval
            must not lie below 0. ``proven``: the lower end of the interval must be above ``min_gain``; so too where no
            gain was expected before.
        confidence: of the interval of the difference, between 0 and 1.
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
    rule: Rule = "expected"

    def __post_init__(self) -> None:
        if self.rule not in ("expected", "proven"):
            raise InvalidPolicy(f"gate policy: field rule is {self.rule!r}; it must be expected or proven")
        must_be_number("gate policy", "confidence", self.confidence, 0, 1, open_ends=True)
        must_be_number("gate policy", "min_gain", self.min_gain)
        # The ends of a 90 % interval are the 5th values of 100 from either side: fewer would be no ends at all.
        must_be_whole("gate policy", "resamples", self.resamples, 100)
        must_be_whole("gate policy", "min_rows", self.min_rows, 1)


@dataclass(frozen=True)
class Comparison:
    """One metric of both models.

    ``difference`` and its interval are positive where the challenger is better, whatever the metric's direction.
    ``standard_error`` is that of the difference. None: not defined on these rows.
    """

    metric: str
    champion: float | None
    challenger: float | None
    difference: float | None
    ci_low: float | None = None
    ci_high: float | None = None
    standard_error: float | None = None


@dataclass(frozen=True)
class GateVerdict:
    """Promote or keep, why, the figures of every metric, and the gain that is expected now, if one was before."""

    promote: bool
    reason: str
    comparisons: tuple[Comparison, ...]
    expected_gain: float | None = None


def gate(
    labels: np.ndarray,
    champion_scores: np.ndarray | None,
    challenger_scores: np.ndarray,
    metrics: Sequence[ScoreMetric],
    seed: int = 0,
    policy: GatePolicy = GatePolicy(),
    groups: np.ndarray | None = None,
    expected: Expected | None = None,
) -> GateVerdict:
    """Compare two models on the same rows, and judge; the first metric decides.

    Args:
        labels, champion_scores, challenger_scores, metrics, seed, groups: as ``compare`` has them.
        policy: how sure to be.
        expected: of the challenger before it is compared; None: nothing, or there is no champion.

    Raises:
        ValueError: arrays of different lengths, or no metric.
    """
    comparisons = compare(labels, champion_scores, challenger_scores, metrics, seed, policy, groups)
    against = "a constant prediction" if champion_scores is None else "the champion"
    verdict = judge(comparisons, int(np.size(labels)), policy, expected, against)
    if groups is not None and not grouped(groups) and np.size(labels) >= policy.min_rows:
        narrow = f" Fewer than {MIN_GROUPS} groups of rows: single rows were drawn, so the interval is too narrow."
        verdict = replace(verdict, reason=verdict.reason + narrow)
    return verdict


def compare(
    labels: np.ndarray,
    champion_scores: np.ndarray | None,
    challenger_scores: np.ndarray,
    metrics: Sequence[ScoreMetric],
    seed: int = 0,
    policy: GatePolicy = GatePolicy(),
    groups: np.ndarray | None = None,
) -> tuple[Comparison, ...]:
    """Every metric of both models on the same rows.

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
        policy: how many rows and resamples it takes, and the confidence of the interval.
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
        return tuple(_compare(metric, labels, old, new) for metric in metrics)
    resamples = draws(labels.size, groups, seed, policy.resamples)
    gains = differences(metrics, labels, old, new, resamples)
    return tuple(
        _compare(metric, labels, old, new, _interval(gains[:, place], policy.confidence))
        for place, metric in enumerate(metrics)
    )


def judge(
    comparisons: Sequence[Comparison],
    rows: int,
    policy: GatePolicy = GatePolicy(),
    expected: Expected | None = None,
    against: str = "the champion",
) -> GateVerdict:
    """Promote or keep, by the first of the comparisons, which were made on so many rows."""
    first, kept = comparisons[0], tuple(comparisons)
    if rows < policy.min_rows:
        reason = f"Only {rows:,} labelled rows to compare on; {policy.min_rows:,} are needed."
        return GateVerdict(False, reason, kept)
    if first.difference is None or first.ci_low is None or first.ci_high is None:
        reason = f"{first.metric} is not defined on these {rows:,} rows, so the challenger shows no gain."
        return GateVerdict(False, reason, kept)
    way = "better" if first.difference > 0 else "worse"
    gap = f"{abs(first.difference):.4f} {way}" if first.difference else "no difference"
    figures = (
        f"{first.metric} {first.challenger:.4f} against {first.champion:.4f} of {against}, "
        f"{gap} ({policy.confidence:.0%} interval {first.ci_low:+.4f} to {first.ci_high:+.4f}): "
    )
    if expected is not None and policy.rule == "expected":
        mean, _ = expected.given(first.difference, first.standard_error or 0.0)
        promote, said = _by_expectation(first.ci_high, mean, expected.mean, policy)
        return GateVerdict(promote, figures + said, kept, mean)
    promote = bool(first.ci_low > policy.min_gain)
    least = f" by more than {policy.min_gain:g}" if policy.min_gain else ""
    return GateVerdict(promote, f"{figures}{'' if promote else 'not '}better{least} beyond chance.", kept)


def _by_expectation(high: float, mean: float, before: float, policy: GatePolicy) -> tuple[bool, str]:
    """Whether to promote where a gain was expected before, and why."""
    if high < 0:
        return False, "worse beyond chance."
    promote = bool(mean > policy.min_gain)
    least = f"more than {policy.min_gain:g}" if policy.min_gain else "a gain"
    return promote, (
        f"with the {before:+.4f} that was expected before, {mean:+.4f} is to be expected in service, "
        f"{'' if promote else 'not '}{least}."
    )


def _must_match(labels: np.ndarray, metrics: Sequence[ScoreMetric], arrays: dict[str, np.ndarray | None]) -> None:
    if not metrics:
        raise ValueError("the gate needs at least one metric: the first one decides")
    for name, array in arrays.items():
        if array is not None and array.shape != labels.shape:
            raise ValueError(f"{name} has the shape {array.shape} and labels {labels.shape}; they must be the same")


def _compare(
    metric: ScoreMetric,
    labels: np.ndarray,
    old: np.ndarray,
    new: np.ndarray,
    interval: tuple[float | None, float | None, float | None] = (None, None, None),
) -> Comparison:
    before, after = _known(metric.function(labels, old)), _known(metric.function(labels, new))
    if before is None or after is None:
        return Comparison(metric.name, before, after, None)
    return Comparison(metric.name, before, after, (after - before) * (1 if metric.higher_is_better else -1), *interval)


def _known(value: float) -> float | None:
    return float(value) if isfinite(value) else None


def _interval(gains: np.ndarray, confidence: float) -> tuple[float | None, float | None, float | None]:
    """Percentile interval of resampled differences, and their spread; none if half of them are not defined."""
    known = gains[np.isfinite(gains)]
    if known.size * 2 < gains.size or known.size == 0:
        return None, None, None
    tail = (1 - confidence) / 2
    low, high = np.quantile(known, [tail, 1 - tail])
    return float(low), float(high), float(known.std(ddof=1)) if known.size > 1 else None
