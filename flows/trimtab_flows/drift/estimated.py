"""Performance without labels: what a model's own probabilities, once calibrated, say of how well it does.

Confidence-based performance estimation (NannyML's CBPE): scores are calibrated on rows whose labels were known; a
row that the model calls 0.7 is then right seven times in ten, so that the expected metric of unlabelled rows follows.
It sees that rows have become harder to tell apart. It cannot see that labels have come to mean something else: then
calibration itself is wrong, and only labels tell.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import numpy as np
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from trimtab_flows.drift.bootstrap import ScoreMetric

__all__ = ["Calibration", "Estimate", "calibrate", "estimate"]

#: Labelled rows, and rows of the rarer class, below which nothing is estimated.
MIN_ROWS, MIN_RARE = 200, 20
#: From here on an isotonic fit beats a logistic one (Niculescu-Mizil and Caruana, ICML 2005, figure 7).
_ISOTONIC_FROM = 1_000
#: Draws of labels that the error is taken from, and the rows they are drawn for.
_DRAWS, _DRAWN_ROWS = 50, 20_000

#: The metrics that are estimated, by name.
KNOWN = ("auc", "accuracy", "log_loss", "brier")


@dataclass(frozen=True)
class Calibration:
    """Scores to probabilities: a rising line through ``at`` (scores) and ``probability``, level beyond its ends.

    ``rows`` were labelled, ``positive`` of them 1; ``method`` is ``isotonic`` or ``logistic``.
    """

    at: tuple[float, ...]
    probability: tuple[float, ...]
    rows: int
    positive: int
    method: str

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        """Probabilities of scores, shape (rows,)."""
        return np.asarray(np.interp(scores, self.at, self.probability))

    def to_json(self) -> str:
        """The calibration as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> Calibration:
        """Read what ``to_json`` wrote.

        Raises:
            ValueError: it is no calibration.
        """
        try:
            found = json.loads(text)
            at, probability = (tuple(float(each) for each in found[name]) for name in ("at", "probability"))
            made = cls(at, probability, int(found["rows"]), int(found["positive"]), str(found["method"]))
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"this is no calibration: {type(error).__name__}: {error}") from None
        if not at or len(at) != len(probability):
            raise ValueError(f"this is no calibration: {len(at)} scores and {len(probability)} probabilities")
        return made


@dataclass(frozen=True)
class Estimate:
    """An estimated metric and its standard error: of the chance in labels, not of the calibration being wrong."""

    metric: str
    value: float
    standard_error: float
    rows: int


def calibrate(labels: np.ndarray, scores: np.ndarray) -> Calibration | None:
    """Fit probabilities to scores of rows that the model was not trained on.

    Args:
        labels: shape (rows,), 1 and 0.
        scores: shape (rows,).

    Returns:
        None where that is no matter of probabilities (other labels, scores beyond 0 and 1), or rows are too few.
    """
    labels, scores = np.asarray(labels, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    fine = np.isfinite(labels) & np.isfinite(scores)
    labels, scores = labels[fine], scores[fine]
    rows, positive = labels.size, int(np.sum(labels > 0.5))
    if rows < MIN_ROWS or not np.isin(labels, (0.0, 1.0)).all() or scores.min() < 0 or scores.max() > 1:
        return None
    if min(positive, rows - positive) < MIN_RARE:
        return None
    if rows >= _ISOTONIC_FROM:
        fitted = IsotonicRegression(y_min=0.5 / rows, y_max=1 - 0.5 / rows, out_of_bounds="clip").fit(scores, labels)
        at, probability, method = fitted.X_thresholds_, fitted.y_thresholds_, "isotonic"
    else:
        at, probability, method = _logistic(labels, scores)
    return Calibration(tuple(map(float, at)), tuple(map(float, probability)), rows, positive, method)


def _logistic(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, str]:
    """Platt's two parameters, on the logit of the score."""
    fitted = LogisticRegression(C=1e4).fit(_logit(scores)[:, None], labels)
    slope = max(float(fitted.coef_[0, 0]), 0.0)  # a model worse than chance has no order to keep
    at = np.linspace(0, 1, 201)
    return at, 1 / (1 + np.exp(-np.clip(fitted.intercept_[0] + slope * _logit(at), -30, 30))), "logistic"


def _logit(scores: np.ndarray) -> np.ndarray:
    clipped = np.clip(scores, 1e-6, 1 - 1e-6)
    return np.asarray(np.log(clipped / (1 - clipped)))


def estimate(calibration: Calibration, scores: np.ndarray, metric: ScoreMetric, seed: int = 0) -> Estimate | None:
    """The expected metric of rows without labels.

    Args:
        scores: shape (rows,).
        metric: by its name, one of ``KNOWN``.
        seed: of the draws that give the error.

    Returns:
        None without a finite score, or for another metric.
    """
    scores = np.asarray(scores, dtype=np.float64)
    scores = scores[np.isfinite(scores)]
    if scores.size == 0 or metric.name not in KNOWN:
        return None
    p = calibration(scores)
    value = _expected(metric.name, p, scores)
    if not np.isfinite(value):
        return None
    return Estimate(metric.name, value, _error(metric, p, scores, seed), scores.size)


def _expected(name: str, p: np.ndarray, s: np.ndarray) -> float:
    """The mean of a metric over labels drawn from ``p``."""
    if name == "auc":
        return _expected_auc(p, s)
    if name == "accuracy":
        return float(np.where(s > 0.5, p, 1 - p).mean())
    if name == "brier":
        return float((p * (1 - s) ** 2 + (1 - p) * s**2).mean())
    clipped = np.clip(s, 1e-15, 1 - 1e-15)
    return float(-(p * np.log(clipped) + (1 - p) * np.log1p(-clipped)).mean())


def _expected_auc(p: np.ndarray, s: np.ndarray) -> float:
    """Pairs in order over pairs, each weighted by the probability of being one of a 1 and a 0; no row with itself."""
    ranked, place = np.unique(s, return_inverse=True)
    hits = np.bincount(place, p, minlength=ranked.size)
    misses = np.bincount(place, 1 - p, minlength=ranked.size)
    itself = float(np.sum(p * (1 - p)))
    in_order = float(np.sum(hits * (np.cumsum(misses) - misses / 2))) - itself / 2
    pairs = float(hits.sum() * misses.sum()) - itself
    return in_order / pairs if pairs > 0 else float("nan")


def _error(metric: ScoreMetric, p: np.ndarray, s: np.ndarray, seed: int) -> float:
    random = np.random.default_rng(seed)
    scale = 1.0
    if s.size > _DRAWN_ROWS:
        scale = float(np.sqrt(_DRAWN_ROWS / s.size))
        picked = random.choice(s.size, _DRAWN_ROWS, replace=False)
        p, s = p[picked], s[picked]
    drawn = [metric.function((random.random(p.size) < p).astype(np.float64), s) for _ in range(_DRAWS)]
    known = np.array([each for each in drawn if np.isfinite(each)])
    return float(known.std(ddof=1)) * scale if known.size > 1 else 0.0
