"""Detectors on the stream of errors: they find a change and say to what, and are quiet without one."""

from __future__ import annotations

import numpy as np
import pytest

from trimtab_flows.drift.streams import Detector, errors_of, watch

DETECTORS: tuple[Detector, ...] = ("adwin", "page-hinkley")


def wrong(share: float, rows: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).random(rows) < share).astype(float)


@pytest.mark.parametrize("detector", DETECTORS)
def test_errors_that_double_are_found(detector: Detector):
    errors = np.concatenate([wrong(0.1, 4000), wrong(0.3, 3000, 1)])
    found = watch(errors, detector)
    assert found.worse
    assert 4000 <= found.at < 5000
    assert found.before == pytest.approx(0.1, abs=0.04)
    assert found.after > 0.2


@pytest.mark.parametrize("detector", DETECTORS)
def test_without_a_change_there_is_seldom_an_alarm(detector: Detector):
    assert sum(watch(wrong(0.2, 5000, seed), detector).changed for seed in range(20)) <= 1


def test_errors_that_become_fewer_are_a_change_for_the_better():
    found = watch(np.concatenate([wrong(0.4, 3000), wrong(0.1, 3000, 1)]))
    assert found.changed
    assert not found.worse


def test_large_errors_are_scaled():
    random = np.random.default_rng(0)
    errors = np.concatenate([random.exponential(50, 2000), random.exponential(150, 2000)])
    assert watch(errors).worse
    assert not watch(errors[:2000]).changed


@pytest.mark.parametrize("detector", DETECTORS)
@pytest.mark.parametrize("errors", [[], [0.5], [0.0] * 3000, [np.nan, np.inf, 0.1], [1.0] * 3000])
def test_empty_constant_and_unknown_errors_raise_no_alarm(errors: list[float], detector: Detector):
    found = watch(np.array(errors), detector)
    assert (found.changed, found.at) == (False, None)
    assert np.isfinite([found.before, found.after]).all()


def test_errors_are_of_rows_that_have_both():
    found = errors_of(np.array([1, 0, np.nan, 1]), np.array([0.8, 0.5, 0.1, np.nan]))
    assert found == pytest.approx([0.2, 0.5])
