"""By how much the champion does worse than was seen when it was made: chance, or a change?

The windows since the champion's data ended are read as one series: it has not changed, or it has from one of them on,
or it had and that has passed. Each case is weighed by how likely it makes what was seen (a Bayes factor of two means;
the prior for the time of the change is that of Shiryaev, On optimum methods in quickest detection problems, 1963). So a
loss that one window shows counts for little, the same loss in three windows for more, and one that chance cannot
explain for nearly all of it, at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

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
    units; never below 0. The mean over no change, a change at each of the windows, and one that has passed."""
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
    spread, size = wavering(evidence), (_SIZE * scale) ** 2
    stays = [_case(slice(place, None), worse, weight, spread, size) for place in range(1, worse.size)]
    passed = [
        replace(_case(slice(place, end), worse, weight, spread, size, worse.size - 1 - place), loss=0.0)
        for place in range(1, worse.size)
        for end in range(place + 1, worse.size)
    ]
    cases = [*stays, *passed]
    none = -math.log(rate)
    most = max(none, *(case.log_odds for case in cases))
    odds = [math.exp(case.log_odds - most) for case in cases]
    found = sum(each * case.loss for each, case in zip(odds, cases, strict=True))
    return float(found / (math.exp(none - most) + sum(odds)))


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
    """That some windows are of another kind: its odds (logarithm) against a change that is not to be seen, and what is
    lost now if it is so."""

    log_odds: float
    loss: float


def _case(changed: slice, worse: np.ndarray, weight: np.ndarray, wavers: float, size: float, ends: int = 1) -> _Case:
    """Some figures against all others: a normal mean with half a normal distribution as prior.

    Args:
        changed: the figures that are another kind.
        worse: by how much each is worse than the reference, shape (figures,).
        weight: one over its squared standard error, shape (figures,).
        wavers: variance between windows; a hard one is followed by hard ones, so it is not averaged out.
        size: variance of what changes cost.
        ends: in how many ways such a change may have ended: they share its prior.
    """
    after = weight[changed].sum()
    before = weight.sum() - after
    total = float(worse[changed] @ weight[changed])
    found = total / after - (float(worse @ weight) - total) / before
    variance = float(1 / before + 1 / after) + wavers
    spread = math.sqrt(size * variance / (size + variance))
    mean = found * size / (size + variance)
    z = mean / spread if spread > 0 else 0.0
    below = max((1 + math.erf(z / math.sqrt(2))) / 2, 1e-12)
    log_factor = 0.5 * math.log(variance / (variance + size)) + z * z / 2 + math.log(2 * below)
    density = math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    return _Case(log_factor - math.log(ends), max(mean + spread * density / below, 0.0))
