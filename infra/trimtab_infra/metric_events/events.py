"""Which events tell of which points, and what they say. Pure: the same points give the same events and ids."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid5

from trimtab_infra.metric_events.points import Point

__all__ = ["METRIC_LOGGED", "Event", "Noted", "RunInfo", "events_of", "model_of"]

#: The name of the events.
METRIC_LOGGED = "trimtab.metric.logged"

#: Of the ids of events that tell of several points.
_MERGED = UUID("0c7d5e8e-6a54-5a55-8f0c-53c1a0b64b0d")

#: As ``trimtab_flows.tracking.monitoring_experiment`` names the experiment of a model's monitored windows.
_MONITORING = "-monitoring"


@dataclass(frozen=True)
class RunInfo:
    """What MLflow knows of a run; ``experiment`` is a name, ``stage`` the flow of ours that made it, if one did."""

    run_id: str
    experiment: str
    name: str = ""
    model: str = ""
    stage: str = ""


@dataclass(frozen=True)
class Noted:
    """A point, how it was noticed (``push`` or ``reconcile``), when, and whether a later step came before it."""

    point: Point
    source: str
    noticed_ms: int
    out_of_order: bool = False


@dataclass(frozen=True)
class Event:
    """An event to be sent, and how many points it tells of."""

    id: UUID
    body: dict[str, Any]
    points: int


def model_of(experiment: str, tags: Mapping[str, str]) -> str:
    """The model that a run's metrics are about: its tag ``trimtab.model``, or else the experiment, as monitored."""
    return tags.get("trimtab.model") or experiment.removesuffix(_MONITORING)


def events_of(noted: Sequence[Noted], runs: Mapping[str, RunInfo], coalesce: bool) -> list[Event]:
    """One event for each point; or, coalesced, one for all points of the same run and metric, which says how many.

    Args:
        noted: each point once.
        runs: what is known of their runs.
        coalesce: whether there are too many for an event each.
    """
    groups: dict[Any, list[Noted]] = {}
    for one in noted:
        key = (one.point.run_id, one.point.key) if coalesce else one.point.id
        groups.setdefault(key, []).append(one)
    return [_event(group, runs[group[0].point.run_id]) for group in groups.values()]


def _event(group: Sequence[Noted], run: RunInfo) -> Event:
    # The id decides between points of one step and time, so that the order they came in does not.
    last = max(group, key=lambda one: (one.point.step, one.point.timestamp_ms, one.point.id))
    point = last.point
    ids = sorted(str(one.point.id) for one in group)
    identity = point.id if len(group) == 1 else uuid5(_MERGED, "\0".join(ids))
    body = {
        "id": str(identity),
        # When it was noticed: the client's timestamp may be years old, and Prefect forgets old events at once.
        "occurred": _iso(max(one.noticed_ms for one in group)),
        "event": METRIC_LOGGED,
        "resource": _resource(run, point),
        "related": _related(run, point),
        "payload": _payload(group, last),
    }
    return Event(identity, body, len(group))


def _resource(run: RunInfo, point: Point) -> dict[str, str]:
    """The model; the metric's name is a label, so that triggers can match it."""
    return {
        "prefect.resource.id": f"trimtab.model.{run.model}",
        "prefect.resource.name": run.model,
        "trimtab.metric": point.key,
        # Always there, or a trigger could not say "not monitor": Prefect matches no label that is missing.
        "trimtab.stage": run.stage or "none",
    }


def _related(run: RunInfo, point: Point) -> list[dict[str, str]]:
    related = [
        {"prefect.resource.id": f"mlflow.run.{run.run_id}", "prefect.resource.role": "run"},
        {"prefect.resource.id": f"mlflow.experiment.{run.experiment}", "prefect.resource.role": "experiment"},
    ]
    if point.model_id:
        related.append(
            {"prefect.resource.id": f"mlflow.logged-model.{point.model_id}", "prefect.resource.role": "logged-model"}
        )
    return related


def _payload(group: Sequence[Noted], last: Noted) -> dict[str, Any]:
    """The latest point by step and time; how many points there are; and, of more than one, their range."""
    point = last.point
    kind, value = _told(point.value)
    payload: dict[str, Any] = {
        "run_id": point.run_id,
        "key": point.key,
        "value": value,
        "kind": kind,
        "step": point.step,
        "timestamp_ms": point.timestamp_ms,
        "model_id": point.model_id,
        "count": len(group),
        "out_of_order": sum(one.out_of_order for one in group),
        "source": "push" if all(one.source == "push" for one in group) else "reconcile",
    }
    if len(group) > 1:
        payload |= _range([one.point for one in group])
    return payload


def _range(points: Iterable[Point]) -> dict[str, Any]:
    found = list(points)
    finite = [point.value for point in found if _told(point.value)[0] == "finite"]
    return {
        "first_step": min(point.step for point in found),
        "last_step": max(point.step for point in found),
        "least": min(finite, default=None),
        "most": max(finite, default=None),
        "not_finite": len(found) - len(finite),
    }


def _told(value: float) -> tuple[str, float | None]:
    """What kind of number it is, and the number where JSON has it. MLflow stores infinities as the largest float."""
    if math.isnan(value):
        return "nan", None
    if abs(value) == sys.float_info.max:
        return ("inf" if value > 0 else "-inf"), None
    return "finite", value


def _iso(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat()
