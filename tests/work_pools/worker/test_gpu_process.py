"""gpu-process workers on a real server: they pick by fit, make way, drain, and are survived by their runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import nvml_driver
import psutil
import pytest
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.exceptions import PrefectHTTPStatusError
from prefect.workers.base import BaseWorker

from trimtab_work_pools.worker import GpuProcessWorker, prefect_hooks

from .conftest import Pool, until

pytestmark = pytest.mark.timeout(300)


def test_prefect_still_has_what_the_worker_relies_on() -> None:
    assert prefect_hooks.missing(BaseWorker) == []
    assert BaseWorker.get_worker_class_from_type("gpu-process") is GpuProcessWorker


def said(pool: Pool, *command: str) -> str:
    """What `trimtab` prints; wide, so that a table is not cut."""
    program = str(Path(sys.executable).parent / "trimtab")
    env = {**pool.env, "COLUMNS": "250"}
    return subprocess.run([program, *command], env=env, capture_output=True, text=True, timeout=60, check=True).stdout


@pytest.mark.parametrize("command", [["fleet", "nowhere"], ["why", "nobody"], ["why", str(uuid.UUID(int=1))]])
def test_what_is_not_there_is_said(pool: Pool, command: list[str]) -> None:
    program = str(Path(sys.executable).parent / "trimtab")
    done = subprocess.run([program, *command], env=pool.env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert command[1] in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("ahead", [5, pytest.param(210, marks=pytest.mark.long)])
def test_runs_go_where_they_fit_and_say_why_they_wait(pool: Pool, ahead: int) -> None:
    """Two nodes: one small in the EU, one larger elsewhere. Runs that nobody can hold stand before the others, in the
    long form more than a worker of Prefect's sees."""
    never = pool.deploy("never", gpus=1, gpu_models="H100")
    hopeless = [pool.run(never) for _ in range(ahead)]
    resident = pool.run(pool.deploy("resident", cpus=1, labels={"region": "eu"}))
    large = pool.run(pool.deploy("large", cpus=6))
    pool.worker("small", node_cpus=2, node_labels="region=eu")
    pool.worker("large", node_cpus=8, node_labels="region=us")
    assert pool.await_started(resident)["TRIMTAB_NODE"] == "small"
    given = pool.await_started(large)
    assert (given["TRIMTAB_NODE"], given["CUDA_VISIBLE_DEVICES"], given["OMP_NUM_THREADS"]) == ("large", "", "6")
    for run_id in (resident, large):
        pool.await_state(run_id, "Completed")
        assert len(pool.lines(run_id)) == 2, "one start, one end"

    def told() -> list[str]:
        runs = pool.client.read_flow_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=hopeless[:200])))
        return [str(run.state.message) for run in runs if run.state_name == "NoNodeFits" and run.state]

    messages = until(told, 60, "a state that says why")
    assert (
        "can never start on this fleet, even idle: large: needs 1 GPU of model H100; the node has none" in messages[0]
    )
    body = {"artifacts": {"key": {"any_": [f"trimtab-fleet-{pool.name}"]}}}
    tables = until(lambda: pool.client._client.post("/artifacts/filter", json=body).json(), 30, "the fleet's table")
    assert len(tables) == 1
    assert {row["node"] for row in json.loads(tables[0]["data"])} <= {"large", "small"}
    fleet = until(lambda: "2 nodes" in (shown := said(pool, "fleet", pool.name)) and shown, 30, "a fleet of two")
    assert "region=eu" in fleet
    assert f"{ahead} runs waiting" in fleet
    answer = said(pool, "why", hopeless[0])
    assert "needs 1 GPU of model H100; the node has none" in answer
    assert "no node here has a GPU that its worker can see: add one, or leave gpus out" in answer
    assert "Completed" in said(pool, "why", pool.state(large).name)


def test_a_gpu_is_given_to_one_run_and_a_lost_one_to_none(pool: Pool, tmp_path: Path) -> None:
    """From what the runs themselves wrote down: at no time more than all of a GPU."""
    try:
        driver = nvml_driver.Driver(nvml_driver.build(tmp_path), tmp_path)
    except nvml_driver.NoCompiler as error:
        pytest.skip(f"the stand-in NVIDIA driver cannot be built: {error}")
    gpus = [nvml_driver.gpu(number) for number in range(2)]
    driver.set(*gpus)
    whole, half = pool.deploy("whole", gpus=1), pool.deploy("half", gpu_share=0.5)
    pool.worker("gpu", driver.variables())
    runs = {
        pool.run(deployment, seconds=1.5): share for deployment, share in ((whole, 1.0), (half, 0.5)) for _ in range(3)
    }
    for run_id in runs:
        pool.await_state(run_id, "Completed", 120)
    spans = [(pool.lines(run_id)[0], pool.lines(run_id)[1], share) for run_id, share in runs.items()]
    assert {start["CUDA_VISIBLE_DEVICES"] for start, _, _ in spans} == {"GPU-0", "GPU-1"}
    for start, _, _ in spans:
        at_once = [s for s in spans if s[0]["at_s"] <= start["at_s"] < s[1]["at_s"]]
        for device in ("GPU-0", "GPU-1"):
            assert sum(share for one, _, share in at_once if one["CUDA_VISIBLE_DEVICES"] == device) <= 1.0
    driver.set(f"{gpus[0]} lost=1", gpus[1])
    later = [pool.run(whole) for _ in range(2)]
    assert [pool.await_started(run_id)["CUDA_VISIBLE_DEVICES"] for run_id in later] == ["GPU-1", "GPU-1"]
    halves = [pool.run(half, seconds=15) for _ in range(2)]
    starts = [pool.await_started(run_id) for run_id in halves]
    for run_id in halves:
        pool.await_state(run_id, "Completed", 60)
    assert [start["CUDA_VISIBLE_DEVICES"] for start in starts] == ["GPU-1", "GPU-1"]
    assert max(start["at_s"] for start in starts) < min(pool.lines(run_id)[1]["at_s"] for run_id in halves)


def test_a_run_that_cannot_be_forked_is_started_as_prefect_does(pool: Pool) -> None:
    deployment = pool.deploy("hash", cpus=1)
    pool.worker("only", node_cpus=1)
    run_id = pool.run(deployment, job_variables={"resources": {"cpus": 1}, "env": {"PYTHONHASHSEED": "7"}})
    pool.await_state(run_id, "Completed", 90)
    assert [line["what"] for line in pool.lines(run_id)] == ["start", "end"]
    assert "is started as a fresh process: PYTHONHASHSEED" in pool.logs()


def test_a_demand_that_makes_no_sense_is_refused_or_shown(pool: Pool) -> None:
    with pytest.raises(PrefectHTTPStatusError, match="gpu_memory"):
        pool.deploy("typo", gpus=1, gpu_memory=5)
    plain = pool.deploy("plain")
    wrong = pool.run(plain, job_variables={"resources": {"gpu_share": 0.5, "gpus": 2}, "working_dir": str(pool.folder)})
    pool.worker("only", node_cpus=1)
    shown = pool.await_state(wrong, "BadResources")
    assert shown.state
    assert "resources.gpu_share: a share is of one GPU: 0.5 of 2 GPUs" in str(shown.state.message)


def test_an_important_run_takes_the_place_of_one_that_may_be_stopped(pool: Pool) -> None:
    """Signal, checkpoint, the end of the process, and only then back to the queue; it goes on where it was."""
    body = {"name": f"trimtab-policy-{pool.name}", "value": {"min_run_s": 0.5}}
    pool.client._client.post("/variables/", json=body)
    modest, urgent = pool.deploy("modest", cpus=2, preemptible=True), pool.deploy("urgent", cpus=2, priority=5)
    pool.worker("only", node_cpus=2)
    first = pool.run(modest, seconds=20)
    pool.await_started(first)
    second = pool.run(urgent, seconds=0.5)
    pool.await_started(second)
    pool.await_started(first, times=2)
    pool.await_state(second, "Completed")
    pool.await_state(first, "Completed")
    stopped, resumed = (pool.lines(first)[1], pool.lines(first)[2])
    assert stopped["what"] == "TerminationSignal"
    assert resumed["done_s"] == stopped["done_s"] > 0
    spans = [(line["at_s"], line["what"]) for line in pool.lines(second)]
    assert stopped["at_s"] < spans[0][0] < spans[1][0] < resumed["at_s"], "never both at once"


def test_a_worker_that_is_stopped_gives_its_runs_back(pool: Pool) -> None:
    deployment = pool.deploy("any", cpus=1, preemptible=True)
    worker = pool.worker("only", node_cpus=2)
    runs = [pool.run(deployment, seconds=100) for _ in range(3)]

    def two() -> list[str]:
        found = [run_id for run_id in runs if pool.lines(run_id)]
        return found if len(found) == 2 else []

    started = until(two, 90, "two of them started")
    worker.send_signal(signal.SIGTERM)
    worker.wait(60)
    for run_id in started:
        assert pool.state(run_id).state_name == "Preempted"
        assert [line["what"] for line in pool.lines(run_id)] == ["start", "TerminationSignal"]
        assert not psutil.pid_exists(pool.lines(run_id)[0]["pid"])
    assert {pool.state(run_id).state_type for run_id in runs} == {pool.state(started[0]).state_type}
    assert list((pool.folder / "host-only").glob("*.json")) == []


def test_a_killed_worker_is_survived_by_its_runs(pool: Pool) -> None:
    """kill -9: one run's process lives and is adopted, the other's is killed too and its run starts again."""
    deployment = pool.deploy("any", cpus=1)
    worker = pool.worker("only", node_cpus=2)
    lives, dies = pool.run(deployment, seconds=15), pool.run(deployment, seconds=3)
    pool.await_started(lives)
    pid = pool.await_started(dies)["pid"]
    worker.kill()
    worker.wait()
    os.kill(pid, signal.SIGKILL)
    waiting = pool.run(deployment)
    pool.worker("only", node_cpus=2)
    pool.await_started(dies, times=2)
    pool.await_state(dies, "Completed")
    pool.await_state(waiting, "Completed", 90)
    pool.await_state(lives, "Completed")
    assert [line["what"] for line in pool.lines(lives)] == ["start", "end"], "it went on, and ran once"
    until(lambda: "trimtab.attempt.1.to" in pool.state(lives).labels, 30, "until when it had its devices")
    assert until(lambda: not list(Path(pool.folder / "host-only").glob("*.json")), 30, "claims given back")
