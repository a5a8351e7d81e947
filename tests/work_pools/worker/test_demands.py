"""What runs ask for, on a real server: pool, deployment and run are merged, and what nobody would read is refused."""

from __future__ import annotations

import copy
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import anyio
import httpx
import pytest
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import DeploymentUpdate, WorkPoolUpdate
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import PREFECT_API_URL, PREFECT_WORKER_QUERY_SECONDS, temporary_settings
from prefect.states import Running

from blocks.tcp_proxy import Fault, Proxy, http
from trimtab_work_pools.server.demands import RETRY_ASKS
from trimtab_work_pools.worker import GpuProcessWorker
from trimtab_work_pools.worker.control_plane import ControlPlane
from trimtab_work_pools.worker.gpu_process import GpuProcessJobConfiguration
from trimtab_work_pools.worker.known_queue import KnownQueue
from trimtab_work_pools.worker.planning import Planning
from trimtab_work_pools.worker.telling import Telling

from .conftest import Pool
from .test_news import state_event

# A connection that the proxy has cut is closed by the client's pool only when that comes to it.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def _no_polls() -> Iterator[None]:
    """What is read again is read because of events, or of a call that failed; not because time has passed."""
    with temporary_settings({PREFECT_WORKER_QUERY_SECONDS: 600}):
        yield


@pytest.fixture
def proxy(environment: dict[str, str]) -> Iterator[Proxy]:
    with Proxy(urlsplit(environment["PREFECT_API_URL"]).port or 80) as proxy:
        yield proxy


@pytest.fixture
async def behind(proxy: Proxy) -> AsyncIterator[PrefectClient]:
    """A client of the real server, behind the proxy."""
    with temporary_settings({PREFECT_API_URL: f"{proxy.url}/api"}):
        async with get_client() as client:
            yield client


def set_default(pool: Pool, **resources: Any) -> None:
    template = copy.deepcopy(GpuProcessWorker.get_default_base_job_template())
    template["variables"]["properties"]["resources"]["default"] = resources
    pool.client.update_work_pool(pool.name, WorkPoolUpdate(base_job_template=template))


async def one_waits(control: ControlPlane) -> Any:
    (found,) = await control.waiting(10.0, (await control.queues(set())).priorities)
    return found


@pytest.mark.anyio
async def test_pool_deployment_and_run_come_to_one_demand_and_the_run_is_told_the_same(pool: Pool) -> None:
    set_default(pool, labels={"region": "eu"}, memory_mib=100)
    deployment = pool.deploy("any", gpus=1)
    run_id = pool.run(
        deployment, job_variables={"resources": {"cpus": 2, "labels": {"tier": "gold"}}, "env": {"A": "b"}}
    )
    async with get_client() as client:
        control = ControlPlane(client, pool.name)
        waits = await one_waits(control)
        assert waits.asks == (
            "gpus: 1 (deployment), cpus: 2 (run), memory_mib: 100 (work pool), labels.region: eu (work pool),"
            " labels.tier: gold (run)"
        )
        assert dict(waits.queued.demand.node_labels) == {"region": {"eu"}, "tier": {"gold"}}
        configuration = await GpuProcessJobConfiguration.resolve_for_flow_run(
            await client.read_flow_run(uuid.UUID(run_id)),
            client=client,
            work_pool=await client.read_work_pool(pool.name),
            worker_name="w",
        )
        merged = {"gpus": 1, "cpus": 2, "memory_mib": 100, "labels": {"region": "eu", "tier": "gold"}}
        assert configuration.resources == merged
        assert configuration.env["A"] == "b"
        variables = await control.job_variables(await client.read_flow_run(uuid.UUID(run_id)))
        assert variables["resources"] == merged
        await client.update_flow_run_labels(uuid.UUID(run_id), {RETRY_ASKS: '{"cpus": 2}'})
        assert "cpus: 2 (retry)" in (await one_waits(control)).asks


@pytest.mark.anyio
async def test_a_pool_s_new_template_counts_for_what_waits_already(pool: Pool) -> None:
    pool.run(pool.deploy("any", gpus=1))
    async with get_client() as client:
        control = ControlPlane(client, pool.name)
        planning = Planning("w", pool.name, control, set())

        async def asks() -> str:
            (waits,) = await planning._queue.now(10.0, 1, everything=True)
            return str(waits.asks)

        async with anyio.create_task_group() as listening:
            heard, connected = anyio.Event(), anyio.Event()

            async def listen() -> None:
                async for _ in planning.news():
                    heard.set()

            def told(live: bool, before: Callable[[bool], None] = planning._queue.connected) -> None:
                before(live)
                connected.set()

            planning._queue.connected = told  # type: ignore[method-assign] - only to know when events arrive
            listening.start_soon(listen)
            with anyio.fail_after(30):
                await connected.wait()
                assert await asks() == "gpus: 1 (deployment)"
                set_default(pool, labels={"region": "eu"})
                await heard.wait()
            assert await asks() == "gpus: 1 (deployment), labels.region: eu (work pool)"
            listening.cancel_scope.cancel()


@pytest.mark.anyio
async def test_a_demand_that_is_not_known_is_never_taken_for_none(
    pool: Pool, behind: PrefectClient, proxy: Proxy
) -> None:
    """Its event was heard before its deployment can be read: it waits, and is planned once that can be."""
    run_id = pool.run(deployment := pool.deploy("any", gpus=2))
    queue = KnownQueue(ControlPlane(behind, pool.name), set())
    queue.connected(True)
    proxy.fail(Fault(http("200 OK", "[]", "Content-Type: application/json"), only=b"/deployments/filter"))
    assert await queue.now(10.0, 1, everything=True) == []
    queue.heard(state_event(run_id, "Scheduled", "SCHEDULED", deployment))
    assert await queue.now(10.0, 1, everything=True) == []
    assert await queue.presumed() == []
    proxy.heal()
    (waits,) = await queue.now(10.0, 1, everything=True)
    assert waits.queued is not None
    assert waits.queued.demand.gpus == 2


@pytest.mark.anyio
@pytest.mark.parametrize("path", ["/flow_runs/filter", "/deployments/filter", "/queues/filter"])
async def test_after_a_call_that_failed_the_next_one_knows_all(
    pool: Pool, behind: PrefectClient, proxy: Proxy, path: str
) -> None:
    """News of a run that came, of one that went, and of a deployment that changed; none is told twice."""
    stays, goes = (pool.run(deployment := pool.deploy(name, gpus=1)) for name in ("stays", "goes"))
    queue = KnownQueue(ControlPlane(behind, pool.name), set())
    queue.connected(True)

    async def now() -> dict[str, int]:
        found = await queue.now(10.0, 1, everything=True)
        return {str(one.flow_run.id): one.queued.demand.gpus for one in found if one.queued}

    assert await now() == {stays: 1, goes: 1}
    pool.client.delete_flow_run(uuid.UUID(goes))
    pool.client.update_deployment(deployment, DeploymentUpdate(job_variables={"resources": {"gpus": 3}}))
    comes = pool.run(deployment)
    for run_id in (comes, goes):
        queue.heard(state_event(run_id, "Scheduled", "SCHEDULED", deployment))
    event = state_event(stays, "updated", "")
    event.resource.root["prefect.resource.id"] = f"prefect.deployment.{deployment}"
    queue.heard(event)
    queue.heard(event.model_copy(update={"resource": event.resource.model_copy(update={
        "root": {"prefect.resource.id": f"prefect.work-queue.{uuid.uuid4()}"}})}))  # fmt: skip
    proxy.fail(Fault(http("500 Internal Server Error"), only=path.encode()))
    for _ in range(2):
        with pytest.raises(httpx.HTTPError):
            await now()
    proxy.heal()
    assert await now() == {stays: 1, comes: 3}
    queue.connected(True)
    proxy.fail(Fault(http("500 Internal Server Error"), only=b"/flow_runs/filter"))
    missed = pool.run(deployment)
    with pytest.raises(httpx.HTTPError):
        await now()
    proxy.heal()
    assert await now() == {stays: 1, comes: 3, missed: 3}, "all is read again, as it was to be"


@pytest.mark.anyio
async def test_what_is_heard_while_an_answer_is_on_its_way_is_newer(pool: Pool) -> None:
    run_id = pool.run(deployment := pool.deploy("any", gpus=1))
    async with get_client() as client:
        control = ControlPlane(client, pool.name)
        queue = KnownQueue(control, set())
        queue.connected(True)
        read, news = control.waiting, [("Pending", "PENDING")]

        async def waiting(*args: Any) -> Any:
            answer = await read(*args)
            queue.heard(state_event(run_id, *news[0], deployment))
            return answer

        control.waiting = waiting  # type: ignore[method-assign] - the real answer, and an event just before it is used
        assert await queue.now(10.0, 1, everything=True) == []
        queue.connected(True)
        news[0] = ("Scheduled", "SCHEDULED")
        await queue.now(10.0, 1, everything=True)
        assert [one.run_id for one in await queue.presumed()] == [run_id]


# --- keys that nobody would read: every way in ---


def created(pool: Pool, wrong: dict[str, Any]) -> str:
    return pool.run(pool.deploy("plain"), job_variables={**wrong, "working_dir": str(pool.folder)})


def patched_run(pool: Pool, wrong: dict[str, Any]) -> str:
    run_id = pool.run(pool.deploy("plain"))
    pool.client._client.patch(f"/flow_runs/{run_id}", json={"job_variables": wrong}).raise_for_status()
    return run_id


def patched_deployment(pool: Pool, wrong: dict[str, Any]) -> str:
    deployment = pool.deploy("plain")
    pool.client._client.patch(f"/deployments/{deployment}", json={"job_variables": wrong}).raise_for_status()
    return pool.run(deployment)


@pytest.mark.anyio
@pytest.mark.parametrize("way", [created, patched_run, patched_deployment])
@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"nodes": 2, "resources": {"gpus": 1}}, "nodes stands beside it and changes nothing: write resources: {nodes"),
        ({"resources": {"gpuz": 1}}, "did you mean gpus?"),
        ({"resources.gpuz": 1}, "did you mean gpus?"),
        ({"resouces": {"gpus": 1}}, "did you mean resources?"),
    ],
)
async def test_a_run_that_asks_where_nobody_reads_is_refused_or_fails_before_it_starts(
    pool: Pool, way: Callable[[Pool, dict[str, Any]], str], wrong: dict[str, Any], said: str
) -> None:
    try:
        run_id = way(pool, wrong)
    except PrefectHTTPStatusError as refused:
        assert refused.response.status_code == 422  # noqa: PT017 - the server may refuse it, or the worker
        assert "nodes" not in wrong or "inside: resources: {nodes: ...}" in refused.response.text  # noqa: PT017
        return
    ended = await told(pool, run_id)
    assert ended.state is not None
    assert (ended.state.type.value, ended.state_name) == ("FAILED", "BadResources")
    assert said in str(ended.state.message)
    assert ended.run_count == 0


@pytest.mark.anyio
async def test_what_the_pool_says_wrong_ends_no_run(pool: Pool) -> None:
    run_id = pool.run(pool.deploy("plain", cpus=1))
    template = copy.deepcopy(GpuProcessWorker.get_default_base_job_template())
    template["job_configuration"]["resources"] = {"gpus": "many"}
    pool.client.update_work_pool(pool.name, WorkPoolUpdate(base_job_template=template))
    shown = await told(pool, run_id)
    assert shown.state is not None
    assert (shown.state.type.value, shown.state_name) == ("SCHEDULED", "BadResources")
    assert "not 'many' (from the work pool, fixed)" in str(shown.state.message)


@pytest.mark.anyio
async def test_a_run_outside_the_pool_s_region_is_refused(pool: Pool) -> None:
    set_default(pool, labels={"region": ["eu-1", "eu-2"]})
    ended = await told(pool, pool.run(pool.deploy("abroad", gpus=1, labels={"region": "us"})))
    assert ended.state is not None
    assert ended.state.type.value == "FAILED"
    assert "asks for region=us; the work pool allows region=eu-1 or eu-2 and no other" in str(ended.state.message)


@pytest.mark.anyio
async def test_a_deleted_run_stops_nobody(pool: Pool) -> None:
    async with get_client() as client:
        control = ControlPlane(client, pool.name)
        deployment = pool.deploy("plain", gpus=1)
        gone, stays = pool.run(deployment), pool.run(deployment)
        waiting = await control.waiting(10.0, (await control.queues(set())).priorities)
        pool.client.delete_flow_run(uuid.UUID(gone))
        reasons = {str(one.flow_run.id): ("AwaitingResources", "why") for one in waiting}
        await Telling(control, client, pool.name).tell(waiting, reasons, (), lambda: False)
        assert pool.state(stays).state_name == "AwaitingResources"
        logs = pool.client.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=[uuid.UUID(stays)])))
        assert [one.message for one in logs] == ["Waits: why. It asks for gpus: 1 (deployment)"]


@pytest.mark.anyio
async def test_a_run_whose_deployment_was_deleted_is_called_off(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Prefect's own worker does; it is not planned as if it asked for nothing."""
    monkeypatch.setattr("trimtab_work_pools.worker.known_queue._DELETED_S", 0.0)
    run_id = uuid.UUID(pool.run(deployment := pool.deploy("plain", gpus=1)))
    async with get_client() as client:
        control = ControlPlane(client, pool.name)
        await client.set_flow_run_state(run_id, Running(), force=True)
        await client.delete_deployment(deployment)
        await control.back_to_queue(run_id, "Rescheduled", "its process has gone")
        waiting = await KnownQueue(control, set()).now(10.0, 1, everything=True)
        assert [(one.flow_run.id, one.queued) for one in waiting] == [(run_id, None)]
        await Telling(control, client, pool.name).tell(waiting, {}, (), lambda: False)
    ended = pool.state(str(run_id))
    assert ended.state_name == "Cancelled"
    assert "is not there any more" in str(ended.state and ended.state.message)


async def told(pool: Pool, run_id: str) -> FlowRun:
    """The run when a worker has told about it what there is to tell."""
    async with get_client() as client:
        control = ControlPlane(client, pool.name)
        waiting = await control.waiting(10.0, (await control.queues(set())).priorities)
        await Telling(control, client, pool.name).tell(waiting, {}, (), lambda: False)
    return pool.state(run_id)
