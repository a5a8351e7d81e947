"""`trimtab bench live`: from "scheduled" to the first line of the flow, Prefect's process worker against gpu-process.

All workers talk to one real server (on PostgreSQL), which the benchmark starts, and take turns; a run is asked for
when the one before has been seen. With `--ahead N`, N runs that can never start stand in line before the measured
ones. For the stock worker, which has no notion of what fits, those are N runs that wait for a GPU that never comes,
four at once.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Scheduled
from prefect.workers.base import BaseWorker
from rich.console import Console
from rich.table import Table

from trimtab_infra.bench import live_flow
from trimtab_infra.bench.fleet_parts import Server, postgres

__all__ = ["live"]

_NEVER_S = 60.0


@dataclass(frozen=True)
class Mode:
    """A kind of worker and how it is set."""

    name: str
    worker_type: str
    env: dict[str, str]
    ahead: int = 0


def live(
    runs: Annotated[int, typer.Option(min=1, help="Measured runs of each kind.")] = 20,
    ahead: Annotated[
        int, typer.Option(min=0, help="Runs that can never start, queued ahead; 0 leaves that out.")
    ] = 500,
    sqlite: Annotated[bool, typer.Option("--sqlite", help="On Prefect's default database, not on PostgreSQL.")] = False,
) -> None:
    """Measure the time from scheduled to the first line of a flow; the last line of output is JSON, in seconds."""
    modes = [
        Mode("trimtab", "gpu-process", {}),
        Mode("stock", "process", {}),
        Mode("stock, poll 1 s", "process", {"PREFECT_WORKER_QUERY_SECONDS": "1"}),
    ]
    if ahead:
        modes += [
            Mode(f"trimtab, {ahead} ahead", "gpu-process", {}, ahead),
            Mode(f"stock, {ahead} ahead", "process", {}, ahead),
        ]
    console = Console(stderr=True)
    found: dict[str, list[float]] = {}
    console.print("starting a Prefect server ...")
    try:
        with tempfile.TemporaryDirectory(prefix="trimtab-live-") as folder, _server(Path(folder), sqlite) as env:
            # Not from its place in the package: what lies beside it would be imported too, and in place of others.
            shutil.copy(live_flow.__file__, folder)
            for mode in modes:
                console.print(f"{mode.name} ...")
                found[mode.name] = _measure(mode, env, Path(folder), runs)
    except FileNotFoundError as error:
        typer.echo(f"bench live: {error}; install it, or say --sqlite", err=True)
        raise typer.Exit(2) from None
    except RuntimeError as error:
        typer.echo(f"bench live: {error}", err=True)
        raise typer.Exit(1) from None
    _show(found, runs, "SQLite" if sqlite else "PostgreSQL")


@contextlib.contextmanager
def _server(folder: Path, sqlite: bool) -> Iterator[dict[str, str]]:
    """A fresh Prefect server; the environment of its clients."""
    database = contextlib.nullcontext("") if sqlite else postgres(folder)
    with database as address:
        server = Server(folder, address)
        server.start()
        try:
            yield server.environment | {"TRIMTAB_HOST_DIR": str(folder / "host")}
        finally:
            server.stop()


def _measure(mode: Mode, env: dict[str, str], folder: Path, runs: int) -> list[float]:
    """Seconds of each run; infinite, and the rest not tried, if one did not begin within a minute."""
    pool = f"live-{uuid.uuid4().hex[:8]}"
    worker_type = BaseWorker.get_worker_class_from_type(mode.worker_type)
    assert worker_type is not None
    with temporary_settings({PREFECT_API_URL: env["PREFECT_API_URL"]}), get_client(sync_client=True) as client:
        template = worker_type.get_default_base_job_template()
        client.create_work_pool(WorkPoolCreate(name=pool, type=mode.worker_type, base_job_template=template))
        probe, blocker = (_deployment(client, pool, mode, name, folder) for name in ("probe", "blocker"))
        for _ in range(mode.ahead):
            parameters = {"file": str(folder / "blocked"), "wait_s": 3600.0}
            client.create_flow_run_from_deployment(blocker, parameters=parameters, state=Scheduled())
        command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--type", mode.worker_type]
        limit = ["--limit", "4"] if mode.ahead and mode.worker_type == "process" else []
        with (folder / f"{pool}.log").open("w") as log:
            worker = subprocess.Popen([*command, *limit], env=env | mode.env, stdout=log, stderr=subprocess.STDOUT)
        try:
            first = _first_line(client, probe, folder)  # not counted: the worker has only just started
            taken: list[float] = []
            while first < float("inf") and len(taken) < runs:
                taken.append(_first_line(client, probe, folder))
            return taken or [first]
        finally:
            _stop(worker)
            client.delete_work_pool(pool)


def _deployment(client: SyncPrefectClient, pool: str, mode: Mode, name: str, folder: Path) -> Any:
    resources = {"gpus": 1, "gpu_models": "none of this name"} if name == "blocker" else {}
    variables: dict[str, Any] = {"working_dir": str(folder)}
    if mode.worker_type == "gpu-process":
        variables["resources"] = resources
    return client.create_deployment(
        flow_id=client.create_flow_from_name("mark"),
        name=f"{name}-{pool}",
        work_pool_name=pool,
        entrypoint=f"{folder / 'live_flow.py'}:mark",
        job_variables=variables,
    )


def _first_line(client: SyncPrefectClient, deployment: Any, folder: Path) -> float:
    file = folder / uuid.uuid4().hex
    scheduled_s = time.time()
    run = client.create_flow_run_from_deployment(deployment, parameters={"file": str(file)}, state=Scheduled())
    end = time.monotonic() + _NEVER_S
    while not file.exists():
        if time.monotonic() > end:
            return float("inf")
        time.sleep(0.005)
    # SQLite refuses one of two writers, and the client then waits for seconds: the next run finds the house quiet.
    while not client.read_flow_run(run.id).state.is_final():  # type: ignore[union-attr]
        time.sleep(0.1)
    time.sleep(0.3)
    return float(file.read_text()) - scheduled_s


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _show(found: dict[str, list[float]], runs: int, database: str) -> None:
    table = Table(title=f"scheduled -> first line of the flow (s), {runs} runs each, {database}")
    for column in ("worker", "p50", "p95", "least", "most"):
        table.add_column(column, justify="left" if column == "worker" else "right")
    figures: dict[str, Any] = {}
    for name, taken in found.items():
        ranked = sorted(taken)
        p95 = ranked[min(len(ranked) - 1, round(0.95 * (len(ranked) - 1)))]
        p50 = statistics.median(ranked)
        cells = [p50, p95, ranked[0], ranked[-1]]
        table.add_row(name, *(f"{cell:.2f}" if cell < float("inf") else "never" for cell in cells))
        never = p50 == float("inf")
        figures[name] = None if never else {"p50": round(p50, 3), "p95": round(p95, 3), "runs": len(taken)}
    Console().print(table)
    ratios = {
        "ratio_p50": _ratio(found["stock"], found["trimtab"]),
        "ratio_p50_poll1": _ratio(found["stock, poll 1 s"], found["trimtab"]),
    }
    typer.echo(json.dumps(ratios | {"database": database, "seconds": figures}))


def _ratio(theirs: list[float], ours: list[float]) -> float | None:
    """Of the medians; None where one of them never began: JSON has no infinity."""
    both = statistics.median(theirs), statistics.median(ours)
    return None if float("inf") in both else round(both[0] / both[1], 2)
