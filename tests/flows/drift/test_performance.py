"""Performance with labels: DeLong against its own sums and against the bootstrap; and what is not defined."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab_flows.drift.bootstrap import standard_error
from trimtab_flows.drift.performance import delong, interval
from trimtab_flows.metrics import auc, brier


def drawn(rows: int, seed: int = 0, tell: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = (random.random(rows) < 0.3).astype(float)
    return labels, random.normal(size=rows) + tell * labels


def pairs(labels: np.ndarray, scores: np.ndarray) -> tuple[float, float]:
    """The sums of DeLong's paper, over all pairs."""
    hits, misses = scores[labels > 0.5], scores[labels <= 0.5]
    won = (hits[:, None] > misses[None, :]) + 0.5 * (hits[:, None] == misses[None, :])
    of_hits, of_misses = won.mean(1), won.mean(0)
    return float(won.mean()), float(np.sqrt(of_hits.var(ddof=1) / hits.size + of_misses.var(ddof=1) / misses.size))


@given(st.integers(0, 1000), st.integers(5, 60), st.booleans())
def test_delong_by_ranks_is_delong_over_all_pairs(seed: int, rows: int, ties: bool):
    labels, scores = drawn(rows, seed)
    labels[:4] = (1, 1, 0, 0)
    scores = np.round(scores) if ties else scores
    assert delong(labels, scores) == pytest.approx(pairs(labels, scores))


def test_delong_and_the_bootstrap_agree():
    labels, scores = drawn(2000)
    assert delong(labels, scores)[1] == pytest.approx(standard_error(labels, scores, auc, seed=0), rel=0.12)


def test_rows_of_one_group_are_not_taken_for_independent():
    labels, scores = drawn(300)
    # Each row ten times, in a group of its own: the error is that of the 300, not of 3,000.
    groups, tenfold = np.repeat(np.arange(300), 10), (np.repeat(labels, 10), np.repeat(scores, 10))
    assert delong(*tenfold, groups)[1] == pytest.approx(delong(labels, scores)[1], rel=0.03)
    assert delong(*tenfold)[1] == pytest.approx(delong(labels, scores)[1] / np.sqrt(10), rel=0.03)
    by_groups = standard_error(*tenfold, auc, seed=0, groups=groups)
    assert delong(*tenfold, groups)[1] == pytest.approx(by_groups, rel=0.15)


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    truth = 0.76025  # of two normal distributions one apart: the normal distribution function at 1 / sqrt(2)
    found = [interval(*drawn(200, seed), auc) for seed in range(300)]
    assert 0.92 < np.mean([each.low <= truth <= each.high for each in found]) < 0.98


def test_the_method_is_said():
    labels, scores = drawn(400)
    days = np.arange(400) // 20
    assert interval(labels, scores, auc).method == "DeLong"
    assert interval(labels, scores, auc, days).method == "DeLong by groups"
    assert interval(labels, scores, brier).method == "bootstrap"
    found = interval(labels, scores, brier, days)
    assert found.method == "bootstrap by groups"
    assert found.low < found.value < found.high


@pytest.mark.parametrize(
    ("labels", "scores"), [([], []), ([1.0], [0.5]), ([1.0] * 9, [0.1] * 9), ([0, 1], [np.nan, 1])]
)
def test_what_is_not_defined_is_none(labels: list[float], scores: list[float]):
    found = interval(np.array(labels), np.array(scores), auc)
    assert (found.value, found.standard_error, found.low, found.high, found.method) == (None, None, None, None, "none")


def test_one_row_of_each_class_and_perfect_order_have_an_interval():
    alone = interval(np.array([0.0, 1.0]), np.array([0.2, 0.8]), auc)
    assert (alone.value, alone.high) == (1.0, 1.0)
    assert 0 < alone.low < 0.1
    labels = np.repeat([0.0, 1.0], 50)
    perfect = interval(labels, labels, auc)
    assert 0.9 < perfect.low < 1
    assert interval(labels, 1 - labels, auc).high == pytest.approx(1 - perfect.low)


def test_a_million_rows():
    labels, scores = drawn(1_000_000)
    began = time.process_time()
    delong(labels, scores, np.arange(1_000_000) // 30_000)
    took_s = time.process_time() - began
    print(f"DeLong of 1,000,000 rows by groups: {took_s:.2f} s")
    assert took_s < 2
