"""Expected time left and the Gittins index: limits that are known in closed form."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab_work_pools.queue.runtime import gittins_index_s, mean_left_s


def test_exact_estimates_give_the_remaining_time() -> None:
    assert gittins_index_s(100.0, 0.0, 30.0) == mean_left_s(100.0, 0.0, 30.0) == 70.0
    assert gittins_index_s(100.0, 0.0, 250.0) == 250.0  # outlived: as much again


def test_mean_of_the_log_normal() -> None:
    assert mean_left_s(100.0, 1.0, 0.0) == pytest.approx(100.0 * math.exp(0.5), rel=0.01)


@pytest.mark.parametrize("attained", [0.3, 1.0, 3.0])
def test_mean_left_agrees_with_sampling(attained: float) -> None:
    draw = random.Random(7)
    left = [s - attained for s in (math.exp(draw.gauss(0.0, 1.0)) for _ in range(200_000)) if s > attained]
    assert mean_left_s(1.0, 1.0, attained) == pytest.approx(sum(left) / len(left), rel=0.03)


def test_an_outlived_estimate_moves_the_index_up() -> None:
    assert gittins_index_s(1.0, 1.0, 0.0) < gittins_index_s(1.0, 1.0, 3.0) < gittins_index_s(1.0, 1.0, 30.0)


@given(st.floats(1.0, 1e6), st.sampled_from((0.0, 0.3, 1.0, 2.0)), st.floats(0.0, 1e7))
def test_always_positive_and_below_the_mean(expected_s: float, sigma: float, attained_s: float) -> None:
    index_s = gittins_index_s(expected_s, sigma, attained_s)
    assert 0 < index_s <= mean_left_s(expected_s, sigma, attained_s) * (1 + 1e-9)
