"""How uncertain a metric is, or the difference of two models in it: the bootstrap, over groups of rows where given.

Rows of one day share weather, outages and sales: a resample of single rows takes them for independent and is too sure
of itself, four times so for the AUC of ten days of flights. With ``groups`` whole groups are drawn instead (the cluster
bootstrap; Field and Welsh, Journal of the Royal Statistical Society B 69(3), 2007). The same seed draws the same rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np

__all__ = ["MIN_GROUPS", "ScoreMetric", "differences", "draws", "grouped", "standard_error"]

#: Fewer groups than this say next to nothing of how groups differ; then single rows are drawn.
MIN_GROUPS = 5


class ScoreMetric(Protocol):
    """A figure of merit of labels and scores, both of shape (rows,)."""

    @property
    def name(self) -> str: ...
    @property
    def function(self) -> Callable[[np.ndarray, np.ndarray], float]: ...
    @property
    def higher_is_better(self) -> bool: ...


def grouped(groups: np.ndarray | None) -> bool:
    """Whether there are groups enough to draw."""
    return groups is not None and np.unique(groups).size >= MIN_GROUPS


def draws(rows: int, groups: np.ndarray | None, seed: int, count: int) -> Iterator[np.ndarray]:
    """Row numbers of each resample: as many rows, or as many groups, as there are, with replacement.

    Args:
        rows: how many there are; without any, nothing is drawn.
        groups: shape (rows,), what each row belongs to. Fewer than ``MIN_GROUPS`` different ones are ignored.
        seed: of the drawing.
        count: how many resamples.
    """
    random = np.random.default_rng(seed)
    if rows == 0:
        return
    if groups is None or not grouped(groups):
        for _ in range(count):
            yield random.integers(0, rows, rows)
        return
    _, member = np.unique(groups, return_inverse=True)
    by_group = np.split(np.argsort(member, kind="stable"), np.cumsum(np.bincount(member))[:-1])
    for _ in range(count):
        yield np.concatenate([by_group[group] for group in random.integers(0, len(by_group), len(by_group))])


def differences(
    metrics: Sequence[ScoreMetric],
    labels: np.ndarray,
    old: np.ndarray,
    new: np.ndarray,
    resamples: Iterator[np.ndarray],
) -> np.ndarray:
    """By how much ``new`` is better than ``old`` in each resample, the same rows for both.

    Returns:
        shape (resamples, metrics); positive is better, whatever the metric's direction; NaN where it is not defined.
    """
    signs = [1.0 if metric.higher_is_better else -1.0 for metric in metrics]
    found = []
    for rows in resamples:
        drawn, before, after = labels[rows], old[rows], new[rows]
        found.append(
            [
                sign * (metric.function(drawn, after) - metric.function(drawn, before))
                for sign, metric in zip(signs, metrics, strict=True)
            ]
        )
    return np.array(found, dtype=np.float64).reshape(-1, len(metrics))


def standard_error(
    labels: np.ndarray,
    scores: np.ndarray,
    metric: ScoreMetric,
    seed: int,
    groups: np.ndarray | None = None,
    resamples: int = 200,
) -> float:
    """Standard error of a metric by bootstrap; 0 where it is not defined in at least two resamples.

    Args:
        labels: shape (rows,).
        scores: shape (rows,).
        seed: of the drawing.
        groups: shape (rows,), what each row belongs to (its day).
        resamples: 200 give the error itself to about 5 % (Efron and Tibshirani, 1993, chapter 6).
    """
    values = [metric.function(labels[rows], scores[rows]) for rows in draws(labels.size, groups, seed, resamples)]
    known = np.array([value for value in values if np.isfinite(value)])
    return float(known.std(ddof=1)) if known.size > 1 else 0.0
