"""Metrics agree with scikit-learn, say NaN where they are not defined, and are fast enough to be bootstrapped."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk

from trimtab_flows.metrics import accuracy, auc, brier, log_loss, mae, rmse
from trimtab_flows.recipe import Metric

CLASSIFYING = [(auc, sk.roc_auc_score), (log_loss, sk.log_loss), (brier, sk.brier_score_loss)]
REGRESSING = [(rmse, sk.root_mean_squared_error), (mae, sk.mean_absolute_error)]
ALL = [auc, accuracy, log_loss, brier, rmse, mae]


def _name(part: object) -> str:
    return getattr(part, "name", "scikit-learn")


def sample(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels 0 and 1, and probabilities that lean the right way, many of them tied."""
    draw = np.random.default_rng(seed)
    labels = (draw.random(rows) < 0.23).astype(np.float64)
    return labels, np.round(np.clip(draw.normal(0.3 + 0.1 * labels, 0.15), 0.01, 0.99), 2)


@pytest.mark.parametrize(("metric", "reference"), [*CLASSIFYING, *REGRESSING], ids=_name)
def test_metric_agrees_with_scikit_learn(metric, reference):
    for rows in (10, 1_000, 9_001):
        labels, scores = sample(rows, seed=rows)
        assert 0 < labels.sum() < rows
        assert metric.function(labels, scores) == pytest.approx(reference(labels, scores), rel=1e-12)


@pytest.mark.parametrize("metric", ALL, ids=_name)
def test_without_rows_a_metric_is_nan_and_warns_of_nothing(metric: Metric):
    value = metric.function(np.empty(0), np.empty(0))
    assert isinstance(value, float)
    assert math.isnan(value)


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_with_one_class_only_auc_is_nan(label: float):
    labels, scores = np.full(5, label), np.linspace(0.1, 0.9, 5)
    assert math.isnan(auc.function(labels, scores))
    assert all(math.isfinite(metric.function(labels, scores)) for metric in (log_loss, brier, rmse, mae))


def test_auc_of_scores_that_say_nothing_is_a_half():
    labels, _ = sample(100)
    assert auc.function(labels, np.full(100, 0.3)) == 0.5


def test_certainty_that_proves_wrong_costs_much_but_not_everything():
    assert 30 < log_loss.function(np.array([1.0, 0.0]), np.array([0.0, 1.0])) < 40
    assert log_loss.function(np.array([1.0, 0.0]), np.array([1.0, 0.0])) == pytest.approx(0.0, abs=1e-12)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 20)), min_size=1, max_size=60))
def test_auc_turned_round_is_the_rest_to_one(rows: list[tuple[bool, int]]):
    labels = np.array([float(late) for late, _ in rows])
    scores = np.array([value / 20 for _, value in rows])
    forth, back = auc.function(labels, scores), auc.function(labels, -scores)
    if 0 < labels.sum() < labels.size:
        assert forth + back == pytest.approx(1.0)
        assert 0 <= forth <= 1
    else:
        assert math.isnan(forth)
        assert math.isnan(back)


def test_directions():
    assert {metric.name: metric.higher_is_better for metric in ALL} == {
        "auc": True,
        "accuracy": True,
        "log_loss": False,
        "brier": False,
        "rmse": False,
        "mae": False,
    }


def test_auc_of_a_month_is_fast_enough_to_be_bootstrapped():
    labels, _ = sample(9_000)
    scores = np.random.default_rng(1).random(9_000)
    best = min(_seconds(labels, scores) for _ in range(50))
    # 0.4 to 1 ms on an idle core; the bound leaves room for cores that others use too.
    assert best < 0.005


def _seconds(labels: np.ndarray, scores: np.ndarray) -> float:
    start = time.perf_counter()
    auc.function(labels, scores)
    return time.perf_counter() - start


def test_accuracy_is_the_share_on_the_right_side_of_a_half():
    for rows in (10, 1_000):
        labels, scores = sample(rows, seed=rows)
        assert accuracy.function(labels, scores) == sk.accuracy_score(labels, scores > 0.5)


@pytest.mark.parametrize("metric", ALL, ids=lambda metric: metric.name)
def test_a_nan_among_scores_or_labels_makes_the_metric_nan(metric: Metric):
    labels, scores = sample(100)
    for place in (int(np.argmax(labels)), int(np.argmin(labels))):
        broken = scores.copy()
        broken[place] = np.nan
        assert math.isnan(metric.function(labels, broken))
    broken = labels.copy()
    broken[0] = np.nan
    assert math.isnan(metric.function(broken, scores))
