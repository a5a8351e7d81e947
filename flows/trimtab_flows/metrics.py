"""Ready-made metrics for recipes. Without rows, or with one class where two are needed, they give NaN and no warning."""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata

from trimtab_flows.recipe import Metric

__all__ = ["auc", "brier", "log_loss", "mae", "rmse"]


def _auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Area under the ROC curve by ranks (Mann-Whitney U); 1 ms for 10,000 rows, so that it can be bootstrapped."""
    positive = labels > 0.5
    hits = int(positive.sum())
    misses = labels.size - hits
    if hits == 0 or misses == 0:
        return float("nan")
    ranks = rankdata(scores)
    return float((ranks[positive].sum() - hits * (hits + 1) / 2) / (hits * misses))


def _log_loss(labels: np.ndarray, scores: np.ndarray) -> float:
    if labels.size == 0:
        return float("nan")
    clipped = np.clip(scores, 1e-15, 1 - 1e-15)
    return float(-np.mean(labels * np.log(clipped) + (1 - labels) * np.log1p(-clipped)))


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else float("nan")


auc = Metric("auc", _auc)
log_loss = Metric("log_loss", _log_loss, higher_is_better=False)
brier = Metric("brier", lambda labels, scores: _mean((labels - scores) ** 2), higher_is_better=False)
mae = Metric("mae", lambda labels, scores: _mean(np.abs(labels - scores)), higher_is_better=False)
rmse = Metric("rmse", lambda labels, scores: _mean((labels - scores) ** 2) ** 0.5, higher_is_better=False)
