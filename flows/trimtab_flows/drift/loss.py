"""By how much the champion does worse than was seen when it was made: chance, or a change?

The windows since the champion's data ended are read as one series: it has not changed, or it has from one of them on.
Each of these cases is weighed by how likely it makes what was seen (a Bayes factor of two means; Shiryaev, On optimum
methods in quickest detection problems, 1963, has the same prior for the time of the change). So a loss that one window
shows counts for little, the same loss in three windows for more, and one that chance cannot explain for nearly all of
it, at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from trimtab_flows.drift.evidence import Evidence

__all__ = ["observed_loss", "wavering"]

#: Changes that are expected: one a year. In a window of a week one of 52, before it was seen.
_DAYS_BETWEEN_CHANGES = 365.0

#: A window counts as so long where its length is not known.
_WINDOW_DAYS = 7.0

#: Standard deviation of what a change costs, as a share of the champion's performance: anything is possible.
_SIZE = 1.0

#: Windows that are read. A champion that serves for longer has changed before, or it has not.
_READ = 12

#: Windows from which on it is told how much the metric wavers by itself.
_ENOUGH = 3

#: Median of a squared standard normal figure: the way from a median of squares, which one change does not move, to a
#: variance.
_MEDIAN_SQUARE = 0.455

#: The least standard error, as a share of the champion's performance: one that is not known is told as 0.
_LEAST_ERROR = 1e-6


def observed_loss(evidence: Evidence) -> float:
    """By how much the champion can be expected to do worse now than was seen when it was made, in the metric's own
    units; never below 0. The mean over no change, and a change at each of the windows."""
    reference = evidence.reference_performance
    seen = _seen(evidence)[-_READ:]
    if reference is None or not seen:
        return 0.0
    scale = abs(reference) or abs(seen[-1][0])
    sign = -1.0 if evidence.higher_is_better else 1.0
    least = (_LEAST_ERROR * scale) ** 2
    worse = np.array([0.0, *(sign * (value - reference) for value, _ in seen)])
    weight = 1 / np.maximum([evidence.reference_se**2, *(error**2 for _, error in seen)], max(least, 1e-300))
    rate = min((evidence.window_days or _WINDOW_DAYS) / _DAYS_BETWEEN_CHANGES, 0.5)
    cases = [
        _changed_at(place, worse, weight, wavering(evidence), (_SIZE * scale) ** 2, rate)
        for place in range(1, worse.size)
    ]
    most = max(0.0, *(case.log_odds for case in cases))
    odds = [math.exp(case.log_odds - most) for case in cases]
    found = sum(each * case.loss for each, case in zip(odds, cases, strict=True)) / (math.exp(-most) + sum(odds))
    return float(found)


def _seen(evidence: Evidence) -> list[tuple[float, float]]:
    """Performance and standard error of the windows with this champion where both are known, oldest first."""
    seen = [(evidence.performance, evidence.performance_se)]
    seen += [
        (each.performance, each.performance_se)
        for back, each in enumerate(reversed(evidence.history), start=1)
        if each.champion_age == evidence.champion_age - back and each.champion_age >= 0
    ]
    return [(value, error) for value, error in reversed(seen) if value is not None]


def wavering(evidence: Evidence) -> float:
    """Variance of the metric between windows of one champion, beyond chance: harder weeks and easier ones.

    Of the windows before this one, by their median, so that neither this window nor a change before it counts.
    """
    squares, chance = [], []
    run: list[tuple[float, float]] = []
    age = -1
    for each in evidence.history:
        if each.performance is None:
            continue
        if each.champion_age != age + 1:
            run = []
        age = each.champion_age
        if run:
            squares.append((each.performance - sum(value for value, _ in run) / len(run)) ** 2)
            chance.append(each.performance_se**2 + sum(error**2 for _, error in run) / len(run) ** 2)
        run.append((each.performance, each.performance_se))
    if len(squares) < _ENOUGH:
        return 0.0
    return max(float(np.median(squares)) / _MEDIAN_SQUARE - sum(chance) / len(chance), 0.0)


@dataclass(frozen=True)
class _Case:
    """That it changed from one window on: its odds against no change (logarithm), and what is lost then."""

    log_odds: float
    loss: float


def _changed_at(place: int, worse: np.ndarray, weight: np.ndarray, wavers: float, size: float, rate: float) -> _Case:
    """The figures from a place on against those before: a normal mean with half a normal distribution as prior."""
    before, after = weight[:place].sum(), weight[place:].sum()
    found = float((worse[place:] @ weight[place:]) / after - (worse[:place] @ weight[:place]) / before)
    # A hard week is followed by hard weeks, so what wavers is not averaged out.
    variance = float(1 / before + 1 / after) + wavers
    if variance + size <= 0:
        return _Case(-math.inf, 0.0)
    spread = math.sqrt(size * variance / (size + variance))
    mean = found * size / (size + variance)
    z = mean / spread if spread > 0 else 0.0
    below = max((1 + math.erf(z / math.sqrt(2))) / 2, 1e-12)
    log_factor = 0.5 * math.log(variance / (variance + size)) + z * z / 2 + math.log(2 * below)
    density = math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    return _Case(log_factor + math.log(rate), max(mean + spread * density / below, 0.0))
