"""What is known of how long a run will still take: expected time left, and the Gittins index that orders runs by it.

A run time S is taken as log-normal: median `expected_s`, spread `sigma` (the standard deviation of ln S, 0: known
exactly). `attained_s` is the work already done, so everything here is conditional on S > attained_s.

The Gittins index (Gittins 1979; for queues Aalto, Ayesta and Righter 2009) of a run is

    G = min over a further quantum d > 0 of  E[min(S - a, d) | S > a] / P(S - a <= d | S > a)

in seconds: the cheapest expected work per completion. To run the least index first minimises the mean time in system
on one server; with sigma 0 it is shortest remaining time first, and with a wrong estimate it steps back, as the time
attained beyond the estimate shows it wrong.
"""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

__all__ = ["gittins_index_s", "mean_left_s"]

_POINTS = 400
_REACH = 5.0  # standard deviations; the chance of a run time beyond is 3e-7
_MIN_SIGMA = 0.02  # below this the index is shortest remaining time to within the table's error


@dataclass(frozen=True, slots=True)
class _Table:
    """For median 1: attained work (ascending), and there the Gittins index and the mean time left."""

    attained: list[float]
    index: list[float]
    left: list[float]


def gittins_index_s(expected_s: float, sigma: float, attained_s: float) -> float:
    """Gittins index (s, above 0) after `attained_s` of work, for expected_s > 0, sigma >= 0."""
    if sigma < _MIN_SIGMA:
        return _exact_left_s(expected_s, attained_s)
    table = _table(sigma)
    return expected_s * _interpolate(table.attained, table.index, attained_s / expected_s)


def mean_left_s(expected_s: float, sigma: float, attained_s: float) -> float:
    """E[S - a | S > a] (s, above 0), for expected_s > 0, sigma >= 0."""
    if sigma < _MIN_SIGMA:
        return _exact_left_s(expected_s, attained_s)
    table = _table(sigma)
    return expected_s * _interpolate(table.attained, table.left, attained_s / expected_s)


def _exact_left_s(expected_s: float, attained_s: float) -> float:
    left_s = expected_s - attained_s
    # An estimate called exact that was outlived says nothing more: expect as much again as it has run (Lindy).
    return left_s if left_s > 0 else max(attained_s, 1.0)


def _interpolate(xs: list[float], ys: list[float], x: float) -> float:
    if x >= xs[-1]:
        return ys[-1] * x / xs[-1]  # so far in the tail that the run time is all but scale-free
    after = bisect.bisect_right(xs, x)
    left, right = xs[after - 1], xs[after]
    return ys[after - 1] + (ys[after] - ys[after - 1]) * (x - left) / (right - left)


@lru_cache(maxsize=64)
def _table(sigma: float) -> _Table:
    z = np.linspace(-_REACH, _REACH, _POINTS)
    x = np.concatenate(([0.0], np.exp(sigma * z)))
    survival = np.concatenate(([1.0], [0.5 * math.erfc(value / math.sqrt(2.0)) for value in z]))
    survival[-1] = 0.0  # cut off there, or the index of the far tail would exceed the mean left
    pieces = np.diff(x) * (survival[1:] + survival[:-1]) / 2
    work = np.concatenate(([0.0], np.cumsum(pieces)))  # integral of the survival function from 0
    index = [float(np.min((work[i + 1 :] - work[i]) / (survival[i] - survival[i + 1 :]))) for i in range(len(x) - 1)]
    left = ((work[-1] - work[:-1]) / survival[:-1]).tolist()
    # The last tenth of the table sees too little of the tail beyond it: cut there and extrapolate.
    keep = _POINTS - _POINTS // 10
    return _Table(x[:keep].tolist(), index[:keep], left[:keep])
