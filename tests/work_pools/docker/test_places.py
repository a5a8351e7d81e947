"""gpu-docker workers: parts of a GPU, runs that make way and go on, runs over several containers, a wrong pool."""

from __future__ import annotations

import json

import nvml_driver
import pytest
from worker.conftest import until

from .conftest import DockerPool
from .test_gpu_docker import gpus_of

pytestmark = pytest.mark.timeout(400)


@pytest.mark.long
def test_two_containers_share_a_gpu_and_a_third_waits(docker_pool: DockerPool) -> None:
    pool = docker_pool
    half = pool.deploy("half", "contained_flow.py:contained", gpu_share=0.5)
    pool.worker("only", gpus_of(pool, nvml_driver.gpu(0)))
    runs = [pool.run(half, seconds=8) for _ in range(3)]
    for run_id in runs:
        pool.await_state(run_id, "Completed", 150)
    spans = [pool.lines(run_id) for run_id in runs]
    first, second, third = sorted(spans, key=lambda lines: lines[0]["at_s"])
    assert second[0]["at_s"] < first[1]["at_s"], "two at once"
    assert third[0]["at_s"] > min(first[1]["at_s"], second[1]["at_s"]), "the third has waited"
    for start, _ in spans:
        assert start["gpus"] == [start["cuda"]] == ["GPU-0"]
        assert start["told"]["TRIMTAB_GPU_SHARE"] == "0.5"
        assert 0.49 < float(start["told"]["TRIMTAB_GPU_MEMORY_FRACTION"]) <= 0.5


@pytest.mark.long
def test_containers_get_a_slice_each(docker_pool: DockerPool) -> None:
    """A GPU in three slices of two sizes, beside a whole one: a run sees the slice that it was given, and no other."""
    pool = docker_pool
    slices = [
        nvml_driver.line("slice", gpu=0, gi=number, ci=0, uuid=f"MIG-{number}", profile=profile, memory=memory, used=9)
        for number, profile, memory in ((1, "3g.40gb", 40448), (2, "1g.10gb", 9856), (3, "1g.10gb", 9856))
    ]
    driver = gpus_of(pool, nvml_driver.gpu(0, mig=1, utilization=None), *slices, nvml_driver.gpu(1))
    small = pool.deploy("small", "contained_flow.py:contained", gpus=1, gpu_mig_profile="1g.10gb")
    large = pool.deploy("large", "contained_flow.py:contained", gpus=1, gpu_mig_profile="3g.40gb")
    pool.worker("only", driver)
    runs = [pool.run(small, seconds=8), pool.run(small, seconds=8), pool.run(large, seconds=8)]
    for run_id in runs:
        pool.await_state(run_id, "Completed", 150)
    starts = [pool.lines(run_id)[0] for run_id in runs]
    assert all(start["gpus"] == [start["cuda"]] for start in starts), starts
    assert {start["cuda"] for start in starts[:2]} == {"MIG-2", "MIG-3"}
    assert starts[2]["cuda"] == "MIG-1"
    assert max(start["at_s"] for start in starts) < min(pool.lines(run_id)[1]["at_s"] for run_id in runs), "all at once"


@pytest.mark.long
def test_a_training_makes_way_and_goes_on_from_its_checkpoint(docker_pool: DockerPool) -> None:
    """Signal, checkpoint, the end of the container, the more important run, and then the training again."""
    pool = docker_pool
    body = {"name": f"trimtab-policy-{pool.name}", "value": {"min_run_s": 0.5}}
    pool.client._client.post("/variables/", json=body)
    modest = pool.deploy("modest", "training_flow.py:training", cpus=2, preemptible=True)
    urgent = pool.deploy("urgent", cpus=2, priority=5)
    pool.worker("only", node_cpus=2)
    first = pool.run(modest, seconds=12)
    until(lambda: len(steps(pool)) > 25, 90, "the training is under way")
    second = pool.run(urgent, seconds=0.5)
    pool.await_state(second, "Completed", 120)
    stopped = len(steps(pool))
    pool.await_state(first, "Completed", 120)
    assert 25 < stopped < 120
    assert [one["step"] for one in steps(pool)] == list(range(120)), "no step was lost, and none was done twice"
    names = [state.name for state in pool.client.read_flow_run_states(pool.state(first).id)]
    assert "Preempted" in names
    assert "Crashed" not in names
    assert pool.state(first).run_count == 2


def steps(pool: DockerPool) -> list[dict[str, int]]:
    path = pool.folder / "steps.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.long
def test_a_gang_of_two_containers_meets_and_the_loss_of_one_starts_all_again(docker_pool: DockerPool) -> None:
    """Two workers here stand for two hosts: their containers meet at MASTER_ADDR, on the network of the hosts."""
    pool = docker_pool
    deployment = pool.deploy("gang", "gang_flow.py:gang", cpus=1, nodes=2)
    for node in "ab":
        pool.worker(node, node_cpus=1, host_dir=pool.folder / f"host-{node}")
    broken = pool.run(deployment, seconds=10)

    def ranks(count: int) -> list[dict[str, int | str]]:
        path = pool.folder / "gang.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return lines if len(lines) == count else []

    met = until(lambda: ranks(2), 120, f"both ranks have started; {pool.logs()}")
    assert [sorted(str(one[key]) for one in met) for key in ("node", "rank")] == [["a", "b"], ["0", "1"]]
    of_rank_1 = until(lambda: member(pool, broken), 30, "the container of rank 1")
    of_rank_1.kill()
    again = pool.await_state(broken, "Completed", 180)
    assert again.labels["trimtab.started-again.GangBroken"] == 1
    assert (pool.folder / "sum").read_text() == "1"
    assert ranks(4), "all were started again"
    assert until(lambda: not list(pool.folder.glob("host-*/*.json")), 60, "claims given back")


def member(pool: DockerPool, leader: str) -> object:
    """The running container that is not that of the run itself."""
    assert pool.docker is not None
    running = pool.docker.containers.list(filters={"label": "trimtab.claim-id"})
    others = [one for one in running if one.labels["io.prefect.flow-run-id"] != leader]
    return others[0] if others else None


def test_a_worker_on_a_pool_of_another_type_does_not_start(docker_pool: DockerPool) -> None:
    pool = docker_pool
    pool.client._client.delete(f"/work_pools/{pool.name}")
    pool.client._client.post("/work_pools/", json={"name": pool.name, "type": "docker"})
    worker = pool.worker("only", node_cpus=1)
    assert worker.wait(60) == 1
    assert "Traceback" not in pool.logs()
    said = [line for line in pool.logs().splitlines() if "does not start" in line]
    assert len(said) == 1, pool.logs()
    assert f"work pool {pool.name!r} is of type 'docker', and this worker is of type 'gpu-docker'" in said[0]
    assert "prefect work-pool create NAME --type gpu-docker" in said[0]
