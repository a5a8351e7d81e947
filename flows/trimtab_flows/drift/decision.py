"""Decides whether a model is to be retrained: evidence in, a decision with its reasons out.

What counts is that the model does its work worse than it was seen to, by more than its measurements waver; drifted
predictions lower that bar. Drift of inputs alone never retrains, since on real data the usual tests flag nearly every
window; it is told as a possible cause. A model past its maximum age is retrained whatever it does. An alarm begins at
one threshold and ends at a lower one (hysteresis), and after a decision to retrain there is a cooldown. A retraining
that was not needed costs a training run, since the gate keeps a challenger out that is no better: so the default asks
for one standard error, not for two.

A policy that says what a point of the metric is worth decides by money instead: the gain that is to be expected of a
model trained now (``gain.py``), until the next one is due, against what the retraining costs. Alarms are then told, and
a loss that was seen counts for what fresh models have won back of such losses before.

Orders of the business come before the figures: one to forbid or to postpone, then one to force. What is to be done is
done at the first moment that the policy's calendar allows.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from trimtab_flows.drift.alarm import alarm, compared_with, drifted_inputs
from trimtab_flows.drift.evidence import Challenge, Evidence, Seen
from trimtab_flows.drift.gain import Gain, expected_gain
from trimtab_flows.drift.orders import Order, Standing, standing
from trimtab_flows.drift.policy import Policy
from trimtab_flows.drift.values import InvalidPolicy, InvalidRecord, from_plain, must_be_typed, read_json

__all__ = [
    "Challenge",
    "Decision",
    "Evidence",
    "InvalidPolicy",
    "InvalidRecord",
    "Order",
    "Policy",
    "Seen",
    "decide",
    "in_words",
]

Verdict = Literal["retrain", "later", "wait"]


@dataclass(frozen=True)
class Decision:
    """Whether to retrain after a window, and why.

    Attributes:
        window: label of the window.
        verdict: ``retrain`` (now), ``later`` (at ``at``) or ``wait`` (no).
        alarmed: whether performance is in alarm; the next window's decision starts from it.
        reasons: sentences with the figures that led here.
        champion_age: of the evidence. A later decision that sees a younger champion knows that it was replaced, and
            starts without an alarm.
        at: when to retrain, in UTC; None unless the verdict is ``later``.
        confidence: how likely the figures make it that this verdict is right, 0..1: 1 where a rule or an order
            decided; None where nothing is known.
        expected_gain: of retraining, in the metric's own units; positive is better; None when unknown.
        expected_gain_money: what that is worth until the next retraining is due; None when unknown.
        expected_cost_money: of retraining.
        currency: of both.
        priority: of the retrain run, as the queue counts it.
        deadline: by when the run is wanted done, in UTC; None: no deadline.
        labels: node labels that the run needs, each with the values allowed.
        needs_approval: whether a person has to agree first.
        tell: who is told.
        policy: digest of the policy.
    """

    window: str
    verdict: Verdict
    alarmed: bool
    reasons: tuple[str, ...]
    champion_age: int
    at: str | None = None
    confidence: float | None = None
    expected_gain: float | None = None
    expected_gain_money: float | None = None
    expected_cost_money: float = 0.0
    currency: str = "EUR"
    priority: int = 0
    deadline: str | None = None
    labels: tuple[tuple[str, tuple[str, ...]], ...] = ()
    needs_approval: bool = False
    tell: tuple[str, ...] = ()
    policy: str = ""

    @property
    def retrain(self) -> bool:
        """Whether the verdict is to retrain now."""
        return self.verdict == "retrain"

    @property
    def said(self) -> str:
        """The verdict in words for people."""
        return in_words(self.verdict, self.at)

    @property
    def resources(self) -> dict[str, Any]:
        """What the retrain run asks for on top of its recipe, as the ``resources`` job variable has it."""
        found: dict[str, Any] = {"priority": self.priority}
        if self.deadline is not None:
            found["deadline"] = self.deadline
        if self.labels:
            found["labels"] = {name: list(values) for name, values in self.labels}
        return found

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
        if found.get("verdict") not in ("retrain", "later", "wait"):
            raise InvalidRecord(
                f"decision: field verdict is {found.get('verdict')!r}; it must be retrain, later or wait"
            )
        must_be_typed(cls, found, "decision")
        for name in ("reasons", "tell"):
            texts = found.get(name, [])
            if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
                raise InvalidRecord(f"decision: field {name} is {texts!r}; it must be a list of texts")
            found[name] = tuple(texts)
        try:
            found["labels"] = tuple((str(name), tuple(values)) for name, values in found.get("labels", []))
        except (TypeError, ValueError):
            raise InvalidRecord("decision: field labels must list pairs of a label and the values allowed") from None
        return from_plain(cls, found, "decision", InvalidRecord)


def decide(evidence: Evidence, previous: Decision | None, policy: Policy) -> Decision:
    """Decide about one window; the same arguments give the same decision.

    Args:
        evidence: of this window.
        previous: the decision about the window before; None for the first.
        policy: when to retrain.
    """
    evidence, words = compared_with(evidence, policy)
    replaced = previous is not None and evidence.champion_age <= previous.champion_age
    before = previous is not None and previous.alarmed and not replaced
    alarmed, why = alarm(evidence, before, policy, words)
    reasons = [why]
    orders = standing(evidence.orders, evidence.moment, evidence.last_retrain)
    weighed = _weigh(evidence, policy)
    if weighed is not None:
        reasons.append(weighed.said(policy))
    asked_for = alarmed if weighed is None else weighed.pays
    wanted = _wanted(evidence, policy, asked_for, orders, reasons)
    reasons += drifted_inputs(evidence, policy, words)
    verdict, at = _when(evidence, policy, orders, reasons) if wanted else ("wait", None)
    start = at if verdict == "later" else evidence.moment
    deadline = None
    if verdict != "wait" and start is not None and policy.deadline_hours is not None:
        deadline = start + timedelta(hours=policy.deadline_hours)
    return Decision(
        window=evidence.window,
        verdict=verdict,
        alarmed=alarmed,
        reasons=tuple(reasons),
        champion_age=evidence.champion_age,
        at=_text(at),
        confidence=None if weighed is None else weighed.confidence,
        expected_gain=None if weighed is None else weighed.gain.mean,
        expected_gain_money=None if weighed is None else weighed.money,
        expected_cost_money=policy.cost,
        currency=policy.currency,
        priority=policy.priority_number,
        deadline=_text(deadline),
        labels=(("region", policy.regions),) if policy.regions else (),
        needs_approval=policy.needs_approval,
        tell=policy.tell,
        policy=policy.digest,
    )


@dataclass(frozen=True)
class _Weighed:
    """What retraining now is expected to bring and to cost, in money."""

    gain: Gain
    money: float
    cost: float
    likely: float
    days: float
    least: float

    @property
    def pays(self) -> bool:
        return self.money > self.cost and self.likely >= self.least

    @property
    def confidence(self) -> float:
        return self.likely if self.pays else 1 - self.likely

    def said(self, policy: Policy) -> str:
        parts = ", ".join(f"{value / policy.point:+.2f} for {name}" for name, value in self.gain.parts if value)
        learnt = f"{self.gain.learnt_from} retrainings" if self.gain.learnt_from != 1 else "1 retraining"
        return (
            f"A model trained now is expected to be {self.gain.mean / policy.point:+.2f} points better ({parts}; "
            f"learnt from {learnt}): worth {self.money:,.2f} {policy.currency} in {self.days:g} days, for "
            f"{self.cost:,.2f} {policy.currency}. {self._verdict()}"
        )

    def _verdict(self) -> str:
        if self.pays:
            return "That pays."
        if self.money <= self.cost:
            return "That does not pay."
        return f"That it pays is {self.likely:.0%} likely; {self.least:.0%} are asked for."


def _weigh(evidence: Evidence, policy: Policy) -> _Weighed | None:
    """Gain against cost; None where the policy does not say what a point is worth, or too little is known."""
    if policy.value_per_point_day is None or evidence.labelled_rows < policy.min_labelled_rows:
        return None
    gain = expected_gain(evidence)
    if gain is None:
        return None
    # Where the champion has served for longer than the horizon, the next one is likely to as well.
    days = max(policy.horizon_days, evidence.champion_age_days or 0.0)
    worth = policy.value_per_point_day * days / policy.point
    money = gain.mean * worth
    likely = gain.above(policy.cost / worth) if worth else 0.0
    return _Weighed(gain, money, policy.cost, likely, days, policy.min_confidence)


def in_words(verdict: str, at: str | None) -> str:
    """A verdict for people, with the time of a later one."""
    if verdict == "later" and at:
        return f"Retrain at {datetime.fromisoformat(at).astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    return {"retrain": "Retrain now", "later": "Retrain later", "wait": "Keep"}[verdict]


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.astimezone(UTC).isoformat()


def _wanted(evidence: Evidence, policy: Policy, asked_for: bool, orders: Standing, reasons: list[str]) -> bool:
    """Whether to retrain at all, whatever the time; adds the reasons."""
    if orders.force is not None:
        reasons.append(f"Retraining is forced: there is {orders.force}.")
        return True
    too_old = _too_old(evidence, policy)
    if too_old is not None:
        reasons.append(too_old)
    if not asked_for and too_old is None:
        return False
    held = [*_cooling(evidence, policy), *_few_new_rows(evidence, policy)]
    reasons += held
    return not held


def _cooling(evidence: Evidence, policy: Policy) -> list[str]:
    """A sentence if the last decision to retrain is too near."""
    since = evidence.windows_since_retrain
    if since is not None and since <= policy.cooldown:
        return [
            f"No retraining now: the last was decided {_windows(since)} ago, and the cooldown is {policy.cooldown}."
        ]
    now, last = evidence.moment, evidence.last_retrain
    if now is None or last is None or now - last >= timedelta(days=policy.cooldown_days):
        return []
    return [f"No retraining now: the last was decided on {last:%Y-%m-%d}; cooldown_days is {policy.cooldown_days:g}."]


def _few_new_rows(evidence: Evidence, policy: Policy) -> list[str]:
    """A sentence if too few labelled rows have come since the champion's data ended; unknown is none."""
    rows = evidence.new_labelled_rows or 0
    if rows >= policy.min_new_labelled_rows:
        return []
    return [
        f"No retraining now: {rows:,} labelled rows are new since the champion's data ended; "
        f"{policy.min_new_labelled_rows:,} are needed."
    ]


def _when(evidence: Evidence, policy: Policy, orders: Standing, reasons: list[str]) -> tuple[Verdict, datetime | None]:
    """Now, or the first moment that orders and calendar allow, or not at all; adds the reasons."""
    now = evidence.moment
    start = now
    for order in filter(None, (orders.forbid, orders.postpone)):
        if order.until is None:
            reasons.append(f"No retraining: there is {order}.")
            return "wait", None
        until = datetime.fromisoformat(order.until)
        start = until if start is None else max(start, until)
        reasons.append(f"Not before {start:%Y-%m-%d %H:%M %Z}: there is {order}.")
    calendar = policy.calendar
    if not calendar.empty:
        if start is None:
            reasons.append("No retraining: the policy has a calendar, and the time of this decision is not known.")
            return "wait", None
        opens, held = calendar.next_start(start)
        if opens is None:
            reasons.append(f"No retraining: the policy allows no start within 400 days ({', '.join(held)}).")
            return "wait", None
        if opens > start:
            reasons.append(f"Retraining starts at {opens:%Y-%m-%d %H:%M} UTC: before that is {', '.join(held)}.")
        start = opens
    if start is None or (now is not None and start <= now):
        return "retrain", None
    return "later", start


def _windows(count: int | None) -> str:
    return "1 window" if count == 1 else f"{count} windows"


def _too_old(evidence: Evidence, policy: Policy) -> str | None:
    """A sentence if age alone is a reason. A refused challenger is tried again after another such time, not each
    window."""
    since = evidence.windows_since_retrain
    age = evidence.champion_age if since is None else min(evidence.champion_age, since)
    if policy.max_age is not None and age >= policy.max_age:
        return f"The champion's data ended {_windows(evidence.champion_age)} ago; the limit is {policy.max_age}."
    days = evidence.champion_age_days
    if policy.max_age_days is None or days is None:
        return None
    now, last = evidence.moment, evidence.last_retrain
    tried = days if now is None or last is None else min(days, (now - last) / timedelta(days=1))
    if tried < policy.max_age_days:
        return None
    return f"The champion's data ended {days:.0f} days ago; the limit is {policy.max_age_days:g}."
