"""gpu-docker workers on a real server and a real engine: exact devices and limits, and what becomes of runs."""

from __future__ import annotations

import itertools
import re
import signal
import subprocess
import sys
import uuid

import nvml_driver
import pytest
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.exceptions import PrefectHTTPStatusError
from prefect.states import Cancelling
from worker.conftest import HERE as FLOWS
from worker.conftest import until

from .conftest import DockerPool

pytestmark = pytest.mark.timeout(400)


def gpus_of(pool: DockerPool, *lines: str) -> dict[str, str]:
    """Sets what the engine's host has; returns what makes a worker see it."""
    assert pool.engine is not None
    if pool.engine.driver is None:
        pytest.skip("the engine has no stand-in NVIDIA driver: it was not started here, or there is no C compiler")
    pool.engine.driver.set(*lines)
    return pool.engine.driver.variables()


def test_a_container_has_what_its_run_was_given_and_no_device_is_given_twice(docker_pool: DockerPool) -> None:
    """Two workers on one host, one of processes and one of containers, and two GPUs; from what the runs wrote down."""
    from trimtab_work_pools.worker import GpuProcessWorker

    pool = docker_pool
    driver = gpus_of(pool, nvml_driver.gpu(0), nvml_driver.gpu(1))
    other = f"gpu-{uuid.uuid4().hex[:8]}"
    template = GpuProcessWorker.get_default_base_job_template()
    pool.client.create_work_pool(WorkPoolCreate(name=other, type="gpu-process", base_job_template=template))
    as_process = pool.client.create_deployment(
        flow_id=pool.client.create_flow_from_name("recorded"),
        name=f"process-{pool.name}",
        work_pool_name=other,
        entrypoint=f"{FLOWS / 'recorded_flow.py'}:recorded",
        path=str(FLOWS),
        pull_steps=[{"prefect.deployments.steps.set_working_directory": {"directory": str(FLOWS)}}],
        job_variables={"resources": {"gpus": 1}, "working_dir": str(FLOWS)},
    )
    in_container = pool.deploy("gpu", "contained_flow.py:contained", gpus=1, cpus=1, memory_mib=700)
    try:
        pool.worker("only", driver)
        pool.worker("only", driver, kind="gpu-process", pool=other)
        containers = [pool.run(in_container, seconds=1.0) for _ in range(2)]
        processes = [pool.run(as_process, seconds=4.0) for _ in range(3)]
        for run_id in (*containers, *processes):
            pool.await_state(run_id, "Completed", 150)
        spans = []
        for run_id in containers:
            start, end = pool.lines(run_id)
            assert start["gpus"] == [start["cuda"]], "it sees the GPU it was given, and no other"
            assert (start["memory"], start["quota_us"], len(start["cpus"])) == (700 << 20, 100_000, 1)
            spans.append((start["cuda"], start["at_s"], end["at_s"]))
        for run_id in processes:
            start, end = pool.lines(run_id)
            spans.append((start["CUDA_VISIBLE_DEVICES"], start["at_s"], end["at_s"]))
        for device in ("GPU-0", "GPU-1"):
            of_device = sorted(span[1:] for span in spans if span[0] == device)
            assert all(one[1] <= two[0] for one, two in itertools.pairwise(of_device)), of_device
        assert {span[0] for span in spans} == {"GPU-0", "GPU-1"}
    finally:
        pool.client.delete_work_pool(other)


def test_the_form_is_strict(docker_pool: DockerPool) -> None:
    with pytest.raises(PrefectHTTPStatusError, match="gpu_memory"):
        docker_pool.deploy("typo", gpus=1, gpu_memory=5)


@pytest.mark.long
def test_what_cannot_be_started_leaves_no_container(docker_pool: DockerPool) -> None:
    """The driver on the host loses the GPU that was given, just before the container starts; then a missing image."""
    pool = docker_pool
    driver = gpus_of(pool, nvml_driver.gpu(0))
    deployment = pool.deploy("gpu", "contained_flow.py:contained", gpus=1)
    assert pool.engine is not None
    assert pool.engine.driver is not None
    # What the engine's toolkit reads has no such GPU; what the worker reads has it.
    (own := pool.folder / "own.state").write_text(pool.engine.driver.state.read_text())
    pool.engine.driver.set()
    pool.worker("only", {**driver, "NVML_FAKE_STATE": str(own)})
    refused = pool.run(deployment)
    shown = pool.await_state(refused, "StartFailed", 120, final=True)
    assert "GPU-0: unknown device" in str(shown.state and shown.state.message)
    assert pool.container(refused) is None
    missing = pool.run(pool.deploy("none"), job_variables={**pool.variables(cpus=1), "image": "nobody/has-this:1"})
    assert "nobody/has-this" in str(pool.await_state(missing, "StartFailed", 90, final=True).state)
    assert until(lambda: not list((pool.folder / "host").glob("*.json")), 30, "claims given back")


CHATTY = (
    "import os, sys\n"
    "claim = os.environ['TRIMTAB_CLAIM']\n"
    "for number in range(30000):\n"
    "    print(f'line {number} of {claim}')\n"
    "sys.stdout.write(f'the last line of {claim}: \u00e4\u4e16')\n"
    "sys.stdout.flush()\n"
    "os._exit(7)\n"
)


def test_all_that_a_container_prints_arrives_also_its_last_line(docker_pool: DockerPool) -> None:
    """It prints much, and exits at once; without the end of a line."""
    pool = docker_pool
    (pool.folder / "chatty.py").write_text(CHATTY)
    command = f"python3 {pool.folder / 'chatty.py'}"
    pool.worker("only")
    run_id = pool.run(pool.deploy("chatty"), job_variables={**pool.variables(cpus=1), "command": command})
    log = pool.folder / "worker-only-0.log"
    until(lambda: "the last line of" in log.read_text(), 120, f"its last line; {pool.logs()}")
    pool.await_state(run_id, "StartFailed", 120, final=True)
    until(lambda: not list((pool.folder / "host").glob("*.json")), 60, "the claim given back")
    claims = set(re.findall(r"the last line of (\w{32}): \u00e4\u4e16\n", log.read_text()))
    assert claims
    for claim in claims:
        assert len(re.findall(rf"^line \d+ of {claim}$", log.read_text(), re.MULTILINE)) == 30_000


@pytest.mark.long
def test_out_of_memory_comes_back_larger(docker_pool: DockerPool) -> None:
    run_id = docker_pool.run(docker_pool.deploy("greedy", "contained_flow.py:greedy", memory_mib=450))
    docker_pool.worker("only")
    second = docker_pool.await_started(run_id, times=2, seconds=180)
    docker_pool.await_state(run_id, "Completed", 90)
    assert (docker_pool.lines(run_id)[0]["memory"], second["memory"]) == (450 << 20, 900 << 20)
    assert docker_pool.state(run_id).labels["trimtab.started-again.OutOfMemory"] == 1


@pytest.mark.long
def test_a_worker_that_is_stopped_gives_its_runs_back_when_their_containers_have_ended(docker_pool: DockerPool) -> None:
    pool = docker_pool
    worker = pool.worker("only")
    run_id = pool.run(pool.deploy("any", cpus=1, preemptible=True), seconds=100)
    pool.await_started(run_id)
    worker.send_signal(signal.SIGTERM)
    worker.wait(90)
    assert pool.state(run_id).state_name == "Preempted"
    assert [line["what"] for line in pool.lines(run_id)] == ["start", "TerminationSignal"]
    container = pool.container(run_id)
    assert container is not None
    assert container.status == "exited"
    states = [state.name for state in pool.client.read_flow_run_states(uuid.UUID(run_id))]
    assert "Crashed" not in states, "it was told to stop; nothing crashed"
    assert list((pool.folder / "host").glob("*.json")) == []


@pytest.mark.long
def test_a_cancelled_run_is_told_and_its_container_ends(docker_pool: DockerPool) -> None:
    pool = docker_pool
    pool.worker("only")
    run_id = pool.run(pool.deploy("any", cpus=1), seconds=100)
    pool.await_started(run_id)
    pool.client.set_flow_run_state(uuid.UUID(run_id), Cancelling())
    pool.await_state(run_id, "Cancelled", 90)
    assert [line["what"] for line in pool.lines(run_id)] == ["start", "TerminationSignal"]
    assert until(lambda: not list((pool.folder / "host").glob("*.json")), 60, "claims given back")


@pytest.mark.long
def test_a_killed_worker_is_survived_by_its_containers(docker_pool: DockerPool) -> None:
    """kill -9: one container lives, although the claims were lost too, and is adopted; the other was killed with the
    worker, and its run starts again."""
    pool = docker_pool
    deployment = pool.deploy("any", cpus=1)
    worker = pool.worker("only", node_cpus=2)
    lives, dies = pool.run(deployment, seconds=25), pool.run(deployment, seconds=3)
    pool.await_started(lives)
    pool.await_started(dies)
    worker.kill()
    worker.wait()
    container = pool.container(dies)
    assert container is not None
    container.kill()
    (pool.folder / "host" / f"{lives}.json").unlink()
    pool.worker("only", node_cpus=2)
    pool.await_started(dies, times=2, seconds=120)
    pool.await_state(dies, "Completed")
    pool.await_state(lives, "Completed", 90)
    assert [line["what"] for line in pool.lines(lives)] == ["start", "end"], "it went on, and ran once"
    assert until(lambda: not list((pool.folder / "host").glob("*.json")), 30, "claims given back")


def test_an_engine_elsewhere_or_none_is_refused(outside: dict[str, str]) -> None:
    code = "from trimtab_work_pools.worker.containers import Containers; Containers()"
    for url, said in (
        ("tcp://10.0.0.1:2375", "EngineError: DOCKER_HOST is 'tcp://10.0.0.1:2375': the engine must be on the host"),
        ("unix:///no/sock", "EngineError: no Docker engine answers at unix:///no/sock"),
    ):
        env = {**outside, "DOCKER_HOST": url}
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
        assert said in done.stderr
