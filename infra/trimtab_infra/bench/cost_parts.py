"""The parts of `trimtab bench cost`: a meter of processor time, a fleet that is only advertised, and its listeners."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import psutil
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.events import Event
from prefect.events.clients import EventsClient
from prefect.events.schemas.events import RelatedResource, Resource
from prefect.states import Scheduled

from trimtab_infra.bench.cost_model import Cost
from trimtab_infra.bench.fleet_parts import Proxy
from trimtab_work_pools.advertise import Advertisement, roll_to_text
from trimtab_work_pools.ledger import Holding
from trimtab_work_pools.resources import Demand, Gpu, Grant, Node, Placement
from trimtab_work_pools.worker.announce import NODE_CHANGED, ROLL_CALLED, subscribed
from trimtab_work_pools.worker.control_plane import ControlPlane

__all__ = ["Bench", "Listeners", "Meter", "advertisement", "emit", "node_changed", "queue_up", "roll_called"]

_QUIET_S = 3.0
_OPENING_AT_ONCE = 20


class Meter:
    """Processor time of the API server and of PostgreSQL, with all their processes, also those that have ended."""

    def __init__(self, server_pid: int, postgres: Path) -> None:
        self._server = psutil.Process(server_pid)
        self._database = psutil.Process(int((postgres / "postmaster.pid").read_text().split()[0]))

    def read(self) -> tuple[float, float]:
        """Seconds of both until now."""
        return _used(self._server), _used(self._database)


def _used(process: psutil.Process) -> float:
    times = process.cpu_times()
    total = times.user + times.system + times.children_user + times.children_system
    for child in process.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = child.cpu_times()
            total += times.user + times.system
    return float(total)


@dataclass
class Bench:
    """Measures what is done against what the server uses meanwhile without it."""

    meter: Meter
    proxy: Proxy
    for_s: float
    idle: Cost = field(default_factory=lambda: Cost(0.0, 0.0, 0.0))

    async def rest(self, for_s: float) -> Cost:
        """Per second, while nothing is asked."""
        return await self._measure(lambda _: anyio.sleep(for_s), lambda times, _: times >= 1, per_s=True)

    async def each(self, call: Callable[[int], Awaitable[object]], most: int = 10_000, settle_s: float = 0.0) -> Cost:
        """Of one `call`, which is made again and again for `for_s`. `settle_s`: what it sets off ends by then."""
        return await self._measure(call, lambda times, s: times >= most or (s >= self.for_s and times >= 3), settle_s)

    async def _measure(
        self,
        call: Callable[[int], Awaitable[object]],
        enough: Callable[[int, float], bool],
        settle_s: float = 0.0,
        per_s: bool = False,
    ) -> Cost:
        (server_s, database_s), carried, began_s = self.meter.read(), self.proxy.bytes, time.monotonic()
        times = 0
        while not enough(times, time.monotonic() - began_s):
            await call(times)
            times += 1
        await anyio.sleep(settle_s)
        took_s = time.monotonic() - began_s
        now_server_s, now_database_s = self.meter.read()
        count = took_s if per_s else times
        return Cost(
            max(0.0, now_server_s - server_s - took_s * self.idle.server_s) / count,
            max(0.0, now_database_s - database_s - took_s * self.idle.database_s) / count,
            max(0.0, self.proxy.bytes - carried - took_s * self.idle.bytes) / count,
        )


def advertisement(number: int, now_s: float) -> Advertisement:
    """Of a node with 8 GPUs, 5 of which are held by 5 runs."""
    name = f"gpu-node-{number:04d}"
    peers = frozenset(range(8))
    gpus = tuple(
        Gpu(f"GPU-{number:08x}-{index:04x}-4c5e-9d1a-000000000000", index, "NVIDIA A100-SXM4-80GB", 81_920,
            compute_capability=(8, 0), nvlink_peers=peers - {index}, numa_node=index // 4)
        for index in range(8)
    )  # fmt: skip
    node = Node(name, 128_000, 1_000_000, gpus, 3_000_000, labels=(("region", "eu-1"), ("tier", "gold")))
    demand = Demand(gpus=1, gpu_memory_mib=40_000, cpu_milli=8_000, memory_mib=64_000)
    holdings = tuple(
        Holding(f"0198c0de-{number:04d}-7000-8000-{index:012d}", demand,
                Placement(name, (Grant(index, 1000, 81_920),), 8_000, 64_000), now_s, now_s, f"{number:032x}")
        for index in range(5)
    )  # fmt: skip
    return Advertisement(name, node, holdings, now_s + 30.0, host=f"{number:032x}")


@dataclass
class Listeners:
    """Open event streams, as each worker has one; what they hear is read, and counted."""

    control: ControlPlane
    heard: int = 0
    connected: int = 0

    @contextlib.asynccontextmanager
    async def open(self, count: int) -> AsyncIterator[None]:
        """`count` of them. Raises RuntimeError if they are not all connected within two minutes."""
        async with anyio.create_task_group() as streams:
            for number in range(count):
                streams.start_soon(self._listen)
                if number % _OPENING_AT_ONCE == _OPENING_AT_ONCE - 1:
                    await self._until(self._connected, number + 1 - _OPENING_AT_ONCE)
            await self._until(self._connected, count)
            await self._quiet()
            yield
            streams.cancel_scope.cancel()

    async def hear(self, count: int) -> None:
        """Returns when `count` more events were heard, all streams together."""
        await self._until(lambda: self.heard, self.heard + count)

    async def _quiet(self) -> None:
        """A stream begins with the events of the last minute."""
        before = -1
        while before != self.heard:
            before = self.heard
            await anyio.sleep(_QUIET_S)

    def _connected(self) -> int:
        return self.connected

    async def _until(self, reached: Callable[[], int], count: int) -> None:
        with anyio.move_on_after(120):
            while reached() < count:
                await anyio.sleep(0.02)
            return
        raise RuntimeError(f"{self.connected} event streams were open and {self.heard} events heard after two minutes")

    async def _listen(self) -> None:
        def connected(live: bool) -> None:
            self.connected += 1 if live else -1 if self.connected else 0

        async for _ in subscribed(self.control.pool_resource, connected):
            self.heard += 1


async def emit(events: EventsClient, pool_resource: str, name: str, payload: dict[str, object]) -> None:
    """An event of the pool, over a connection that stays open, as a worker's does."""
    resource = Resource({"prefect.resource.id": "trimtab.node.bench"})
    related = [RelatedResource({"prefect.resource.id": pool_resource, "prefect.resource.role": "work-pool"})]
    await events.emit(Event(event=name, resource=resource, related=related, payload=payload))


def node_changed(number: int, now_s: float) -> tuple[str, dict[str, object]]:
    """What a worker announces when a run has started or ended on it."""
    one = advertisement(number, now_s)
    return NODE_CHANGED, {"work_pool": "cost", "worker": one.worker, "advertisement": one.to_text()}


def roll_called(workers: int, now_s: float) -> tuple[str, dict[str, object]]:
    """What the leader announces every few seconds."""
    expires_s = {advertisement(number, now_s).worker: now_s + 30.0 for number in range(workers)}
    return ROLL_CALLED, {"work_pool": "cost", "worker": "leader", "roll": roll_to_text(expires_s)}


async def queue_up(client: PrefectClient, pool: str, count: int) -> list[FlowRun]:
    """As many scheduled runs of one deployment."""
    flow_id = await client.create_flow_from_name("cost")
    deployment = await client.create_deployment(
        flow_id=flow_id, name="cost", work_pool_name=pool, entrypoint="flow.py:cost",
        job_variables={"resources": {"gpus": 1, "gpu_memory_mib": 40_000}},
    )  # fmt: skip
    return [
        await client.create_flow_run_from_deployment(deployment, parameters={"number": number}, state=Scheduled())
        for number in range(count)
    ]
