"""Decides whether a model is to be retrained: evidence in, a decision with its reasons out.

What counts is that the model does its work worse than it was seen to, by more than its measurements waver; drifted
predictions lower that bar. Drift of inputs alone never retrains, since on real data the usual tests flag nearly every
window; it is told as a possible cause. A model past its maximum age is retrained whatever it does. An alarm begins at
one threshold and ends at a lower one (hysteresis), and after a decision to retrain there is a cooldown. A retraining
that was not needed costs a training run, since the gate keeps a challenger out that is no better: so the default asks
for one standard error, not for two.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from trimtab_flows.drift.values import (
    InvalidPolicy,
    InvalidRecord,
    from_plain,
    must_be_number,
    must_be_typed,
    must_be_whole,
    read_json,
)

__all__ = ["Decision", "Evidence", "InvalidPolicy", "InvalidRecord", "Policy", "decide"]

#: How many drifted inputs a reason names.
_NAMED = 3


@dataclass(frozen=True)
class Evidence:
    """All that a decision about one window may look at. A figure that is NaN or infinite is kept as unknown, an
    input with such a figure is left out.

    Attributes:
        window: label of the window.
        labelled_rows: rows that performance was measured on.
        metric: the deciding metric.
        higher_is_better: its direction.
        performance: of the champion in this window; None when unknown.
        performance_se: its standard error, 0 if unknown.
        reference_performance: of the champion on the rows held back from its training; None when unknown.
        reference_se: its standard error, 0 if unknown.
        input_psi: PSI by input column.
        prediction_psi: PSI of the scores.
        windows_since_retrain: since the last decision to retrain; None if there was none.
        champion_age: windows since the champion's training data ended.
        input_js: Jensen-Shannon divergence by input column.
        prediction_js: Jensen-Shannon divergence of the scores.
        ordinal: place of the window since the model's first, from 0; None when unknown.
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
    input_js: tuple[tuple[str, float], ...] = ()
    prediction_js: float = 0.0
    ordinal: int | None = None

    def __post_init__(self) -> None:
        for name, unknown in (
            ("performance", None),
            ("reference_performance", None),
            ("performance_se", 0.0),
            ("reference_se", 0.0),
            ("prediction_psi", 0.0),
            ("prediction_js", 0.0),
        ):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                object.__setattr__(self, name, unknown)
        for name in ("input_psi", "input_js"):
            known = tuple((column, value) for column, value in getattr(self, name) if math.isfinite(value))
            object.__setattr__(self, name, known)

    def to_json(self) -> str:
        """The evidence as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> Evidence:
        """Read what ``to_json`` wrote.

        Raises:
            InvalidRecord: it holds no evidence; the message names the field.
        """
        found = read_json(text, "evidence")
        must_be_typed(cls, found, "evidence")
        for name in ("input_psi", "input_js"):
            if name in found:
                found[name] = _pairs(name, found[name])
        return from_plain(cls, found, "evidence", InvalidRecord)


def _pairs(name: str, value: Any) -> tuple[tuple[str, float], ...]:
    try:
        return tuple((str(column), float(figure)) for column, figure in value)
    except (TypeError, ValueError):
        raise InvalidRecord(f"evidence: field {name} must list pairs of a column and a number") from None


@dataclass(frozen=True)
class Policy:
    """When a model is retrained. Counted in windows of the recipe's cadence.

    The defaults were chosen on one series, the monthly flights of 2013, and are reported on it too. Most of what they
    gain there comes from ``max_age`` (mean AUC of five seeds .696 with 3 windows, .685 with 4, .676 never retrained),
    and a gated calendar of March, June, September and December gains a little more (.699).

    Attributes:
        enter_loss: an alarm begins when performance is worse than the reference by this share of it ...
        leave_loss: ... and ends when it is worse by less than this.
        drifted_enter_loss: the share that begins an alarm when predictions have drifted too.
        prediction_psi: PSI of the scores from which predictions count as drifted.
        input_psi: PSI from which an input counts as drifted; only reported.
        confidence_z: the loss must be at least so many standard errors (of both figures together) to begin an alarm.
        cooldown: windows after a decision to retrain in which there is no other.
        min_labelled_rows: fewer say nothing about performance.
        max_age: windows after which a champion is retrained whatever it does, counted from the end of its data or from
            the last decision to retrain, whichever is later. Three months, for a model that is looked at monthly; raise
            it where windows are shorter. None: never for its age.

    Raises:
        InvalidPolicy: a value that is not allowed; the message names the field.
    """

    enter_loss: float = 0.03
    leave_loss: float = 0.01
    drifted_enter_loss: float = 0.02
    prediction_psi: float = 0.1
    input_psi: float = 0.25
    confidence_z: float = 1.0
    cooldown: int = 1
    min_labelled_rows: int = 200
    max_age: int | None = 3

    def __post_init__(self) -> None:
        for name in ("enter_loss", "leave_loss", "drifted_enter_loss", "prediction_psi", "input_psi", "confidence_z"):
            must_be_number("policy", name, getattr(self, name))
        must_be_whole("policy", "cooldown", self.cooldown, 0)
        must_be_whole("policy", "min_labelled_rows", self.min_labelled_rows, 1)
        if self.max_age is not None:
            must_be_whole("policy", "max_age", self.max_age, 1)
        if self.drifted_enter_loss > self.enter_loss:
            raise InvalidPolicy(
                f"policy: field drifted_enter_loss is {self.drifted_enter_loss}; it must not be above enter_loss "
                f"({self.enter_loss}): drift lowers the bar"
            )
        if self.leave_loss > self.drifted_enter_loss:
            raise InvalidPolicy(
                f"policy: field leave_loss is {self.leave_loss}; it must not be above drifted_enter_loss "
                f"({self.drifted_enter_loss}), or an alarm would end as it begins"
            )

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> Policy:
        """A policy from plain data; fields that are not given have their defaults.

        Raises:
            InvalidPolicy: an unknown field, or a value that is not allowed.
        """
        return from_plain(cls, mapping, "a policy", InvalidPolicy)

    def to_json(self) -> str:
        """The policy as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> Policy:
        """Read what ``to_json`` wrote.

        Raises:
            InvalidRecord: the text holds no object.
            InvalidPolicy: it has an unknown field, or a value that is not allowed.
        """
        return cls.from_mapping(read_json(text, "policy"))


@dataclass(frozen=True)
class Decision:
    """Whether to retrain after a window, and why.

    Attributes:
        window: label of the window.
        verdict: ``retrain`` or ``wait``.
        alarmed: whether performance is in alarm; the next window's decision starts from it.
        reasons: sentences with the figures that led here.
        champion_age: of the evidence. A later decision that sees a younger champion knows that it was replaced, and
            starts without an alarm.
    """

    window: str
    verdict: Literal["retrain", "wait"]
    alarmed: bool
    reasons: tuple[str, ...]
    champion_age: int

    @property
    def retrain(self) -> bool:
        """Whether the verdict is to retrain."""
        return self.verdict == "retrain"

    def to_json(self) -> str:
        """The decision as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> Decision:
        """Read what ``to_json`` wrote.

        Raises:
            InvalidRecord: it holds no decision; the message names the field.
        """
        found = read_json(text, "decision")
        if found.get("verdict") not in ("retrain", "wait"):
            raise InvalidRecord(f"decision: field verdict is {found.get('verdict')!r}; it must be retrain or wait")
        must_be_typed(cls, found, "decision")
        reasons = found.get("reasons", [])
        if not isinstance(reasons, list) or not all(isinstance(reason, str) for reason in reasons):
            raise InvalidRecord(f"decision: field reasons is {reasons!r}; it must be a list of texts")
        return from_plain(cls, {**found, "reasons": tuple(reasons)}, "decision", InvalidRecord)


def decide(evidence: Evidence, previous: Decision | None, policy: Policy) -> Decision:
    """Decide about one window; the same arguments give the same decision.

    Args:
        evidence: of this window.
        previous: the decision about the window before; None for the first.
        policy: when to retrain.
    """
    replaced = previous is not None and evidence.champion_age <= previous.champion_age
    before = previous is not None and previous.alarmed and not replaced
    alarmed, why = _alarm(evidence, before, policy)
    reasons = [why]
    too_old = _too_old(evidence, policy)
    if too_old:
        reasons.append(
            f"The champion's data ended {_windows(evidence.champion_age)} ago; the limit is {policy.max_age}."
        )
    since = evidence.windows_since_retrain
    cooling = since is not None and since <= policy.cooldown
    if (alarmed or too_old) and cooling:
        reasons.append(
            f"No retraining now: the last was decided {_windows(since)} ago, and the cooldown is {policy.cooldown}."
        )
    reasons += _drifted_inputs(evidence, policy)
    retrain = (alarmed or too_old) and not cooling
    return Decision(evidence.window, "retrain" if retrain else "wait", alarmed, tuple(reasons), evidence.champion_age)


def _windows(count: int | None) -> str:
    return "1 window" if count == 1 else f"{count} windows"


def _too_old(evidence: Evidence, policy: Policy) -> bool:
    """Whether age alone is a reason. A refused challenger is tried again after another such time, not each window."""
    if policy.max_age is None:
        return False
    since = evidence.windows_since_retrain
    return min(evidence.champion_age, evidence.champion_age if since is None else since) >= policy.max_age


def _drifted_inputs(evidence: Evidence, policy: Policy) -> list[str]:
    """A sentence on the inputs that drifted, if any did."""
    found = [(name, value) for name, value in evidence.input_psi if value >= policy.input_psi]
    if not found:
        return []
    worst = sorted(found, key=lambda item: (-item[1], item[0]))
    shown = ", ".join(f"{name} {value:.2f}" for name, value in worst[:_NAMED])
    more = f" and {len(worst) - _NAMED} more" if len(worst) > _NAMED else ""
    return [f"Inputs that drifted (PSI from {policy.input_psi:g}; alone no reason to retrain): {shown}{more}."]


def _alarm(evidence: Evidence, before: bool, policy: Policy) -> tuple[bool, str]:
    """Whether performance is in alarm after this window, and why."""
    stays = f"the alarm stays {'on' if before else 'off'}"
    now, reference = evidence.performance, evidence.reference_performance
    if now is None or reference is None:
        where = "in this window" if now is None else "on the rows held back from the champion's training"
        return before, f"{evidence.metric} is not known {where}; {stays}."
    if evidence.labelled_rows < policy.min_labelled_rows:
        return before, (
            f"{evidence.labelled_rows:,} labelled rows are too few to judge by ({policy.min_labelled_rows:,} needed); "
            f"{stays}."
        )
    scale = abs(reference) or 1.0
    loss = (reference - now if evidence.higher_is_better else now - reference) / scale
    compared = (
        f"{evidence.metric} {now:.4f} is {abs(loss):.1%} {'worse' if loss > 0 else 'better'} than the {reference:.4f} "
        "seen when the champion was made"
    )
    if before:
        if loss >= policy.leave_loss:
            return True, f"{compared}; the alarm goes on (it ends below {policy.leave_loss:.1%})."
        return False, f"{compared}; the alarm ends (below {policy.leave_loss:.1%})."
    return _begins(evidence, policy, loss, math.hypot(evidence.performance_se, evidence.reference_se) / scale, compared)


def _begins(evidence: Evidence, policy: Policy, loss: float, error: float, compared: str) -> tuple[bool, str]:
    """Whether an alarm begins with this loss and its standard error, both shares of the reference."""
    drifted = evidence.prediction_psi >= policy.prediction_psi
    enter = policy.drifted_enter_loss if drifted else policy.enter_loss
    because = f", lower since predictions drifted (PSI {evidence.prediction_psi:.2f})" if drifted else ""
    if loss < enter or loss <= 0:
        return False, f"{compared}; an alarm begins at {enter:.1%}{because}."
    if loss < policy.confidence_z * error:
        return False, (
            f"{compared}, but that may be chance: {policy.confidence_z:g} standard errors are "
            f"{policy.confidence_z * error:.1%}."
        )
    return True, f"{compared}; from {enter:.1%} on that is an alarm{because}."
