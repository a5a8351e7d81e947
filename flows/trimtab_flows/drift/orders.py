"""Orders of the business: an external event forces, forbids or postpones the retraining of a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from trimtab_flows.drift.values import InvalidRecord, from_plain, must_be_typed, read_moment

__all__ = ["Order", "Standing", "orders_from", "standing"]

KINDS = ("force", "forbid", "postpone")


@dataclass(frozen=True)
class Order:
    """One order.

    Attributes:
        kind: ``force`` (retrain once, whatever the figures and the cooldown say), ``forbid`` (not while it stands) or
            ``postpone`` (what would be done now is done at ``until``).
        issued: when it was given, a time with its zone. A ``force`` is done once a retraining was decided after it.
        until: it stands up to this time; None: until it is taken back. ``postpone`` needs one.
        reason: why, told with every decision it changes.
        source: who gave it.

    Raises:
        InvalidRecord: a value that is not allowed; the message names the field.
    """

    kind: Literal["force", "forbid", "postpone"]
    issued: str
    until: str | None = None
    reason: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        must_be_typed(type(self), vars(self), "order")
        if self.kind not in KINDS:
            raise InvalidRecord(f"order: field kind is {self.kind!r}; it must be one of {', '.join(KINDS)}")
        for name in ("issued", "until"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, zoned("order", name, value).isoformat())
        if self.kind == "postpone" and self.until is None:
            raise InvalidRecord("order: field until is missing; an order to postpone says until when")

    @property
    def given(self) -> datetime:
        """When it was issued: in different zones, the texts do not sort as the moments do."""
        return datetime.fromisoformat(self.issued)

    def stands(self, moment: datetime | None) -> bool:
        """Whether it is in force at a moment; None: the time is not known, then it is unless it forces."""
        if moment is None:
            return self.kind != "force"
        after = self.given <= moment
        return after and (self.until is None or moment < datetime.fromisoformat(self.until))

    def __str__(self) -> str:
        until = f" until {self.until}" if self.until else ""
        by = f" by {self.source}" if self.source else ""
        return f"an order{by} to {self.kind} retraining{until}{f' ({self.reason})' if self.reason else ''}"


@dataclass(frozen=True)
class Standing:
    """The orders that count at a moment, one of each kind: what forbids or postpones longest, what forces first."""

    force: Order | None = None
    forbid: Order | None = None
    postpone: Order | None = None


def standing(orders: Iterable[Order], moment: datetime | None, last_retrain: datetime | None) -> Standing:
    """The orders that count.

    Args:
        orders: all that are known.
        moment: of the decision; None when unknown.
        last_retrain: when a retraining was last decided: a ``force`` issued before that is done.
    """
    now = [order for order in orders if order.stands(moment)]
    forces = [order for order in now if order.kind == "force" and not _done(order, last_retrain)]
    by_issue = sorted(forces, key=lambda order: (order.given, order.reason))
    return Standing(
        force=by_issue[0] if by_issue else None,
        forbid=_longest(order for order in now if order.kind == "forbid"),
        postpone=_longest(order for order in now if order.kind == "postpone"),
    )


def _done(order: Order, last_retrain: datetime | None) -> bool:
    return last_retrain is not None and order.given <= last_retrain


def _longest(orders: Iterable[Order]) -> Order | None:
    never = datetime.max.replace(tzinfo=UTC)

    def end(order: Order) -> tuple[datetime, datetime, str]:
        return (datetime.fromisoformat(order.until) if order.until else never, order.given, order.reason)

    return max(orders, key=end, default=None)


def orders_from(value: object) -> tuple[Order, ...]:
    """Orders from plain data: a list of mappings, or of orders."""
    if isinstance(value, str | Mapping) or not isinstance(value, Sequence):
        raise InvalidRecord(f"evidence: field orders is {value!r}; it must be a list of orders")
    return tuple(each if isinstance(each, Order) else _order(each) for each in value)


def _order(value: Any) -> Order:
    if not isinstance(value, Mapping):
        raise InvalidRecord(f"evidence: field orders lists {value!r}; an order has fields by name")
    return from_plain(Order, value, "an order", InvalidRecord)


def zoned(owner: str, name: str, value: object) -> datetime:
    """A time with its zone.

    Raises:
        InvalidRecord: it is none.
    """
    moment = read_moment(owner, name, value, InvalidRecord)
    if moment.tzinfo is None:
        raise InvalidRecord(
            f'{owner}: field {name} is {value!r}; it must name its time zone, like "2026-11-27T18:00:00+00:00"'
        )
    return moment
