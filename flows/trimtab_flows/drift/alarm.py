"""Whether performance is in alarm, against the reference that the policy names, and what drifted; with the words.

An alarm begins at one threshold, beyond chance, and ends at a lower one (hysteresis).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from trimtab_flows.drift.evidence import Evidence
from trimtab_flows.drift.policy import Policy

__all__ = ["Words", "alarm", "compared_with", "drifted_inputs"]

#: How many drifted inputs a reason names.
_NAMED = 3


@dataclass(frozen=True)
class Words:
    """What figures were compared with, for the reasons."""

    performance: str = "seen when the champion was made"
    predictions: str = ""
    inputs: str = ""


def compared_with(evidence: Evidence, policy: Policy) -> tuple[Evidence, Words]:
    """The evidence against the reference that the policy names: whatever the season does not tell stays as it was."""
    if policy.reference != "season":
        return evidence, Words()
    words, season = Words(), " against the season"
    if evidence.seasonal_performance is not None:
        evidence = replace(
            evidence, reference_performance=evidence.seasonal_performance, reference_se=evidence.seasonal_se
        )
        words = replace(words, performance="of the same time a season ago")
    if evidence.seasonal_prediction_psi is not None:
        evidence = replace(evidence, prediction_psi=evidence.seasonal_prediction_psi)
        words = replace(words, predictions=season)
    if evidence.season:
        psi = {**dict(evidence.input_psi), **dict(evidence.seasonal_psi)}
        evidence = replace(evidence, input_psi=tuple(psi.items()))
        words = replace(words, inputs=season)
    return evidence, words


def drifted_inputs(evidence: Evidence, policy: Policy, words: Words) -> list[str]:
    """A sentence on the inputs that drifted, if any did."""
    found = [(name, value) for name, value in evidence.input_psi if value >= policy.input_psi]
    if not found:
        return []
    worst = sorted(found, key=lambda item: (-item[1], item[0]))
    shown = ", ".join(f"{name} {value:.2f}" for name, value in worst[:_NAMED])
    more = f" and {len(worst) - _NAMED} more" if len(worst) > _NAMED else ""
    limit = f"PSI{words.inputs} from {policy.input_psi:g}"
    return [f"Inputs that drifted ({limit}; alone no reason to retrain): {shown}{more}."]


def alarm(evidence: Evidence, before: bool, policy: Policy, words: Words) -> tuple[bool, str]:
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
        f"{words.performance}"
    )
    if before:
        if loss >= policy.leave_loss:
            return True, f"{compared}; the alarm goes on (it ends below {policy.leave_loss:.1%})."
        return False, f"{compared}; the alarm ends (below {policy.leave_loss:.1%})."
    error = math.hypot(evidence.performance_se, evidence.reference_se) / scale
    return _begins(evidence, policy, loss, error, compared, words)


def _begins(
    evidence: Evidence, policy: Policy, loss: float, error: float, compared: str, words: Words
) -> tuple[bool, str]:
    """Whether an alarm begins with this loss and its standard error, both shares of the reference."""
    drifted = evidence.prediction_psi >= policy.prediction_psi
    enter = policy.drifted_enter_loss if drifted else policy.enter_loss
    psi = f"PSI{words.predictions} {evidence.prediction_psi:.2f}"
    because = f", lower since predictions drifted ({psi})" if drifted else ""
    if loss < enter or loss <= 0:
        return False, f"{compared}; an alarm begins at {enter:.1%}{because}."
    if loss < policy.confidence_z * error:
        return False, (
            f"{compared}, but that may be chance: {policy.confidence_z:g} standard errors are "
            f"{policy.confidence_z * error:.1%}."
        )
    return True, f"{compared}; from {enter:.1%} on that is an alarm{because}."
