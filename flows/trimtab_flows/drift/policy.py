"""The policy: when a model is to be retrained, what that is worth and costs, and how the run is made. Plain data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from trimtab_flows.drift.calendar import Blackout, Calendar, Hours, blackouts_from, hours_from, zone_of
from trimtab_flows.drift.values import (
    InvalidPolicy,
    from_plain,
    must_be_number,
    must_be_text,
    must_be_texts,
    must_be_whole,
    read_json,
)

__all__ = ["FORMAT", "PRIORITIES", "REFERENCES", "Policy"]

#: Version of the fields below. One that means something else in a later release gets a new number.
FORMAT = 1

#: What a window may be compared with.
REFERENCES = ("training", "season")

#: Priority classes of a retrain run. One level is worth one patience of waiting in the queue (QUEUE.md).
PRIORITIES: Mapping[str, int] = {"low": -1, "normal": 0, "high": 1, "urgent": 3}


@dataclass(frozen=True)
class Policy:
    """When a model is retrained, and how. Windows are those of the recipe's cadence; days are days of the data.

    Attributes:
        enter_loss: an alarm begins when performance is worse than the reference by this share of it ...
        leave_loss: ... and ends when it is worse by less than this.
        drifted_enter_loss: the share that begins an alarm when predictions have drifted too.
        prediction_psi: PSI of the scores from which predictions count as drifted.
        input_psi: PSI from which an input counts as drifted; only reported.
        reference: what a window is compared with: ``training`` (what the champion was trained and held out on) or
            ``season`` (the same time a season ago, or the windows just before; where that is not known, training).
        confidence_z: the loss must be at least so many standard errors (of both figures together) to begin an alarm.
        cooldown: windows after a decision to retrain in which there is no other.
        min_labelled_rows: fewer say nothing about performance.
        max_age: windows after which a champion is retrained whatever it does, counted from the end of its data or from
            the last decision to retrain, whichever is later. None: never for its age.
        max_age_days: the same in days.
        cooldown_days: the same as ``cooldown``, in days; both hold.
        min_new_labelled_rows: labelled rows that must have come since the champion's data ended.
        value_per_point_day: money lost for each point that the deciding metric is worse, each day; None: not known,
            then no gain is weighed against a cost.
        point: what a point is, in the metric's own units: .01 suits metrics from 0 to 1 (an AUC of .70 is 70 points);
            1 suits an error that is counted in euros or items.
        horizon_days: how long a gain is counted at least; a champion whose data ended longer ago counts with that time,
            since the next one is likely to serve as long.
        min_confidence: how likely it must be that a retraining pays, 0 to below 1. With more, one that may be of no use
            waits for longer; where nothing is known of a model yet, .69 and more wait until a loss is seen.
        currency: of all money here.
        retrain_cost: of one retraining, in money, apart from the hours below.
        gpu_hours: of one retraining.
        gpu_hour_price: of the nodes that fit.
        cpu_hours: of one retraining.
        cpu_hour_price: of the nodes that fit.
        timezone: IANA name; allowed hours and black-outs are local to it. Empty: the recipe's (``in_zone``).
        allowed: hours of the week in which a retraining may start; none: always.
        blackouts: stretches in which none may start, allowed or not.
        priority: of the retrain run: a class of ``priorities``.
        priorities: numbers of the classes, from -1000 to 1000.
        deadline_hours: the run is wanted done so many hours after it may start; None: no deadline.
        regions: where the data may be processed: the label ``region`` of the run's nodes; none: anywhere.
        needs_approval: whether a person has to agree before the run starts.
        tell: who is told of decisions to retrain: Prefect notification blocks, like ``slack-webhook/ml``.
        name: of the policy, for people.
        format: version of these fields.

    Raises:
        InvalidPolicy: a value that is not allowed; the message names the field.
    """

    enter_loss: float = 0.03
    leave_loss: float = 0.01
    drifted_enter_loss: float = 0.02
    prediction_psi: float = 0.1
    input_psi: float = 0.25
    reference: str = "training"
    confidence_z: float = 1.0
    cooldown: int = 1
    min_labelled_rows: int = 200
    max_age: int | None = 3
    max_age_days: float | None = None
    cooldown_days: float = 0.0
    min_new_labelled_rows: int = 0
    value_per_point_day: float | None = None
    point: float = 0.01
    horizon_days: float = 28.0
    min_confidence: float = 0.57
    currency: str = "EUR"
    retrain_cost: float = 0.0
    gpu_hours: float = 0.0
    gpu_hour_price: float = 0.0
    cpu_hours: float = 0.0
    cpu_hour_price: float = 0.0
    timezone: str = ""
    allowed: tuple[Hours, ...] = ()
    blackouts: tuple[Blackout, ...] = ()
    priority: str = "normal"
    priorities: tuple[tuple[str, int], ...] = tuple(PRIORITIES.items())
    deadline_hours: float | None = None
    regions: tuple[str, ...] = ()
    needs_approval: bool = False
    tell: tuple[str, ...] = ()
    name: str = ""
    format: int = FORMAT

    def __post_init__(self) -> None:
        if self.format != FORMAT or isinstance(self.format, bool):
            raise InvalidPolicy(f"policy: field format is {self.format!r}; this version reads format {FORMAT}")
        _check_thresholds(self)
        _check_money(self)
        must_be_text("policy", "name", self.name, empty=True)
        for name, value in (
            ("allowed", hours_from(self.allowed)),
            ("blackouts", blackouts_from(self.blackouts)),
            ("regions", must_be_texts("policy", "regions", self.regions)),
            ("tell", must_be_texts("policy", "tell", self.tell)),
            ("priorities", _priorities(self.priorities)),
        ):
            object.__setattr__(self, name, value)
        zone_of(self.timezone or "UTC")
        if self.priority not in dict(self.priorities):
            known = ", ".join(name for name, _ in self.priorities)
            raise InvalidPolicy(f"policy: field priority is {self.priority!r}; it must be a class: {known}")
        if self.deadline_hours is not None:
            must_be_number("policy", "deadline_hours", self.deadline_hours, 0.01)
        if not isinstance(self.needs_approval, bool):
            raise InvalidPolicy(f"policy: field needs_approval is {self.needs_approval!r}; it must be true or false")

    @property
    def cost(self) -> float:
        """Money that one retraining costs."""
        return self.retrain_cost + self.gpu_hours * self.gpu_hour_price + self.cpu_hours * self.cpu_hour_price

    @property
    def priority_number(self) -> int:
        """The priority of the retrain run as the queue counts it."""
        return dict(self.priorities)[self.priority]

    @property
    def calendar(self) -> Calendar:
        """When a retraining may start."""
        return Calendar(zone_of(self.timezone or "UTC"), self.allowed, self.blackouts)

    def in_zone(self, name: str) -> Policy:
        """This policy, local to a time zone unless it names one of its own."""
        return self if self.timezone else replace(self, timezone=name)

    @property
    def digest(self) -> str:
        """A name for exactly this policy: 12 hex digits of the SHA-256 of its JSON."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:12]

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> Policy:
        """A policy from plain data; fields that are not given have their defaults.

        Raises:
            InvalidPolicy: an unknown field, or a value that is not allowed.
        """
        return from_plain(cls, mapping, "a policy", InvalidPolicy)

    def to_plain(self) -> dict[str, Any]:
        """The policy as JSON would hold it; ``from_mapping`` reads it back."""
        found: dict[str, Any] = json.loads(self.to_json())
        return found

    def to_json(self) -> str:
        """The policy as JSON."""
        return json.dumps({**asdict(self), "priorities": dict(self.priorities)})

    @classmethod
    def from_json(cls, text: str | bytes) -> Policy:
        """Read what ``to_json`` wrote.

        Raises:
            InvalidRecord: the text holds no object.
            InvalidPolicy: it has an unknown field, or a value that is not allowed.
        """
        return cls.from_mapping(read_json(text, "policy"))


def _check_thresholds(policy: Policy) -> None:
    for name in ("enter_loss", "leave_loss", "drifted_enter_loss", "prediction_psi", "input_psi", "confidence_z"):
        must_be_number("policy", name, getattr(policy, name))
    if policy.reference not in REFERENCES:
        raise InvalidPolicy(f"policy: field reference is {policy.reference!r}; it must be {' or '.join(REFERENCES)}")
    must_be_whole("policy", "cooldown", policy.cooldown, 0)
    must_be_number("policy", "cooldown_days", policy.cooldown_days)
    must_be_whole("policy", "min_labelled_rows", policy.min_labelled_rows, 1)
    must_be_whole("policy", "min_new_labelled_rows", policy.min_new_labelled_rows, 0)
    if policy.max_age is not None:
        must_be_whole("policy", "max_age", policy.max_age, 1)
    if policy.max_age_days is not None:
        must_be_number("policy", "max_age_days", policy.max_age_days, 1)
    if policy.drifted_enter_loss > policy.enter_loss:
        raise InvalidPolicy(
            f"policy: field drifted_enter_loss is {policy.drifted_enter_loss}; it must not be above enter_loss "
            f"({policy.enter_loss}): drift lowers the bar"
        )
    if policy.leave_loss > policy.drifted_enter_loss:
        raise InvalidPolicy(
            f"policy: field leave_loss is {policy.leave_loss}; it must not be above drifted_enter_loss "
            f"({policy.drifted_enter_loss}), or an alarm would end as it begins"
        )


def _check_money(policy: Policy) -> None:
    for name in ("retrain_cost", "gpu_hours", "gpu_hour_price", "cpu_hours", "cpu_hour_price"):
        must_be_number("policy", name, getattr(policy, name))
    if policy.value_per_point_day is not None:
        must_be_number("policy", "value_per_point_day", policy.value_per_point_day)
    must_be_number("policy", "horizon_days", policy.horizon_days, 0.01)
    must_be_number("policy", "point", policy.point, 1e-9)
    must_be_number("policy", "min_confidence", policy.min_confidence, 0, 0.99)
    must_be_text("policy", "currency", policy.currency)
    for hours, price in (("gpu_hours", "gpu_hour_price"), ("cpu_hours", "cpu_hour_price")):
        if getattr(policy, hours) and not getattr(policy, price):
            raise InvalidPolicy(
                f"policy: field {price} is 0, and {hours} is {getattr(policy, hours):g}; give the price"
            )


def _priorities(value: object) -> tuple[tuple[str, int], ...]:
    """Classes and numbers from a mapping, or from pairs."""
    try:
        pairs = dict(value)  # type: ignore[call-overload]
    except (TypeError, ValueError):
        pairs = {}
    for name, number in pairs.items():
        must_be_text("policy", "priorities", name)
        if isinstance(number, bool) or not isinstance(number, int) or not -1000 <= number <= 1000:
            raise InvalidPolicy(
                f"policy: field priorities.{name} is {number!r}; it must be a whole number from -1000 to 1000"
            )
    if not pairs:
        raise InvalidPolicy(f"policy: field priorities is {value!r}; it must map classes to numbers")
    return tuple(pairs.items())
