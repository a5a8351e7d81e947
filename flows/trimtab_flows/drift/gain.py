"""How much better a model trained now would be than the champion: learnt from what retraining gave before.

Three things make a fresh model better: more rows (a learning curve: each doubling is worth about the same), newer rows
(the world moves on), and a loss that has been seen (a change that a fresh model can learn, unless the window is only
harder). How much each is worth differs between models: on some none of them is worth anything. So each has a weight
with a prior, and every retraining that was measured at the gate, promoted or not, moves the weights (Bayesian linear
regression; Bishop, Pattern Recognition and Machine Learning, 2006, section 3.3). A refused challenger thus teaches
that retraining is worth less than thought. One that was refused by the champion now in service says more: what it
gained more or less than the line says is a trait of this champion, and it stays until there is another.

The same line tells the gate what to expect of a challenger (``expected_of``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trimtab_flows.drift.evidence import Challenge, Evidence
from trimtab_flows.drift.loss import observed_loss

__all__ = ["NAMES", "Expected", "Gain", "expected_gain", "expected_of", "observed_loss"]

#: What the parts of a gain come from.
NAMES = ("more rows", "newer rows", "the loss seen", "challengers that this champion beat")

#: Where age and the loss seen stand among the parts.
_AGE, _LOSS = 1, 2

#: Prior mean and standard deviation of the weights: of a doubling of the rows and of four weeks of age, as a share of
#: the champion's performance; of the loss seen, the share of it that a fresh model wins back. Rows and age grow
#: together: where the rows are told, age added nothing on any series tried (flights, electricity, employment), so it
#: begins at 0. The rows' weight is wide: a doubling was worth .0003 on employment, .04 on flights, 1 on electricity.
#: How much depends on these figures, and on the next two, is in RETRAINING.md.
_PRIOR_MEAN = np.array([0.02, 0.0, 0.3])
_PRIOR_SD = np.array([0.04, 0.005, 0.3])

#: By how much champions differ from the line, as a share of their performance, beyond the gains' standard errors.
_MISFIT = 0.004

#: By how much losses differ in the share of them that a fresh model wins back: bad weather gives nothing back, a change
#: of the law nearly all. So a small loss that gave nothing back says little of a large one.
_SHARE_SD = 0.3

#: A performance as near to 0 as this gives no scale to measure gains by.
_LEAST = 1e-9

#: A stretch of age that counts as 1.
_DAYS = 28.0


@dataclass(frozen=True)
class Gain:
    """An expected gain in the metric's own units, positive is better; its standard deviation; where it comes from."""

    mean: float
    sd: float
    parts: tuple[tuple[str, float], ...]
    learnt_from: int

    @property
    def positive(self) -> float:
        """Mean of the gain that reaches service: the gate keeps a challenger out that is no better.

        E[max(gain, 0)] of a normal distribution.
        """
        if self.sd <= 0:
            return max(self.mean, 0.0)
        z = self.mean / self.sd
        return self.mean * _below(z) + self.sd * math.exp(-z * z / 2) / math.sqrt(2 * math.pi)

    def above(self, gain: float) -> float:
        """Probability that it is more than this, 0..1."""
        if self.sd <= 0:
            return float(self.mean > gain)
        return _below((self.mean - gain) / self.sd)


@dataclass(frozen=True)
class Expected:
    """The gain that is expected of a challenger before it is compared, in the metric's own units, and its standard
    deviation; positive is better."""

    mean: float
    sd: float

    def given(self, measured: float, error: float) -> tuple[float, float]:
        """The same once a comparison found a gain with this standard error: both weighed by how exact they are."""
        spread = self.sd**2 + error**2
        if spread <= 0:
            return measured, 0.0
        pull = self.sd**2 / spread
        return self.mean + pull * (measured - self.mean), math.sqrt(pull) * error


def _below(z: float) -> float:
    return (1 + math.erf(z / math.sqrt(2))) / 2


def expected_gain(evidence: Evidence) -> Gain | None:
    """What a model trained on all that is known now would gain over the champion.

    None where the champion's performance is not known at all, or is 0.
    """
    line = _fitted(evidence)
    if line is None:
        return None
    x = _inputs_now(evidence)
    parts = [float(part) for part in x * line.weights]
    return Gain(
        mean=sum(parts) + line.trait,
        sd=line.sd(x),
        parts=tuple(zip(NAMES, [*parts, line.trait], strict=True)),
        learnt_from=line.learnt_from,
    )


def expected_of(evidence: Evidence, challenge: Challenge) -> Expected | None:
    """What is expected of a challenger that has been trained, for the gate; its gain is not looked at.

    None where the champion's performance is not known at all, or is 0.
    """
    line = _fitted(evidence)
    if line is None:
        return None
    x = _inputs_of(challenge, evidence.window_days)
    return Expected(float(x @ line.weights + line.trait), line.sd(x))


@dataclass(frozen=True)
class _Line:
    """Weights with their covariance, the trait of the champion in service, and how many challengers taught them."""

    weights: np.ndarray
    covariance: np.ndarray
    trait: float
    trait_variance: float
    learnt_from: int

    def sd(self, x: np.ndarray) -> float:
        """Standard deviation of the gain at these inputs."""
        share = _SHARE_SD * x[_LOSS]
        return float(np.sqrt(x @ self.covariance @ x + self.trait_variance + share**2))


def _fitted(evidence: Evidence) -> _Line | None:
    """The line as the challenges so far have it."""
    scale = abs(evidence.reference_performance or evidence.performance or 0.0)
    if scale < _LEAST:
        return None
    units = np.array([scale, scale, 1.0])
    mean, precision = _PRIOR_MEAN * units, np.diag(1 / (_PRIOR_SD * units) ** 2)
    shift = precision @ mean
    measured = [each for each in evidence.challenges if each.gain is not None and not each.probe]
    misfit = (_MISFIT * scale) ** 2
    for each in measured:
        x = _inputs_of(each, evidence.window_days)
        weight = 1 / (each.gain_se**2 + misfit + (_SHARE_SD * x[_LOSS]) ** 2)
        precision += weight * np.outer(x, x)
        shift += weight * x * (each.gain or 0.0)
    covariance = np.linalg.inv(precision)
    weights = covariance @ shift
    weights = _none_below_zero(weights, covariance)
    trait, rest = _trait(_refused(measured), weights, misfit, evidence.window_days)
    return _Line(weights, covariance, trait, rest, len(measured))


def _none_below_zero(weights: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Neither rows that are newer, nor more of them, nor a loss make a fresh model worse, whatever the few that were
    seen say. Rows and age grow together: where age was thought to harm, the rows were thought to help by too much."""
    if weights[_AGE] < 0:
        weights = weights - covariance[:, _AGE] * (weights[_AGE] / covariance[_AGE, _AGE])
    return np.asarray(np.maximum(weights, 0.0))


def _refused(measured: Sequence[Challenge]) -> list[Challenge]:
    """The challengers that the champion in service has beaten."""
    promoted = [place for place, each in enumerate(measured) if each.promoted]
    return list(measured[promoted[-1] + 1 :] if promoted else measured)


def _trait(refused: Sequence[Challenge], weights: np.ndarray, misfit: float, window_days: float) -> tuple[float, float]:
    """Mean and variance of what this champion differs from the line by: a normal mean with a normal prior."""
    precision, shift = 1 / misfit, 0.0
    for each in refused:
        # The same days decide several of them in a row, so none counts as more exact than the prior.
        x = _inputs_of(each, window_days)
        weight = 1 / (max(each.gain_se**2, misfit / 4) + (_SHARE_SD * x[_LOSS]) ** 2)
        precision += weight
        shift += weight * ((each.gain or 0.0) - float(x @ weights))
    return float(shift / precision), float(1 / precision)


def _inputs_now(evidence: Evidence) -> np.ndarray:
    """What a model trained now differs in from the champion, shape (3,)."""
    days = evidence.champion_age_days
    age = evidence.champion_age * evidence.window_days if days is None else days
    rows = evidence.training_rows + (evidence.new_labelled_rows or 0)
    return _inputs(rows, evidence.training_rows, age - evidence.fresh_age_days, observed_loss(evidence))


def _inputs_of(challenge: Challenge, window_days: float) -> np.ndarray:
    """What a challenge was measured with, shape (3,)."""
    newer = challenge.champion_age * window_days if challenge.newer_days is None else challenge.newer_days
    return _inputs(challenge.rows, challenge.champion_rows, newer, challenge.champion_loss)


def _inputs(rows: int, before: int, newer_days: float, loss: float) -> np.ndarray:
    """Doublings of the rows, stretches of days by which they are newer, and the loss seen; shape (3,)."""
    growth = math.log2(rows / before) if rows > 0 and before > 0 else 0.0
    return np.array([growth, newer_days / _DAYS, max(loss, 0.0)])
