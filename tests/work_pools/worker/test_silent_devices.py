"""What runs are told of devices by a real worker, and a GPU whose driver never answers: nobody else is held up."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import nvml_driver
import pytest

from .conftest import Pool, until

pytestmark = pytest.mark.timeout(300)


def test_a_gpu_that_never_answers_holds_up_nobody(pool: Pool, tmp_path: Path) -> None:
    driver = nvml_driver.Driver(nvml_driver.build(tmp_path), tmp_path)
    gpus = [nvml_driver.gpu(0), nvml_driver.gpu(1)]
    driver.set(*gpus)
    deployment = pool.deploy("gpu", gpus=1)
    worker = pool.worker(
        "only", more=driver.variables(), node_cpus=4, device_seconds=1, drain_seconds=1, stop_grace_seconds=10
    )
    before = pool.run(deployment, seconds=600)
    kept = pool.await_started(before)["CUDA_VISIBLE_DEVICES"]
    silent = 1 - int(kept[-1])
    driver.set(*gpus, nvml_driver.line("hangs", call="nvmlDeviceGetTemperature", gpu=silent))
    log = pool.folder / "worker-only-0.log"
    said = "its temperature has not answered within 1 s"
    until(lambda: said in " ".join(log.read_text().split()), 60, f"the worker says so in {log.read_text()}")
    waits = pool.run(deployment)
    pool.await_state(waits, "AwaitingResources")  # the only GPU that is free does not answer
    driver.set(*gpus)
    assert pool.await_started(waits, seconds=60)["CUDA_VISIBLE_DEVICES"] == f"GPU-{silent}", (
        "it is used when it is back"
    )
    pool.await_state(waits, "Completed")
    driver.set(*gpus, nvml_driver.line("hangs", call="nvmlSystemGetDriverVersion"))
    began_s = time.monotonic()
    worker.send_signal(signal.SIGTERM)
    worker.wait(90)
    assert time.monotonic() - began_s < 60
    assert [line["what"] for line in pool.lines(before)] == ["start", "TerminationSignal"]


def test_devices_are_named_as_the_pool_or_the_deployment_says(pool: Pool, tmp_path: Path) -> None:
    driver = nvml_driver.Driver(nvml_driver.build(tmp_path), tmp_path)
    driver.set(nvml_driver.gpu(0), nvml_driver.gpu(1))
    deployment = pool.deploy("gpu", gpus=1)
    pool.worker("only", more={**driver.variables(), "CUDA_VISIBLE_DEVICES": "7"}, node_cpus=4)
    both = {"resources": {"gpus": 2}, "working_dir": str(pool.folder)}
    runs = [pool.run(deployment, seconds=8), pool.run(deployment, seconds=8, job_variables={"device_ids": "index"})]
    uuid_run, index_run = (pool.await_started(run_id) for run_id in runs)
    assert uuid_run["CUDA_VISIBLE_DEVICES"] == f"GPU-{1 - int(index_run['CUDA_VISIBLE_DEVICES'])}"
    assert index_run["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert uuid_run["MASTER_ADDR"] == index_run["MASTER_ADDR"] == "127.0.0.1"
    assert uuid_run["MASTER_PORT"] != index_run["MASTER_PORT"]
    other = pool.run(deployment, job_variables={**both, "env": {"CUDA_VISIBLE_DEVICES": "0,1,2"}})
    shown = pool.await_state(other, "StartFailed", 90, final=True)
    assert shown.state
    assert "names 2, which the run was not given" in str(shown.state.message)
    assert pool.lines(other) == []
    own = pool.run(deployment, job_variables={**both, "env": {"CUDA_VISIBLE_DEVICES": "1"}})
    assert pool.await_started(own)["CUDA_VISIBLE_DEVICES"] == "1"
