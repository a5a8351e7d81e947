"""The reconciler: what is in MLflow and not in the ledger, found through MLflow's REST API alone.

A quick look reads the histories of metrics whose latest point has changed since the last look; a deep one reads all,
and so finds a missed point that was older than the latest. Both go run by run, so that sending goes on between.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from trimtab_infra.metric_events.ledger import Ledger
from trimtab_infra.metric_events.mlflow_reading import MlflowReading, RunSeen
from trimtab_infra.metric_events.points import Point

__all__ = ["LOOKED", "changed_keys", "look"]

#: The cursor that is set when a whole look has ended; without it, a look is a ledger's first.
LOOKED = "reconciled"


@dataclass(frozen=True)
class _Bounds:
    """Runs to look at, and, in the first look of a ledger, points that are news."""

    runs_since_ms: int
    news_since_ms: int | None


def changed_keys(run: RunSeen, before: str | None) -> tuple[list[str], str]:
    """Metrics of a run whose latest point is another than it was, and what to remember of the run.

    Args:
        before: what was remembered; None looks at all.
    """
    ids = {point.key: point.id.hex for point in run.latest}
    known = json.loads(before) if before else {}
    return [key for key, latest in ids.items() if known.get(key) != latest], json.dumps(ids, sort_keys=True)


def look(
    ledger: Ledger,
    mlflow: MlflowReading,
    catch_up: Callable[[], object],
    now_ms: int,
    *,
    lookback_ms: int,
    first_lookback_ms: int,
    deep: bool,
) -> Iterator[int]:
    """Look once; gives, after each run, how many points were new.

    The first look of a new ledger tells of points of the last ``first_lookback_ms`` and knows the older ones without a
    word: to start the sender beside an MLflow with years in it must not set off years of events.

    Args:
        catch_up: reads the outbox, so that what was pushed meanwhile does not count as missed.

    Raises:
        MlflowAway: there is no answer; what was found until then is kept.
    """
    first = ledger.cursor(LOOKED) is None
    bounds = _Bounds(now_ms - lookback_ms, now_ms - first_lookback_ms if first else None)
    for run in mlflow.runs(bounds.runs_since_ms):
        name = f"run:{run.info.run_id}"
        before = ledger.cursor(name)
        keys, remembered = changed_keys(run, None if deep else before)
        if keys:
            points = [point for key in keys for point in mlflow.history(run.info.run_id, key)]
            catch_up()
            yield _take(ledger, points, bounds.news_since_ms, now_ms)
        # After its points: a kill between the two means another reading, and nothing missed.
        if remembered != before:
            ledger.set_cursor(name, remembered)
    ledger.set_cursor(LOOKED, str(now_ms))


def _take(ledger: Ledger, points: list[Point], since_ms: int | None, now_ms: int) -> int:
    """Notice what is news; know the rest."""
    if since_ms is not None:
        ledger.notice([old for old in points if old.timestamp_ms < since_ms], "reconcile", now_ms, skip=True)
        points = [new for new in points if new.timestamp_ms >= since_ms]
    return ledger.notice(points, "reconcile", now_ms)
