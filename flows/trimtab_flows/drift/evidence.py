"""All that a decision about one window may look at, as a record that a decision can be replayed from."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from trimtab_flows.drift.orders import Order, orders_from, zoned
from trimtab_flows.drift.values import InvalidRecord, from_plain, must_be_typed, read_json

__all__ = ["Challenge", "Evidence", "Seen"]


@dataclass(frozen=True)
class Seen:
    """The champion's performance in an earlier window.

    Attributes:
        window: its label.
        performance: of the champion of that time; None when unknown.
        performance_se: its standard error, 0 if unknown.
        champion_age: windows since that champion's training data ended.
        rows: labelled rows it was measured on.
    """

    window: str
    performance: float | None
    performance_se: float = 0.0
    champion_age: int = 0
    rows: int = 0

    def __post_init__(self) -> None:
        _forget_unknown(self)


@dataclass(frozen=True)
class Challenge:
    """What a fresh model was worth against the champion of its time, on rows neither was trained on: measured when a
    retraining went through the gate, or with a cheap challenger that was trained to find out.

    Attributes:
        window: the newest window it was trained on.
        gain: by how much it was better than the champion, in the metric's own units; positive is better, whatever the
            metric's direction. None when unknown.
        gain_se: its standard error, 0 if unknown.
        rows: rows it was trained on.
        champion_rows: rows the champion was trained on.
        champion_age: windows since the champion's data ended.
        champion_loss: by how much the champion did worse then than was seen when it was made, in the metric's own
            units, 0 if it did not.
        promoted: whether it became the champion.
        newer_days: days from the end of the champion's training data to the end of its own; None when unknown: then
            the champion's age stands for it.
        probe: it was trained only to find out, on part of the rows.
    """

    window: str
    gain: float | None
    gain_se: float = 0.0
    rows: int = 0
    champion_rows: int = 0
    champion_age: int = 0
    champion_loss: float = 0.0
    promoted: bool = False
    probe: bool = False
    newer_days: float | None = None

    def __post_init__(self) -> None:
        _forget_unknown(self)


@dataclass(frozen=True)
class Evidence:
    """All that a decision about one window may look at. A figure that is NaN or infinite is kept as unknown, an
    input with such a figure is left out. What has a default may be left out of a record.

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
        as_of: the moment of the decision, with its time zone; None when unknown: then a policy with a calendar waits.
        window_days: length of the window; 0 when unknown.
        champion_age_days: days since the champion's training data ended; None when unknown.
        fresh_age_days: days that the training data of a model trained now would have ended ago: the holdout, unless
            models are trained once more on all rows.
        last_retrain_at: when a retraining was last decided, with its time zone; None if never, or unknown.
        training_rows: rows the champion was trained on, 0 when unknown.
        new_labelled_rows: labelled rows since the champion's training data ended; None when unknown.
        estimated_performance: of the champion in this window, estimated without labels; None when unknown.
        estimated_se: its standard error, 0 if unknown.
        domain_auc: of a classifier that tells the window's rows from the reference's: .5 where it cannot; None when
            unknown.
        seasonal_performance: of champions at the same time a season ago; None when unknown.
        seasonal_se: its standard error, 0 if unknown.
        season: how the seasonal reference of inputs was made: ``adjusted``, ``same`` or ``rolling``; empty if there is
            none.
        seasonal_psi: PSI by input column against it.
        seasonal_prediction_psi: PSI of the scores against those of such windows; None when unknown.
        missing_change: change of the share of missing values, by input column (-1..1).
        new_categories: share of rows with a category never seen in training, by input column.
        stream_alarms: names of the detectors on the stream of errors that are in alarm.
        history: the champions' performance in the windows before this one, oldest first.
        challenges: fresh models against the champions of their time, oldest first.
        orders: of the business.
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
    as_of: str | None = None
    window_days: float = 0.0
    champion_age_days: float | None = None
    fresh_age_days: float = 0.0
    last_retrain_at: str | None = None
    training_rows: int = 0
    new_labelled_rows: int | None = None
    estimated_performance: float | None = None
    estimated_se: float = 0.0
    domain_auc: float | None = None
    seasonal_performance: float | None = None
    seasonal_se: float = 0.0
    season: str = ""
    seasonal_psi: tuple[tuple[str, float], ...] = ()
    seasonal_prediction_psi: float | None = None
    missing_change: tuple[tuple[str, float], ...] = ()
    new_categories: tuple[tuple[str, float], ...] = ()
    stream_alarms: tuple[str, ...] = ()
    history: tuple[Seen, ...] = ()
    challenges: tuple[Challenge, ...] = ()
    orders: tuple[Order, ...] = ()

    def __post_init__(self) -> None:
        _forget_unknown(self)
        for name in ("as_of", "last_retrain_at"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, zoned("evidence", name, value).isoformat())

    @property
    def moment(self) -> datetime | None:
        """The moment of the decision, if it is known."""
        return None if self.as_of is None else datetime.fromisoformat(self.as_of)

    @property
    def last_retrain(self) -> datetime | None:
        """When a retraining was last decided, if it is known."""
        return None if self.last_retrain_at is None else datetime.fromisoformat(self.last_retrain_at)

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
        for name in _PAIRS:
            if name in found:
                found[name] = _pairs(name, found[name])
        for name, kind in (("history", Seen), ("challenges", Challenge)):
            if name in found:
                found[name] = _records(name, found[name], kind)
        if "orders" in found:
            found["orders"] = orders_from(found["orders"])
        if "stream_alarms" in found:
            found["stream_alarms"] = _texts("stream_alarms", found["stream_alarms"])
        return from_plain(cls, found, "evidence", InvalidRecord)


_PAIRS = ("input_psi", "input_js", "seasonal_psi", "missing_change", "new_categories")

#: What a figure that is not finite becomes, by the field's annotation.
_UNKNOWN = {"float | None": None, "float": 0.0}


def _forget_unknown(record: Any) -> None:
    """Keep figures that are NaN or infinite as unknown, so that a record stays JSON."""
    for name, field in record.__dataclass_fields__.items():
        value = getattr(record, name)
        if field.type in _UNKNOWN and value is not None and not math.isfinite(value):
            object.__setattr__(record, name, _UNKNOWN[field.type])
        elif name in _PAIRS:
            known = tuple((column, figure) for column, figure in value if math.isfinite(figure))
            object.__setattr__(record, name, known)


def _pairs(name: str, value: Any) -> tuple[tuple[str, float], ...]:
    try:
        return tuple((str(column), float(figure)) for column, figure in value)
    except (TypeError, ValueError):
        raise InvalidRecord(f"evidence: field {name} must list pairs of a column and a number") from None


def _texts(name: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise InvalidRecord(f"evidence: field {name} is {value!r}; it must be a list of texts")
    return tuple(value)


def _records(name: str, value: Any, kind: type[Any]) -> tuple[Any, ...]:
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise InvalidRecord(f"evidence: field {name} must list records with fields by name")
    for each in value:
        must_be_typed(kind, each, f"evidence: field {name}")
    return tuple(from_plain(kind, each, f"evidence: field {name}", InvalidRecord) for each in value)
