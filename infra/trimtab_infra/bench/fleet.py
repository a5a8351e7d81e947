"""`trimtab bench fleet`: 8 workers with stand-in GPUs of different sizes, and 300 short runs, on one real server.

Whether every run came to its end exactly once, and no GPU was given twice, is told from what the runs themselves wrote
down. With `--faults SEED` workers are ended, killed and frozen, GPUs removed, the network of a worker cut and the
server killed, at random, until all runs are done.
"""

from __future__ import annotations

import importlib
import json
import random
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import typer
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.states import Scheduled
from rich.console import Console

from trimtab_blocks.paging import PAGE, by_offset
from trimtab_infra.bench import fleet_flow
from trimtab_infra.bench.fleet_parts import Proxy, Server, Stretch, Worker, postgres, read_stretches, violations
from trimtab_infra.bench.fleet_plan import Asked, planned_empty_s
from trimtab_work_pools.advertise import Advertisement, Board
from trimtab_work_pools.worker import GpuProcessWorker

__all__ = ["fleet"]

#: GPUs of each node, and the memory (MiB) of each.
_NODES = ((1, 16_000), (1, 24_000), (2, 24_000), (2, 40_000), (2, 80_000), (4, 40_000), (4, 80_000), (0, 0))
#: Demands, and how often each is drawn.
_DEMANDS: tuple[tuple[dict[str, Any], int], ...] = (
    ({"gpus": 1, "gpu_memory_mib": 12_000}, 6),
    ({"gpus": 1, "gpu_memory_mib": 35_000}, 3),
    ({"gpus": 2, "gpu_memory_mib": 20_000}, 2),
    ({"gpus": 4, "gpu_memory_mib": 35_000}, 1),
    ({"gpu_share": 0.5}, 4),
    ({"gpu_share": 0.25}, 4),
    ({"cpus": 2}, 4),
)
_SECONDS = (0.5, 1.0, 2.0, 4.0)
_STARTED_BY_S, _IDLE_S = 90.0, 20.0


@dataclass(frozen=True)
class Outcome:
    """`empty_s`: from the first run to the end of the last; `planned_s`: the same of the pure plan, without servers and
    processes; `bound_s`: the least that any planner could need. `claims_lost`: that a worker proposed and did not get.
    `restarts`: stretches of runs that did not come to their end. `histories`: of the runs that something is wrong with.
    """

    runs: int
    violations: list[str]
    left: list[str]
    empty_s: float
    planned_s: float
    bound_s: float
    claims_lost: int
    idle_requests_per_min: float
    busy_requests_per_min: float
    faults: dict[str, int]
    restarts: int
    histories: list[str]


def fleet(
    runs: Annotated[int, typer.Option(min=1, help="Short runs of mixed demands.")] = 300,
    faults: Annotated[int, typer.Option(min=-1, help="Seed of random faults; -1: none.")] = -1,
    within_s: Annotated[float, typer.Option(min=1, help="When to stop waiting for the last run.")] = 1200,
    driver: Annotated[Path, typer.Option(exists=True, help="Folder of the stand-in driver.")] = Path("tests/nvml"),
    keep: Annotated[Path | None, typer.Option(help="A new folder for the logs and what the runs wrote.")] = None,
) -> None:
    """Run a fleet for real and check it; the last line of output is JSON. Exit code 1 if a run was lost or doubled."""
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="trimtab-fleet-", ignore_cleanup_errors=True) as folder:
        try:
            outcome = _measure(Path(folder), runs, faults, within_s, driver, console)
        except (FileNotFoundError, RuntimeError) as error:
            typer.echo(f"bench fleet: {error}", err=True)
            raise typer.Exit(2) from None
        finally:
            if keep is not None:
                shutil.copytree(folder, keep, ignore=shutil.ignore_patterns("postgres"), dirs_exist_ok=True)
    for said in (*outcome.violations[:20], *outcome.left[:20], *outcome.histories[:200]):
        typer.echo(said, err=True)
    figures = {name: value for name, value in outcome.__dict__.items() if name != "histories"}
    typer.echo(json.dumps(figures | {"violations": len(outcome.violations), "left": len(outcome.left)}))
    if outcome.violations or outcome.left:
        raise typer.Exit(1)


def _measure(folder: Path, runs: int, seed: int, within_s: float, driver: Path, console: Console) -> Outcome:
    records = folder / "records"
    records.mkdir()
    (folder / "fleet_flow.py").write_text(Path(fleet_flow.__file__).read_text())
    with postgres(folder) as database, _server(folder, database) as server, _client(server) as client:
        template = GpuProcessWorker.get_default_base_job_template()
        client.create_work_pool(WorkPoolCreate(name="fleet", type="gpu-process", base_job_template=template))
        with _workers(folder, server, driver) as (workers, drivers):
            console.print(f"{len(workers)} workers start ...")
            advertised = _await_fleet(client, len(workers))
            before = [worker.proxy.requests for worker in workers]
            time.sleep(_IDLE_S)  # measured: what a worker asks when there is nothing to do
            idle = [worker.proxy.requests - count for worker, count in zip(workers, before, strict=True)]
            rng = random.Random(max(seed, 0))
            began_s = time.time()
            shaker = _Shaker(server, workers, drivers, random.Random(seed), console) if seed >= 0 else None
            asked, bound_s = _ask(client, folder, records, runs, rng, shaker)
            console.print(f"{runs} runs asked for in {time.time() - began_s:.1f} s ...")
            before = [worker.proxy.requests for worker in workers]
            final = _await_runs(client, [one.run_id for one in asked], within_s, console, shaker)
            took_s = time.time() - began_s
            stretches = read_stretches(records)
            wrong = violations(stretches, {one.run_id for one in asked})
            left = [f"run {run.id} is {run.state_name}" for run in final if run.state_type is not StateType.COMPLETED]
            told = {run.id for run in final for said in (*wrong, *left) if str(run.id) in said}
            histories = [line for run_id in told for line in _history(client, run_id, stretches, began_s)]
            busy = [worker.proxy.requests - count for worker, count in zip(workers, before, strict=True)]
    empty_s = max((one.to_s for one in stretches), default=began_s) - began_s
    return Outcome(
        runs,
        wrong,
        left,
        round(empty_s, 1),
        round(planned_empty_s(advertised, asked), 1),
        round(bound_s, 1),
        sum(path.read_text().count("Aborted submission of flow run") for path in folder.glob("worker-*.log")),
        round(statistics.median(idle) / _IDLE_S * 60, 1),
        round(statistics.median(busy) / took_s * 60, 1),
        shaker.counts if shaker else {},
        sum(not one.ended for one in stretches),
        histories,
    )


@contextmanager
def _server(folder: Path, database: str) -> Iterator[Server]:
    server = Server(folder, database)
    server.start()
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def _client(server: Server) -> Iterator[SyncPrefectClient]:
    url = server.environment["PREFECT_API_URL"]
    with (
        temporary_settings({PREFECT_API_URL: url, PREFECT_CLIENT_MAX_RETRIES: 20}),
        get_client(sync_client=True) as client,
    ):
        yield client


@contextmanager
def _workers(folder: Path, server: Server, driver: Path) -> Iterator[tuple[list[Worker], list[Any]]]:
    """Each on a node of its own, with claims and a stand-in driver of its own."""
    sys.path.insert(0, str(driver.resolve()))
    nvml = importlib.import_module("nvml_driver")
    library = nvml.build(folder)
    workers, drivers = [], []
    for number, (gpus, memory_mib) in enumerate(_NODES):
        own = folder / f"host-{number}"
        own.mkdir()
        fake = nvml.Driver(library, own)
        fake.gpus = [nvml.gpu(index, uuid=f"GPU-{number}-{index}", memory=memory_mib, used=0) for index in range(gpus)]
        fake.set(*fake.gpus)
        named = {"NODE_NAME": f"n{number}", "HOST_DIR": own, "NODE_CPUS": 16, "NODE_MEMORY_MIB": 64_000}
        named |= {"HOST_LOST_SECONDS": 120, "DRAIN_SECONDS": 2, "STOP_GRACE_SECONDS": 5}
        env = server.environment | fake.variables() | {f"TRIMTAB_{name}": str(value) for name, value in named.items()}
        env["PREFECT_WORKER_QUERY_SECONDS"] = "5"
        workers.append(Worker(f"n{number}", folder, "fleet", env, Proxy(server.port)))
        drivers.append(fake)
    try:
        for worker in workers:
            worker.start()
        yield workers, drivers
    finally:
        for worker in workers:
            worker.signal(signal.SIGCONT)
            worker.signal(signal.SIGTERM)
        for worker in workers:
            worker.await_end(30)


def _await_fleet(client: SyncPrefectClient, count: int) -> list[Advertisement]:
    body = {"variables": {"tags": {"all_": ["trimtab-fleet:fleet"]}}, "limit": PAGE}
    end = time.monotonic() + _STARTED_BY_S
    while time.monotonic() < end:
        found = by_offset(
            lambda offset: client._client.post("/variables/filter", json={**body, "offset": offset}).json()
        )
        advertised = Board.read({row["name"]: row["value"] for row in found}).advertisements
        if len(advertised) >= count:
            return list(advertised)
        time.sleep(0.5)
    raise RuntimeError(f"{count} workers were not advertised within {_STARTED_BY_S:g} s")


def _ask(
    client: SyncPrefectClient, folder: Path, records: Path, runs: int, rng: random.Random, shaker: _Shaker | None
) -> tuple[list[Asked], float]:
    """The runs, and the time they take at least on these GPUs; with faults they are longer, to be hit."""
    longer = 1.0 if shaker is None else 4.0
    flow_id = client.create_flow_from_name("recorded")
    deployments = []
    for number, (resources, _) in enumerate(_DEMANDS):
        deployments.append(
            client.create_deployment(
                flow_id=flow_id,
                name=f"demand-{number}",
                work_pool_name="fleet",
                entrypoint=f"{folder / 'fleet_flow.py'}:recorded",
                job_variables={"resources": resources, "working_dir": str(folder)},
            )
        )
    asked, gpu_s = list[Asked](), 0.0
    for number in rng.choices(range(len(_DEMANDS)), [often for _, often in _DEMANDS], k=runs):
        resources, seconds = _DEMANDS[number][0], longer * rng.choice(_SECONDS)
        width = resources.get("gpus", resources.get("gpu_share", 0))
        gpu_s += width * seconds
        parameters = {"folder": str(records), "seconds": seconds, "share": resources.get("gpu_share", 1.0)}
        run = client.create_flow_run_from_deployment(deployments[number], parameters=parameters, state=Scheduled())
        asked.append(Asked(str(run.id), resources, time.time(), seconds))
        if shaker is not None:
            shaker.shake()
    return asked, max(longer * max(_SECONDS), gpu_s / sum(gpus for gpus, _ in _NODES))


def _await_runs(
    client: SyncPrefectClient, asked: list[str], within_s: float, console: Console, shaker: _Shaker | None
) -> list[FlowRun]:
    open_runs, final, end = set(asked), [], time.monotonic() + within_s
    said = len(asked)
    while open_runs and time.monotonic() < end:
        for run_id in sorted(open_runs)[:40]:
            run = client.read_flow_run(UUID(run_id))
            if run.state is not None and run.state.is_final():
                open_runs.discard(run_id)
                final.append(run)
        if len(open_runs) <= said - 50:
            said = len(open_runs)
            console.print(f"{said} runs left")
        if shaker is not None:
            shaker.shake()
        time.sleep(1)
    if shaker is not None:
        shaker.mend()
    # A run that had ended may have been sent back since: what counts is how it is now.
    return [client.read_flow_run(UUID(run_id)) for run_id in asked]


def _history(client: SyncPrefectClient, run_id: UUID, stretches: list[Stretch], began_s: float) -> list[str]:
    """What a run says of itself, and what the server says of it, in order; in seconds since the first run."""
    lines = [
        (state.timestamp.timestamp(), f"{state.name}: {state.message or ''}")
        for state in client.read_flow_run_states(run_id)
    ]
    for one in stretches:
        if one.run == str(run_id):
            ended = "came to its end" if one.ended else "was last seen"
            lines += [(one.from_s, f"its code began on {one.node}"), (one.to_s, f"its code {ended} on {one.node}")]
    return [f"  {str(run_id)[:8]} {at_s - began_s:7.1f} s  {text}" for at_s, text in sorted(lines)]


class _Shaker:
    """Breaks something every few seconds, and mends it a while later."""

    def __init__(
        self, server: Server, workers: list[Worker], drivers: list[Any], rng: random.Random, console: Console
    ) -> None:
        self._server, self._workers, self._drivers = server, workers, drivers
        self._rng, self._console = rng, console
        self._mend: list[tuple[float, str, Callable[[], None]]] = []
        self._broken: set[str] = set()
        self._next_s = 0.0
        self.counts: dict[str, int] = {}

    def shake(self) -> None:
        """What is due is mended, and something else broken."""
        now_s = time.monotonic()
        for due in [one for one in self._mend if one[0] <= now_s]:
            self._mend.remove(due)
            self._broken.discard(due[1])
            due[2]()
        if now_s >= self._next_s:
            self._next_s = now_s + self._rng.uniform(2, 6)
            self._break(now_s)

    def mend(self) -> None:
        """Everything is as it was."""
        for _, what, how in self._mend:
            how()
            self._broken.discard(what)
        self._mend.clear()

    def _break(self, now_s: float) -> None:
        number = self._rng.randrange(len(self._workers))
        worker, driver = self._workers[number], self._drivers[number]
        faults: list[tuple[str, str, Callable[[], None], Callable[[], None], float]] = [
            ("kill", worker.node, lambda: _end(worker, signal.SIGKILL), worker.start, 2),
            ("term", worker.node, lambda: _end(worker, signal.SIGTERM), worker.start, 2),
            ("freeze", worker.node, lambda: worker.signal(signal.SIGSTOP), lambda: worker.signal(signal.SIGCONT), 36),
            ("cut", worker.node, lambda: worker.proxy.set_cut(True), lambda: worker.proxy.set_cut(False), 10),
            ("gpu", worker.node, lambda: driver.set(*driver.gpus[1:]), lambda: driver.set(*driver.gpus), 10),
            ("server", "server", self._server.stop, self._server.start, 3),
        ]
        name, what, how, mend, for_s = self._rng.choice(faults)
        if what in self._broken or (name == "server" and self.counts.get("server", 0) >= 3):
            return
        self._console.print(f"fault: {name} {what}")
        self.counts[name] = self.counts.get(name, 0) + 1
        self._broken.add(what)
        how()
        self._mend.append((now_s + for_s, what, mend))
        if name == "server":  # the client of this benchmark needs it too
            time.sleep(for_s)
            self.shake()


def _end(worker: Worker, number: signal.Signals) -> None:
    worker.signal(number)
    worker.await_end()
