"""A host that is gone, or only seems to be: its runs start elsewhere, and never run to their end twice."""

from __future__ import annotations

import json
import signal
import time
import uuid

import anyio
import psutil
import pytest
from prefect.client.orchestration import get_client
from prefect.events import emit_event
from prefect.states import Running

from trimtab_work_pools.advertise import Advertisement, fleet_from
from trimtab_work_pools.ledger import Holding
from trimtab_work_pools.lost import Active, Life, alive, superseded, unheld
from trimtab_work_pools.resources import Demand, Node, Placement
from trimtab_work_pools.worker.aftermath import Aftermath
from trimtab_work_pools.worker.control_plane import ControlPlane
from trimtab_work_pools.worker.lost_hosts import LostHosts

from .conftest import Pool, until


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def holding(run: str, node: str, started_s: float) -> Holding:
    return Holding(run, Demand(), Placement(node), 0.0, started_s, f"{run} on {node}")


def advertised(name: str, **started_s: float) -> Advertisement:
    holdings = tuple(holding(run, name, since_s) for run, since_s in started_s.items())
    return Advertisement(f"w-{name}", Node(name, 1000, 1000), holdings, 100.0)


def test_a_run_is_lost_when_nobody_holds_it_for_long_enough() -> None:
    since, lost = unheld(["r1", "r2"], [advertised("a", r1=1.0)], {}, 10.0, 60.0)
    assert (since, lost) == ({"r2": 10.0}, [])
    since, lost = unheld(["r1", "r2"], [advertised("a", r1=1.0)], since, 69.0, 60.0)
    assert lost == []
    assert unheld(["r1", "r2"], [], since, 70.0, 60.0) == ({"r1": 70.0, "r2": 10.0}, ["r2"])
    assert unheld(["r2"], [advertised("b", r2=1.0)], since, 80.0, 60.0) == ({}, []), "it is held again"


@pytest.mark.parametrize(
    ("worker", "life", "why"),
    [
        ("w", Life(), ""),
        ("w", Life(frozenset({"v"}), frozenset({"v"}), frozenset({"v"})), ""),
        ("w", Life(readable=frozenset({"w"}), online=frozenset({"w"})), ""),
        ("w", Life(silent=frozenset({"w"})), "which cannot be read here"),
        ("w", Life(online=frozenset({"w"})), "Prefect hears of it"),
        ("", Life(online=frozenset({"w"})), ""),
        ("", Life(silent=frozenset({"w"})), "it may be with worker 'w'"),
    ],
)
def test_a_run_is_not_lost_while_something_says_that_its_worker_is_alive(worker: str, life: Life, why: str) -> None:
    assert why in alive(Active("r", worker), life)
    assert bool(why) == bool(alive(Active("r", worker), life))
    assert "its process" in alive(Active("r", worker, beats=True), life)


def test_what_others_were_given_is_given_up() -> None:
    mine = [holding(run, "a", 10.0) for run in ("r1", "r2", "r3")]
    assert superseded(mine, [advertised("b", r1=20.0, r9=20.0)], {"r3"}) == ["r1", "r3"]
    assert superseded(mine, [advertised("b", r1=5.0)], set()) == [], "that is old news"
    assert superseded(mine, [advertised("a", r1=10.0)], set()) == []


def test_a_run_that_two_nodes_hold_does_not_stop_the_planner() -> None:
    fleet = fleet_from([advertised("a", r1=10.0), advertised("b", r1=20.0, r2=5.0)])
    assert {one.run.id: one.parts[0][0] for one in fleet.running} == {"r1": "b", "r2": "b"}


@pytest.mark.long
@pytest.mark.timeout(400)
def test_a_lost_host_s_run_starts_elsewhere_and_the_host_gives_it_up_when_it_is_back(pool: Pool) -> None:
    deployment = pool.deploy("any", cpus=1)
    first = pool.worker("a", node_cpus=1, host_lost_seconds=8)
    run_id = pool.run(deployment, seconds=30)
    pool.await_started(run_id)
    frozen = [psutil.Process(first.pid), *psutil.Process(first.pid).children(recursive=True)]
    second = pool.worker("b", node_cpus=1, host_lost_seconds=8)
    waiting = pool.run(deployment, seconds=1)
    pool.await_state(waiting, "Completed", 90)
    for process in frozen:
        process.send_signal(signal.SIGSTOP)
    again = pool.await_started(run_id, times=2, seconds=200)  # Prefect hears of it for 90 s and more
    assert again["TRIMTAB_NODE"] == "b"
    for process in frozen:
        process.send_signal(signal.SIGCONT)
    old = pool.lines(run_id)[0]["pid"]
    until(lambda: not psutil.pid_exists(old), 30, "the old process is ended")
    pool.await_state(run_id, "Completed", 120)
    assert [line["what"] for line in pool.lines(run_id)] == ["start", "start", "end"]
    assert pool.lines(run_id)[-1]["pid"] == again["pid"], "it was the new one that came to the end"
    assert pool.state(run_id).labels["trimtab.started-again.LostHost"] == 1
    assert first.poll() is None
    assert second.poll() is None


@pytest.mark.anyio
async def test_a_run_that_says_itself_that_it_is_alive_is_not_started_again(pool: Pool) -> None:
    """Its worker was killed and is not started again; it goes on, and Prefect's engine sends its heartbeats."""
    run_id = uuid.UUID(pool.run(pool.deploy("any", cpus=1)))
    async with get_client() as client:
        await client.set_flow_run_state(run_id, Running(), force=True)
        control = ControlPlane(client, pool.name)
        lost_hosts = LostHosts(client, pool.name, Aftermath(client, control))
        lost_hosts._after_s = 10.0
        now_s = time.time()
        await lost_hosts.look([], (), now_s)
        emit_event("prefect.flow-run.heartbeat", {"prefect.resource.id": f"prefect.flow-run.{run_id}"})
        with anyio.fail_after(60):
            while not await lost_hosts._beats(str(run_id)):
                await anyio.sleep(0.3)
        await lost_hosts.look([], (), now_s + 11)
        assert (await client.read_flow_run(run_id)).state_name == "Running"
        await lost_hosts.look([], (), now_s + 22)
        assert (await client.read_flow_run(run_id)).state_name == "LostHost", "it has said nothing since"


@pytest.mark.anyio
async def test_the_run_of_a_worker_whose_advertisement_cannot_be_read_is_not_started_again(pool: Pool) -> None:
    """It is damaged, or of a newer version, and the worker renews it."""
    run_id = uuid.UUID(pool.run(pool.deploy("any", cpus=1)))
    async with get_client() as client:
        await client.set_flow_run_state(run_id, Running(), force=True)
        await client.update_flow_run_labels(run_id, {"prefect.worker.name": "first"})
        control = ControlPlane(client, pool.name)
        lost_hosts = LostHosts(client, pool.name, Aftermath(client, control))
        lost_hosts._after_s = 10.0
        now_s = time.time()
        newer = json.dumps({"worker": "first", "expires_s": now_s + 15, "node": {"form": "newer"}})
        name = control.notices.name_of("first")
        tags = ["trimtab", f"trimtab-fleet:{pool.name}"]
        await client._client.post("/variables/", json={"name": name, "value": newer, "tags": tags})
        silent = (await control.board()).silent
        assert [sign.worker for sign in silent] == ["first"]
        await lost_hosts.look([], silent, now_s)
        await lost_hosts.look([], silent, now_s + 11)
        assert (await client.read_flow_run(run_id)).state_name == "Running"
        await lost_hosts.look([], silent, now_s + 22)
        assert (await client.read_flow_run(run_id)).state_name == "LostHost", "it is not renewed any more"
