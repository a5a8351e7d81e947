"""Workers that cannot be told apart, are of the wrong type, or have a wrong clock."""

from __future__ import annotations

import dataclasses
import signal
import subprocess
from pathlib import Path

import pytest

from trimtab_infra.bench.fleet_parts import Proxy
from trimtab_work_pools.advertise import Advertisement, clash
from trimtab_work_pools.resources import Node

from .conftest import Pool, until

FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)


def test_two_hosts_of_one_name_are_told() -> None:
    own = Advertisement("w1", Node("n1", 1000, 1000), (), 100.0, host="here")
    there = dataclasses.replace(own, host="there")
    assert "a worker named 'w1' is on another host already (node 'n1')" in clash(own, [there])
    renamed = dataclasses.replace(there, worker="w2")
    assert "worker 'w2' on another host offers a node named 'n1' already" in clash(own, [renamed])
    assert clash(own, [dataclasses.replace(renamed, node=Node("n2", 1000, 1000))]) == ""
    assert clash(own, [own, dataclasses.replace(own, worker="w2")]) == "", "two workers of one host share its claims"


def refused(worker: subprocess.Popen[str], pool: Pool) -> str:
    """What a worker says that does not start."""
    assert worker.wait(60) == 1
    text = pool.logs()
    assert "Traceback" not in text
    return " ".join(text.split())


def test_a_worker_that_cannot_be_told_from_another_does_not_start(pool: Pool) -> None:
    pool.worker("a", node_cpus=1, name="same")
    started = pool.run(pool.deploy("any", cpus=1))
    pool.await_state(started, "Completed", 90)
    assert "'same' of this pool runs on this host already" in refused(pool.worker("a", node_cpus=1, name="same"), pool)
    assert "is on another host already (node 'a')" in refused(pool.worker("b", node_cpus=1, name="same"), pool)
    twin = pool.worker("b", node_cpus=1, name="twin", node_name="a")
    assert "offers a node named 'a' already" in refused(twin, pool)


def test_a_worker_of_the_wrong_type_does_not_start(pool: Pool) -> None:
    pool.client._client.delete(f"/work_pools/{pool.name}")
    pool.client._client.post("/work_pools/", json={"name": pool.name, "type": "process"})
    said = refused(pool.worker("a", node_cpus=1), pool)
    assert f"work pool '{pool.name}' is of type 'process', and this worker is of type 'gpu-process'" in said
    assert "prefect work-pool create NAME --type gpu-process" in said


def test_a_wrong_setting_is_named(pool: Pool) -> None:
    assert "TRIMTAB_NODE_CPUS must be a number above 0, not 'many'" in refused(pool.worker("a", node_cpus="many"), pool)


@pytest.mark.long
@pytest.mark.timeout(400)
def test_a_worker_that_is_started_before_its_server_waits_for_it(pool: Pool) -> None:
    """As Prefect's own does; and one that is ended before it could join leaves without a traceback of ours."""
    proxy = Proxy(int(pool.env["PREFECT_API_URL"].split(":")[2].split("/")[0]))
    proxy.set_cut(True)
    api = {
        "PREFECT_API_URL": f"http://127.0.0.1:{proxy.port}/api",
        "PREFECT_CLIENT_MAX_RETRIES": "0",  # by itself Prefect's client is silent for minutes
        "PREFECT_API_REQUEST_TIMEOUT": "3",
    }
    ended = pool.worker("a", api, node_cpus=1)
    waits = pool.worker("b", api, node_cpus=1)
    logs = lambda: [path.read_text() for path in pool.folder.glob("worker-*.log")]  # noqa: E731
    until(lambda: sum("Tried again in 1 s" in log for log in logs()) == 2, 90, "both wait for the server")
    ended.send_signal(signal.SIGTERM)
    ended.wait(30)
    assert not any("cancel scope" in log for log in logs())
    proxy.set_cut(False)
    pool.await_state(pool.run(pool.deploy("any", cpus=1)), "Completed", 90)
    assert waits.poll() is None


@pytest.mark.timeout(300)
@pytest.mark.skipif(FAKETIME is None, reason="libfaketime (package faketime) is not installed")
@pytest.mark.parametrize("ahead", ["+10m", pytest.param("-10m", marks=pytest.mark.long)])
def test_a_clock_that_is_ten_minutes_off_hides_nobody(pool: Pool, ahead: str) -> None:
    """Both take runs that only they can hold; the wrong one is killed, and its node is gone soon."""
    wrong = pool.worker(
        "wrong", {"LD_PRELOAD": str(FAKETIME), "FAKETIME": ahead}, node_cpus=1, node_labels="clock=wrong"
    )
    pool.worker("right", node_cpus=1, node_labels="clock=right")
    for clock in ("wrong", "right"):
        pool.await_state(pool.run(pool.deploy(clock, cpus=1, labels={"clock": clock})), "Completed", 120)
    wrong.send_signal(signal.SIGKILL)
    never = pool.run(pool.deploy("again", cpus=1, labels={"clock": "wrong"}))

    def gone() -> bool:
        state = pool.state(never).state
        return state is not None and "wrong would fit (last seen" in str(state.message)

    until(gone, 60, "its node is gone, and remembered")
