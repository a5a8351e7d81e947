"""What a metric point is, which ones become events, and what an MLflow request says was logged. Pure."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID, uuid5

__all__ = ["PREFIXES", "Point", "logged_points", "wanted"]

#: Names that become events begin with one of these.
PREFIXES = ("drift/", "performance/")

#: Of the ids of events; must never change, or every point would be a new event.
_NAMESPACE = UUID("5f7f5a53-3a0c-5b0e-9a53-9d6f0e9d8a11")


@dataclass(frozen=True)
class Point:
    """One metric point as MLflow keeps it: these fields are its key in MLflow's store, so it is there once.

    ``value`` is a finite number or NaN: MLflow stores infinities as the largest float. ``model_id`` is MLflow's logged
    model, where one was named; it is not part of the key.
    """

    run_id: str
    key: str
    value: float
    step: int
    timestamp_ms: int
    model_id: str = ""

    @property
    def id(self) -> UUID:
        """The same point has the same id, wherever and however often it is noticed."""
        return uuid5(_NAMESPACE, "\0".join([self.run_id, self.key, *self._numbers()]))

    def to_json(self) -> str:
        """One line; NaN as JavaScript writes it."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> Point:
        """The point of a line.

        Raises:
            ValueError: the line is no point.
        """
        try:
            found = json.loads(text)
            return point(found["run_id"], found, found.get("model_id") or "")
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a metric point: {text[:80]!r}") from error

    def _numbers(self) -> tuple[str, str, str]:
        # Hexadecimal, since it names the float exactly; -0.0 and 0.0 are one key to a database.
        value = "nan" if math.isnan(self.value) else (self.value + 0.0).hex()
        return value, str(self.step), str(self.timestamp_ms)


def point(run_id: str, fields: Mapping[str, Any], model_id: str = "") -> Point:
    """A point from fields named as MLflow's REST API names them (or as ``Point`` does), numbers or texts.

    Raises:
        KeyError, TypeError, ValueError: a field is missing or is no number.
    """
    stamp = fields["timestamp_ms"] if "timestamp_ms" in fields else fields["timestamp"]
    return Point(
        run_id=str(run_id),
        key=str(fields["key"]),
        value=_stored(float(fields["value"])),
        step=int(fields.get("step") or 0),
        timestamp_ms=int(stamp),
        model_id=model_id or str(fields.get("model_id") or ""),
    )


def logged_points(path: str, body: bytes) -> list[Point]:
    """The points of a request to ``runs/log-metric`` or ``runs/log-batch`` that MLflow has accepted.

    Args:
        path: of the request; any prefix and API version.
        body: JSON; MLflow also takes JSON within a JSON text.

    Raises:
        KeyError, TypeError, ValueError: it is not what MLflow accepts.
    """
    said = json.loads(body)
    said = json.loads(said) if isinstance(said, str) else said
    run_id = said.get("run_id") or said["run_uuid"]
    if path.endswith("/runs/log-metric"):
        return [point(run_id, said)]
    return [point(run_id, fields) for fields in said.get("metrics") or ()]


def wanted(points: Iterable[Point], prefixes: tuple[str, ...] = PREFIXES) -> list[Point]:
    """Those whose name begins with one of the prefixes, each once."""
    return list({found.id: found for found in points if found.key.startswith(prefixes)}.values())


def _stored(value: float) -> float:
    """As MLflow's SQL store keeps it (``sanitize_metric_value``)."""
    return math.copysign(sys.float_info.max, value) if math.isinf(value) else value
