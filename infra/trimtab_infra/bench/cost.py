"""`trimtab bench cost`: what workers cost the Prefect server, for a fleet of any size.

One real server on PostgreSQL. Each kind of request that a worker makes is made again and again by the worker's own
code, with the advertisements of the whole fleet on the server, and as many event streams open as it has workers; the
processor time of the server and of the database is read before and after. The load of the fleet is reckoned from it.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Awaitable
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Annotated, Any

import anyio
import asyncpg
import typer
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.events.clients import get_events_client
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Pending
from rich.console import Console
from rich.table import Table

from trimtab_infra.bench.cost_model import Cost, Line, Load, reckon
from trimtab_infra.bench.cost_parts import (
    Bench,
    Listeners,
    Meter,
    advertisement,
    emit,
    node_changed,
    queue_up,
    roll_called,
)
from trimtab_infra.bench.fleet_parts import Proxy, Server, postgres
from trimtab_infra.stack.ports import HOST
from trimtab_work_pools.worker import GpuProcessWorker
from trimtab_work_pools.worker.control_plane import ControlPlane

__all__ = ["cost"]

_POOL = "cost"
_REST_S = 5.0
_POLL_S = 9.0
_PERSISTED_S = 6.0
"""The server writes events down in batches, every 5 s."""


@dataclass(frozen=True)
class _Sizes:
    workers: int
    streams: int
    queued: int


def cost(
    workers: Annotated[int, typer.Option(min=1, help="Workers of the fleet.")] = 1000,
    streams: Annotated[int, typer.Option(min=0, help="Event streams to open; 0: one for each worker.")] = 0,
    queued: Annotated[int, typer.Option(min=1, help="Runs that wait.")] = 400,
    seconds: Annotated[float, typer.Option(min=0.1, help="How long each kind of request is made.")] = 4.0,
) -> None:
    """Measure what each request of a worker costs the server; the last line of output is JSON."""
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="trimtab-cost-", ignore_cleanup_errors=True) as folder:
        try:
            sizes = _Sizes(workers, streams or workers, queued)
            found = _measured(Path(folder), sizes, seconds, console)
        except (FileNotFoundError, RuntimeError) as error:
            typer.echo(f"bench cost: {error}", err=True)
            raise typer.Exit(2) from None
    costs, load = found
    console.print(_table(costs, load))
    typer.echo(json.dumps(_as_json(sizes, costs, load)))


def _measured(folder: Path, sizes: _Sizes, seconds: float, console: Console) -> tuple[dict[str, Cost], Load]:
    with postgres(folder) as database:
        server = Server(folder, database)
        server.start()
        try:
            assert server.process is not None
            bench = Bench(Meter(server.process.pid, folder / "postgres"), Proxy(server.port), seconds)
            url = f"http://{HOST}:{bench.proxy.port}/api"
            with temporary_settings({PREFECT_API_URL: url}):
                costs, whole_s = anyio.run(_costs, bench, database, sizes, console)
        finally:
            server.stop()
    return costs, reckon(costs, sizes.workers, _POLL_S, whole_s)


async def _costs(bench: Bench, database: str, sizes: _Sizes, console: Console) -> tuple[dict[str, Cost], float]:
    workers, streams, queued = sizes.workers, sizes.streams, sizes.queued
    async with get_client() as client:
        template = GpuProcessWorker.get_default_base_job_template()
        await client.create_work_pool(WorkPoolCreate(name=_POOL, type="gpu-process", base_job_template=template))
        control = ControlPlane(client, _POOL)
        console.print(f"{workers} workers are advertised ...")
        await _advertise_all(database, control, workers)
        bench.idle = quiet = await _resting(bench)
        console.print(f"{streams} event streams ...")
        costs = await _events(bench, control, workers, streams, quiet)
        console.print(f"{queued} runs wait ...")
        runs = await queue_up(client, _POOL, queued)
        rested = await _resting(bench)
        bench.idle = Cost(*map(min, astuple(quiet), astuple(rested)))  # what was queued may still be written down
        console.print("each kind of request ...")
        requests, whole_s = await _requests(bench, client, control, workers, [run.id for run in runs])
        return costs | requests, whole_s


async def _advertise_all(database: str, control: ControlPlane, workers: int) -> None:
    """Written where the server reads it, as the server has written the first: a thousand calls would take a minute."""
    await control.publish(advertisement(0, time.time()))
    connection = await asyncpg.connect(database.replace("+asyncpg", ""))
    try:
        tags = await connection.fetchval("SELECT tags FROM variable LIMIT 1")
        fleet = [advertisement(number, time.time()) for number in range(1, workers)]
        rows = [(control.notices.name_of(one.worker), json.dumps(one.to_parts().head), tags) for one in fleet]
        await connection.executemany("INSERT INTO variable (name, value, tags) VALUES ($1, $2, $3)", rows)
    finally:
        await connection.close()


async def _resting(bench: Bench) -> Cost:
    """What the server uses by itself, when what was asked before is done."""
    await anyio.sleep(_PERSISTED_S)
    return await bench.rest(_REST_S)


async def _requests(
    bench: Bench, client: PrefectClient, control: ControlPlane, workers: int, run_ids: list[Any]
) -> tuple[dict[str, Cost], float]:
    async def sync(number: int) -> None:
        await client.send_worker_heartbeat(_POOL, f"gpu-node-{number % workers:04d}", 30.0)
        await client.read_work_pool(_POOL)

    async def claim(number: int) -> None:
        await client.set_flow_run_state(run_ids[number], Pending())

    priorities = (await control.queues(set())).priorities
    begun_s = time.monotonic()
    await control.waiting(30.0, priorities)
    whole_s = time.monotonic() - begun_s
    return {
        "sync": await bench.each(sync),
        "advertise": await bench.each(lambda number: control.publish(advertisement(number % workers, time.time()))),
        "roll_read": await bench.each(lambda _: control.board()),
        "queues": await bench.each(lambda _: control.queues(set())),
        "policy": await bench.each(lambda _: control.policy()),
        "whole_queue": await bench.each(lambda _: control.waiting(30.0, priorities)),
        "news": await bench.each(lambda number: control.waiting_of([run_ids[number % len(run_ids)]], priorities)),
        "claim": await bench.each(claim, most=len(run_ids)),
    }, whole_s


async def _events(bench: Bench, control: ControlPlane, workers: int, streams: int, quiet: Cost) -> dict[str, Cost]:
    """What each of many listeners adds; and an event that nobody listens to. In this order, for a stream that is opened
    begins with the events of the last minute.
    """
    pool = await control.pool_resource()
    listeners = Listeners(control)
    async with get_events_client() as events:

        async def changed(number: int) -> None:
            await emit(events, pool, *node_changed(number, time.time()))

        async def called(_: int) -> None:
            await emit(events, pool, *roll_called(workers, time.time()))

        async def passed(_: int) -> None:
            await emit(events, pool, "prefect.flow-run.Running", {})

        async def heard(tell: Awaitable[None]) -> None:
            await tell
            await listeners.hear(streams)

        async with listeners.open(streams):
            open_streams = await bench.rest(_REST_S)
            bench.idle = Cost(*(a + b for a, b in zip(astuple(quiet), astuple(open_streams), strict=True)))
            all_hear = {
                "event": await bench.each(lambda number: heard(changed(number)), settle_s=_PERSISTED_S),
                "roll_event": await bench.each(lambda number: heard(called(number)), settle_s=_PERSISTED_S),
                "passed": await bench.each(passed, most=100, settle_s=_PERSISTED_S),
            }
        bench.idle = await _resting(bench)
        nobody = {
            "event": await bench.each(changed, most=200, settle_s=_PERSISTED_S),
            "roll_event": await bench.each(called, most=50, settle_s=_PERSISTED_S),
            "passed": await bench.each(passed, most=200, settle_s=_PERSISTED_S),
        }
    each = {
        "event_heard": _per_listener(all_hear["event"], nobody["event"], streams),
        "roll_heard": _per_listener(all_hear["roll_event"], nobody["roll_event"], streams),
        "event_passed": _per_listener(all_hear["passed"], nobody.pop("passed"), streams),
    }
    stream = Cost(*(one / streams for one in astuple(open_streams)))
    return nobody | each | {"stream": stream}


def _per_listener(heard: Cost, unheard: Cost, listeners: int) -> Cost:
    more = (max(0.0, a - b) for a, b in zip(astuple(heard), astuple(unheard), strict=True))
    return Cost(*(one / listeners for one in more))


def _table(costs: dict[str, Cost], load: Load) -> Table:
    table = Table("kind", "server ms", "database ms", "bytes", "a second", "server cores", "database cores", "kB/s")
    for line in (*load.idle, Load.total(load.idle), *load.a_run, Load.total(load.a_run), load.news):
        one = costs.get(line.kind)
        own = (f"{one.server_s * 1e3:.3f}", f"{one.database_s * 1e3:.3f}", f"{one.bytes:.0f}") if one else ("", "", "")
        table.add_row(
            line.kind, *own, f"{line.per_s:.1f}", f"{line.server_cores:.3f}", f"{line.database_cores:.3f}",
            f"{line.bytes_per_s / 1000:.0f}", end_section=line.kind == "all",
        )  # fmt: skip
    return table


def _as_json(sizes: _Sizes, costs: dict[str, Cost], load: Load) -> dict[str, Any]:
    kinds = {
        kind: {
            "server_ms": round(one.server_s * 1e3, 4),
            "database_ms": round(one.database_s * 1e3, 4),
            "bytes": round(one.bytes),
        }
        for kind, one in costs.items()
    }
    return {
        **asdict(sizes),
        "kinds": kinds,
        "idle": _brief(Load.total(load.idle)),
        "one_run_a_second_adds": _brief(Load.total(load.a_run)),
        "news_adds_at_most": _brief(load.news),
    }


def _brief(line: Line) -> dict[str, float]:
    return {name: round(value, 3) for name, value in asdict(line).items() if name != "kind"}
