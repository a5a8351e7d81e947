"""`trimtab bench metric-events`: from a metric logged to MLflow to its Prefect event, through real servers.

What the plugin adds to a log call is measured against an MLflow without it, in turns. Latency is from the begin of the
log call to the event at a subscriber. In the outage Prefect is stopped; in the storm all points come at once.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from prefect.events.clients import PrefectEventSubscriber
from prefect.events.filters import EventFilter, EventNameFilter
from rich.console import Console

from trimtab_blocks.paging import by_link
from trimtab_infra.bench.metric_events_parts import Parts, parts
from trimtab_infra.errors import PartFailed
from trimtab_infra.metric_events.events import METRIC_LOGGED

__all__ = ["metric_events"]

_CATCHES_UP_WITHIN_S = 600


def metric_events(
    calls: Annotated[int, typer.Option(min=10, help="Log calls measured, of each server.")] = 300,
    storm: Annotated[int, typer.Option(min=0, help="Points of the storm; 0 leaves it out.")] = 10_000,
    outage_s: Annotated[float, typer.Option(min=0, help="Seconds without Prefect; 0 leaves it out.")] = 60,
) -> None:
    """Measure added latency, latency to the event, an outage and a storm; the last line is JSON, in milliseconds."""
    said = Console(stderr=True)
    try:
        with tempfile.TemporaryDirectory(prefix="trimtab-metrics-") as folder, parts(Path(folder)) as running:
            figures: dict[str, Any] = {}
            said.print("what the plugin adds to a log call ...")
            figures |= _added(running, calls)
            said.print("from the log call to the event ...")
            figures["log_to_event_ms"] = _latency(running, calls)
            if outage_s:
                said.print(f"{outage_s:g} s without Prefect ...")
                figures["outage"] = _outage(running, outage_s)
            if storm:
                said.print(f"a storm of {storm} points ...")
                figures["storm"] = _storm(running, storm)
    except PartFailed as failed:
        typer.echo(f"bench metric-events: {failed}", err=True)
        raise typer.Exit(1) from None
    typer.echo(json.dumps(figures))


def _run(client: httpx.Client, server: str) -> str:
    answer = client.post(f"{server}/api/2.0/mlflow/runs/create", json={"experiment_id": "0"})
    return str(answer.raise_for_status().json()["run"]["info"]["run_id"])


def _log(client: httpx.Client, server: str, run_id: str, step: int) -> float:
    """Log one point; seconds that the call took."""
    said = {"run_id": run_id, "key": "drift/bench", "value": step / 7, "timestamp": step, "step": step}
    began = time.perf_counter()
    client.post(f"{server}/api/2.0/mlflow/runs/log-metric", json=said).raise_for_status()
    return time.perf_counter() - began


def _added(running: Parts, calls: int) -> dict[str, Any]:
    """Times of the log call of both servers, in turns, after ten that are not counted."""
    with httpx.Client(timeout=30) as client:
        servers = {"without": running.plain, "with": running.mlflow}
        runs = {name: _run(client, server) for name, server in servers.items()}
        taken: dict[str, list[float]] = {name: [] for name in servers}
        for step in range(calls + 10):
            for name, server in servers.items():
                taken[name].append(_log(client, server, runs[name], step))
    found = {name: _percentiles(times[10:]) for name, times in taken.items()}
    added = round(found["with"]["p50"] - found["without"]["p50"], 2)
    return {"log_call_ms": found, "added_p50_ms": added}


def _latency(running: Parts, calls: int) -> dict[str, float]:
    """From the begin of the call to the event at a subscriber; ten calls a second, as the sender polls its outbox."""
    with httpx.Client(timeout=30) as client:
        run_id = _run(client, running.mlflow)
        arrived: dict[int, float] = {}
        listening, enough = threading.Event(), threading.Event()
        listener = threading.Thread(
            target=lambda: asyncio.run(_listen(running.prefect, run_id, calls, arrived, listening, enough)), daemon=True
        )
        listener.start()
        if not listening.wait(30):
            raise PartFailed("Prefect gave no stream of events")
        began = {}
        for step in range(calls):
            began[step] = time.perf_counter()
            _log(client, running.mlflow, run_id, step)
            # Not in step with the sender, which would flatter or spoil every call alike.
            time.sleep(0.1 + 0.037 * (step % 3))
        if not enough.wait(60):
            raise PartFailed(f"{calls - len(arrived)} of {calls} events did not arrive")
    return _percentiles([arrived[step] - began[step] for step in began])


async def _listen(
    prefect: str,
    run_id: str,
    calls: int,
    arrived: dict[int, float],
    listening: threading.Event,
    enough: threading.Event,
) -> None:
    wanted = EventFilter(event=EventNameFilter(name=[METRIC_LOGGED]))
    async with PrefectEventSubscriber(api_url=f"{prefect}/api", filter=wanted) as stream:
        listening.set()
        async for event in stream:
            if event.payload["run_id"] == run_id:
                arrived.setdefault(event.payload["step"], time.perf_counter())
            if len(arrived) >= calls:
                enough.set()
                return


def _outage(running: Parts, outage_s: float) -> dict[str, Any]:
    """Ten points a second while Prefect is stopped; what came of them, and how long after its return."""
    with httpx.Client(timeout=30) as client:
        run_id = _run(client, running.mlflow)
        running.prefect_process.stop()
        taken: list[float] = []
        end = time.monotonic() + outage_s
        while time.monotonic() < end:
            taken.append(_log(client, running.mlflow, run_id, len(taken)))
            time.sleep(0.1)
        running.prefect_process.start()
        told, after_s = _await_points(client, running.prefect, run_id, len(taken))
    return {"points": len(taken), **told, "caught_up_s": after_s, "log_call_ms": _percentiles(taken)}


def _storm(running: Parts, points: int) -> dict[str, Any]:
    """All points in batches of 1,000, over 20 metrics, as fast as MLflow takes them."""
    with httpx.Client(timeout=60) as client:
        run_id = _run(client, running.mlflow)
        began = time.monotonic()
        for start in range(0, points, 1000):
            steps = range(start, min(start + 1000, points))
            metrics = [{"key": f"drift/{at % 20}", "value": at, "timestamp": at, "step": at} for at in steps]
            said = {"run_id": run_id, "metrics": metrics}
            client.post(f"{running.mlflow}/api/2.0/mlflow/runs/log-batch", json=said).raise_for_status()
        logged_s = time.monotonic() - began
        told, after_s = _await_points(client, running.prefect, run_id, points)
    return {"points": points, **told, "logged_s": round(logged_s, 2), "caught_up_s": after_s}


def _await_points(client: httpx.Client, prefect: str, run_id: str, points: int) -> tuple[dict[str, int], float]:
    """Events and points told of, when they are as many as were logged or the time is up; and the seconds it took."""
    began = time.monotonic()
    while True:
        events = _events(client, prefect, run_id)
        told = sum(event["payload"]["count"] for event in events)
        waited_s = time.monotonic() - began
        if told >= points or waited_s > _CATCHES_UP_WITHIN_S:
            ranges = {(each["key"], each.get("first_step"), each["step"]) for each in map(_payload, events)}
            counts = {"events": len(events), "told": told, "repeated": len(events) - len(ranges)}
            return counts, round(waited_s, 2)
        time.sleep(0.25)


def _payload(event: dict[str, Any]) -> dict[str, Any]:
    return dict(event["payload"])


def _events(client: httpx.Client, prefect: str, run_id: str) -> list[dict[str, Any]]:
    asked = {"filter": {"event": {"name": [METRIC_LOGGED]}, "related": {"id": [f"mlflow.run.{run_id}"]}}, "limit": 50}

    def ask(link: str | None) -> dict[str, Any]:
        answer = client.get(link) if link else client.post(f"{prefect}/api/events/filter", json=asked)
        page: dict[str, Any] = answer.raise_for_status().json()
        return page

    return list(by_link(ask))


def _percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """Median and 95th percentile, in milliseconds."""
    ranked = sorted(seconds)
    p95 = ranked[min(len(ranked) - 1, round(0.95 * (len(ranked) - 1)))]
    return {"p50": round(1000 * statistics.median(ranked), 2), "p95": round(1000 * p95, 2)}
