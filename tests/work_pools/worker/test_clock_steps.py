"""The wall clock of a host is stepped under its workers: no claim dies, no GPU is given twice, every end is in time."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from pathlib import Path

import nvml_driver
import pytest

from trimtab_work_pools.host.process import find

from .conftest import HERE, Pool, until

pytestmark = pytest.mark.timeout(300)

FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
STEPS_S = (1, -1, 3600, -3600)


class WallClock:
    """Of the processes that have these variables. What is monotonic is the kernel's."""

    def __init__(self, folder: Path) -> None:
        compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
        if FAKETIME is None or compiler is None:
            pytest.skip("libfaketime (package faketime) or a C compiler is not installed")
        self.file = folder / "wall-clock"
        sleeps = folder / "sleeps.so"
        subprocess.run([compiler, "-shared", "-fPIC", "-o", str(sleeps), str(HERE / "step_clock.c")], check=True)
        self.step(0)
        self.variables = {
            "LD_PRELOAD": f"{sleeps} {FAKETIME}",
            "FAKETIME_TIMESTAMP_FILE": str(self.file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }

    def step(self, to_s: int) -> None:
        """It is so far off from now on."""
        draft = self.file.with_suffix(".new")
        draft.write_text(f"{to_s:+d}\n")
        draft.replace(self.file)


def test_steps_of_the_wall_clock_change_nothing(pool: Pool, tmp_path: Path) -> None:
    """Two workers share a host and its one GPU; the clock of the one that holds it is stepped."""
    wall = WallClock(tmp_path)
    try:
        driver = nvml_driver.Driver(nvml_driver.build(tmp_path), tmp_path)
    except nvml_driver.NoCompiler as error:
        pytest.skip(f"the stand-in NVIDIA driver cannot be built: {error}")
    driver.set(nvml_driver.gpu(0))
    quick = {"PREFECT_WORKER_QUERY_SECONDS": "1", **driver.variables()}
    host = pool.folder / "host"
    whole = pool.deploy("whole", "leaving_flow.py:leaving", gpus=1)
    stepped = pool.worker("stepped", {**quick, **wall.variables}, host_dir=host, drain_seconds=0, stop_grace_seconds=3)
    held = pool.run(whole, seconds=1000)
    start = pool.await_started(held)
    pool.worker("other", quick, host_dir=host)
    until(lambda: "Worker 'other-1' started" in pool.logs(), 60, "the other worker")
    waits = pool.run(whole)
    for step_s in STEPS_S:
        wall.step(step_s)
        until_s = time.monotonic() + 5
        while time.monotonic() < until_s:  # several rounds of both workers
            assert find(start["pid"]).ticks, pool.logs()
            assert pool.lines(waits) == [], "the GPU was given twice"
            time.sleep(0.2)
        assert stepped.poll() is None
    assert [one.stem for one in host.glob("*.json")] == [held]
    wall.step(-3600)
    began_s = time.monotonic()
    stepped.send_signal(signal.SIGTERM)
    wall.step(0)
    pool.await_started(waits, seconds=60)
    assert not find(start["pid"]).ticks
    assert not [pid for pid in start["left"].values() if find(pid).ticks], "those that ignore SIGTERM were killed"
    assert time.monotonic() - began_s < 45
    stepped.wait(60)
