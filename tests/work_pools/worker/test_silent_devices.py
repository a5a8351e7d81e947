"""A GPU whose driver never answers, under a real worker: the runs of the others go on, and so does SIGTERM."""

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
    until(lambda: "temperature has not answered within 1 s" in pool.logs(), 60, "the worker says so")
    waits = pool.run(deployment)
    pool.await_state(waits, "NoNodeFits")  # the only GPU that is free does not answer
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
