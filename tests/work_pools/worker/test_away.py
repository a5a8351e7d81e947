"""Nodes that left are remembered, a paused pool shows its nodes, and what people have paused or deleted is named."""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from node_cases import read_node
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolUpdate
from prefect.client.schemas.schedules import CronSchedule
from rich.console import Console

from trimtab_infra.errors import UserError
from trimtab_infra.fleet import FleetView, read_fleet, why
from trimtab_work_pools.advertise import Advertisement, Board
from trimtab_work_pools.worker.control_plane import ControlPlane
from trimtab_work_pools.worker.dispatcher import Dispatcher
from trimtab_work_pools.worker.pace import ADVERTISED_S
from trimtab_work_pools.worker.peers import Peers
from trimtab_work_pools.worker.planning import Planning

from .conftest import Pool

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def shown(view: FleetView) -> str:
    text = io.StringIO()
    Console(file=text, width=250).print(view.shown())
    return text.getvalue()


def of(name: str, control: ControlPlane, good_s: float = ADVERTISED_S, draining: bool = False) -> Advertisement:
    gpus = {"gpus": {"count": 4}} if name == "node-a" else {}
    return Advertisement(f"w-{name}", read_node(name, {"cpus": 4, **gpus}), (), control.now_s() + good_s, draining)


async def test_a_node_that_has_left_or_fallen_silent_is_remembered_and_planned_with_by_nobody(pool: Pool) -> None:
    run_id = pool.run(pool.deploy("wide", gpus=4))
    async with get_client() as client:
        control = ControlPlane(client, pool.name)
        await control.publish(of("node-b", control))
        assert "can never start on this fleet, even idle: node-b: needs 4 GPUs; the node has none" in await why(run_id)
        silent = of("node-a", control, good_s=-1.0)
        await control.publish(silent)
        assert f"node-a would fit (last seen {_clock(silent)})" in (said := await why(run_id))
        assert "never" not in said
        await control.publish(left := of("node-a", control, draining=True))
        assert "there is room for it" not in (said := await why(run_id))
        assert "node-a would fit (it is draining)" in said
        await control.leave(left)
        assert [one.node.name for one in (await control.board()).advertisements] == ["node-b"]
        assert f"node-a would fit (last seen {_clock(left)}, draining)" in await why(run_id)
        view = await read_fleet(pool.name)
        assert "1 nodes, 1 runs waiting" in shown(view)
        assert f"Not there now: node-a: last seen {_clock(left)}, draining" in shown(view)
        planning = Planning("w", pool.name, control, set())
        await planning.with_peers(of("node-b", control))
        assert [(one.name, one.said) for one in await planning.away()] == [
            ("node-a", f"last seen {_clock(left)}, draining")
        ]
        await control.publish(of("node-a", control))
        assert "there is room for it" in await why(run_id)
        assert (await read_fleet(pool.name)).away == ()
        old = replace(left, expires_s=control.now_s() - 8 * 86_400)
        await control.leave(old)
        assert await control.gone() == ()
        await control.publish(replace(old, worker="w-silent"))
        await Peers("w", pool.name, control).now(leads=True)
        assert "w-silent" not in {one.worker for one in (await control.board()).advertisements}
        assert "can never start" in await why(run_id)


def _clock(one: Advertisement) -> str:
    return f"{datetime.fromtimestamp(one.expires_s - ADVERTISED_S, UTC):%H:%M:%S}"


async def test_a_worker_that_leaves_says_what_its_node_was_like(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIMTAB_HOST_DIR", str(tmp_path / "host"))
    monkeypatch.setenv("TRIMTAB_NODE_NAME", "leaves")
    async with get_client() as client:
        dispatcher, control = Dispatcher("leaves", pool.name, client, set()), ControlPlane(client, pool.name)
        await dispatcher.join("gpu-process")
        assert await dispatcher.pick(10.0, False, None) == []
        await dispatcher.drain()
        await dispatcher.withdraw()
        dispatcher.close()
        assert await control.board() == Board()
        assert [(one.node.name, one.draining, one.holdings) for one in await control.gone()] == [("leaves", True, ())]


async def test_the_workers_of_a_paused_pool_are_there_and_say_so(pool: Pool) -> None:
    """Real workers: they went silent, and the fleet looked empty."""
    pool.client.update_work_pool(pool.name, WorkPoolUpdate(is_paused=True))
    run_id = pool.run(pool.deploy("any", cpus=1))
    pool.worker("stays", node_cpus=2)
    paused = pool.await_state(run_id, "AwaitingResources", 90)
    assert f"work pool '{pool.name}' is paused" in str(paused.state and paused.state.message)
    view = await read_fleet(pool.name)
    assert [one.node.name for one in view.fleet] == ["stays"]
    assert "paused: 1 nodes, 1 runs waiting" in shown(view)
    assert f"Work pool '{pool.name}' is paused: nothing of it starts until it goes on" in await why(run_id)
    assert pool.lines(run_id) == []
    pool.client.update_work_pool(pool.name, WorkPoolUpdate(is_paused=False))
    pool.await_state(run_id, "Completed", 90)


async def test_why_names_queues_deployments_and_schedules_that_are_paused_or_deleted(pool: Pool) -> None:
    deployment = pool.deploy("any", cpus=1)
    run_id = pool.run(deployment)
    async with get_client() as client:
        (queue,) = await client.read_work_queues(work_pool_name=pool.name)
        await client.update_work_queue(queue.id, is_paused=True)
        assert f"Work queue 'default' is paused: resume it (prefect work-queue resume default --pool {pool.name})" in (
            await why(run_id)
        )
        await client.update_work_queue(queue.id, is_paused=False)
        other = await client.create_work_queue("night", work_pool_name=pool.name)
        moved = pool.run(deployment, work_queue_name="night")
        await client.delete_work_queue_by_id(other.id)
        assert "Its work queue 'night' is not there any more: run its deployment again" in await why(moved)
        await client.pause_deployment(deployment)
        await client.create_deployment_schedules(deployment, [(CronSchedule(cron="0 3 * * *"), False)])
        name = f"any-{pool.name}"
        said = await why(run_id)
        assert f"Deployment '{name}' is paused: its schedules make no runs." in said
        assert f"A schedule of '{name}' is paused: cron 0 3 * * *." in said
        assert "No worker of its pool is there: start one" in said
        assert f"deployment '{name}' is paused" in await why(f"recorded/{name}")
        with pytest.raises(UserError, match="there is no deployment 'recorded/none'"):
            await why("recorded/none")
