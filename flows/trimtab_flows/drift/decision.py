"""Decides whether a model is to be retrained: evidence in, a decision with its reasons out.

Drift of inputs alone never retrains: on real data the usual tests flag nearly every window. What counts is that the
model does its work worse than it was seen to, by more than chance; drifted predictions lower that bar. Hysteresis: an
alarm begins at one threshold and ends at a lower one. After a decision to retrain there is a cooldown.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

__all__ = ["Decision", "Evidence", "InvalidPolicy", "Policy", "decide"]


class InvalidPolicy(ValueError):
    """A policy with a field that does not exist, or a value that is not allowed."""


@dataclass(frozen=True)
class Evidence:
    """All that a decision about one window may look at.

    Attributes:
        window: label of the window.
        labelled_rows: rows that performance was measured on.
        metric: the deciding metric.
        performance: of the champion in this window; None when unknown.
        performance_se: its standard error, 0 if unknown.
        reference_performance: of the champion on the rows held back from its training.
        reference_se: its standard error, 0 if unknown.
        input_psi: PSI by input column.
        prediction_psi: PSI of the scores.
        windows_since_retrain: since the last decision to retrain; None if there was none.
        champion_age: windows since the champion's training data ended.
    """

    window: str
    labelled_rows: int
    metric: str
    higher_is_better: bool
    performance: float | None
    performance_se: float
    reference_performance: float | None
    reference_se: float
    input_psi: tuple[tuple[str, float], ...]
    prediction_psi: float
    windows_since_retrain: int | None
    champion_age: int

    def to_json(self) -> str:
        """The evidence as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> Evidence:
        """Read what ``to_json`` wrote."""
        found = json.loads(text)
        return cls(**{**found, "input_psi": tuple((str(name), float(value)) for name, value in found["input_psi"])})


@dataclass(frozen=True)
class Policy:
    """When a model is retrained.

    Attributes:
        enter_loss: an alarm begins when performance is worse than the reference by this share of it ...
        leave_loss: ... and ends when it is worse by less than this.
        drifted_enter_loss: the share that begins an alarm when predictions have drifted too.
        prediction_psi: PSI of the scores from which predictions count as drifted.
        input_psi: PSI from which an input counts as drifted; only reported.
        confidence_z: the loss must exceed so many standard errors.
        cooldown: windows after a decision to retrain in which there is no other.
        min_labelled_rows: fewer say nothing about performance.
        max_age: windows after which a champion is retrained whatever it does.
    """

    enter_loss: float = 0.03
    leave_loss: float = 0.01
    drifted_enter_loss: float = 0.02
    prediction_psi: float = 0.1
    input_psi: float = 0.25
    confidence_z: float = 1.64
    cooldown: int = 1
    min_labelled_rows: int = 200
    max_age: int = 6

    def __post_init__(self) -> None:
        for name in ("enter_loss", "leave_loss", "drifted_enter_loss", "prediction_psi", "input_psi", "confidence_z"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise InvalidPolicy(f"policy field {name} is {value!r}; it must be a number, 0 or more")
        for name, low in (("cooldown", 0), ("min_labelled_rows", 1), ("max_age", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise InvalidPolicy(f"policy field {name} is {value!r}; it must be a whole number, {low} or more")
        if self.leave_loss > min(self.enter_loss, self.drifted_enter_loss):
            raise InvalidPolicy(
                f"policy field leave_loss is {self.leave_loss}; it must not be above enter_loss ({self.enter_loss}) or "
                f"drifted_enter_loss ({self.drifted_enter_loss}), or an alarm would end as it begins"
            )

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> Policy:
        """A policy from plain data; fields that are not given have their defaults.

        Raises:
            InvalidPolicy: an unknown field, or a value that is not allowed.
        """
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(mapping) - set(known))
        if unknown:
            raise InvalidPolicy(f"a policy has no field {', '.join(unknown)}; it has {', '.join(known)}")
        return cls(**mapping)

    def to_json(self) -> str:
        """The policy as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> Policy:
        """Read what ``to_json`` wrote."""
        return cls.from_mapping(json.loads(text))


@dataclass(frozen=True)
class Decision:
    """Whether to retrain after a window, and why. ``alarmed`` is carried to the next window's decision."""

    window: str
    retrain: bool
    alarmed: bool
    reasons: tuple[str, ...]

    def to_json(self) -> str:
        """The decision as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> Decision:
        """Read what ``to_json`` wrote."""
        found = json.loads(text)
        return cls(**{**found, "reasons": tuple(found["reasons"])})


def decide(evidence: Evidence, previous: Decision | None, policy: Policy) -> Decision:
    """Decide about one window; the same arguments give the same decision."""
    reasons: list[str] = []
    alarmed = _alarmed(evidence, previous is not None and previous.alarmed, policy, reasons)
    too_old = evidence.champion_age >= policy.max_age
    if too_old:
        reasons.append(f"The champion's data ended {evidence.champion_age} windows ago; {policy.max_age} is the limit.")
    since = evidence.windows_since_retrain
    cooling = since is not None and since <= policy.cooldown
    retrain = (alarmed or too_old) and not cooling
    if (alarmed or too_old) and cooling:
        reasons.append(
            f"No retraining: the last was decided {since} windows ago, and the cooldown is {policy.cooldown}."
        )
    drifted = [f"{name} {value:.2f}" for name, value in _drifted_inputs(evidence, policy)]
    if drifted:
        shown = ", ".join(drifted[:3]) + (f" and {len(drifted) - 3} more" if len(drifted) > 3 else "")
        reasons.append(f"Inputs that drifted (PSI from {policy.input_psi:g}; alone no reason to retrain): {shown}.")
    return Decision(evidence.window, retrain, alarmed, tuple(reasons))


def _drifted_inputs(evidence: Evidence, policy: Policy) -> list[tuple[str, float]]:
    found = [(name, value) for name, value in evidence.input_psi if value >= policy.input_psi]
    return sorted(found, key=lambda item: (-item[1], item[0]))


def _alarmed(evidence: Evidence, before: bool, policy: Policy, reasons: list[str]) -> bool:
    """Whether performance is in alarm after this window; says why."""
    now, reference = evidence.performance, evidence.reference_performance
    if now is None or reference is None or math.isnan(now) or math.isnan(reference):
        reasons.append(f"{evidence.metric} is not known in this window; the alarm stays {'on' if before else 'off'}.")
        return before
    if evidence.labelled_rows < policy.min_labelled_rows:
        reasons.append(
            f"{evidence.labelled_rows:,} labelled rows are too few to judge by ({policy.min_labelled_rows:,} needed); "
            f"the alarm stays {'on' if before else 'off'}."
        )
        return before
    loss = (reference - now if evidence.higher_is_better else now - reference) / (abs(reference) or 1.0)
    noise = math.hypot(evidence.performance_se, evidence.reference_se) / (abs(reference) or 1.0)
    drifted = evidence.prediction_psi >= policy.prediction_psi
    enter = policy.drifted_enter_loss if drifted else policy.enter_loss
    word = "below" if evidence.higher_is_better else "above"
    compared = (
        f"{evidence.metric} {now:.4f} is {abs(loss):.1%} {'worse than' if loss > 0 else 'better than'} the "
        f"{reference:.4f} seen when the champion was made"
    )
    if before:
        stays = loss >= policy.leave_loss
        reasons.append(
            f"{compared}; the alarm {'goes on' if stays else 'ends'} (it ends {policy.leave_loss:.1%} {word})."
        )
        return stays
    certain = loss > policy.confidence_z * noise
    begins = loss >= enter and certain
    because = f" since predictions drifted too (PSI {evidence.prediction_psi:.2f})" if drifted else ""
    if begins:
        reasons.append(f"{compared}; from {enter:.1%} on is an alarm{because}.")
    elif loss >= enter:
        reasons.append(
            f"{compared}, but that may be chance ({policy.confidence_z:g} standard errors are {policy.confidence_z * noise:.1%})."
        )
    else:
        reasons.append(f"{compared}; an alarm begins {enter:.1%} {word} it{because}.")
    return begins
