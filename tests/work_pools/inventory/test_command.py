"""`python -m trimtab_work_pools.inventory`, as a person runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from nvml_driver import Driver, gpu, line


def run(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(part for part in sys.path if part)
    return subprocess.run(
        [sys.executable, "-m", "trimtab_work_pools.inventory", *arguments],
        capture_output=True,
        text=True,
        env={**(environment or os.environ), "PYTHONPATH": path, "COLUMNS": "100"},
    )


def test_a_host_without_gpus(driver: Driver, tmp_path: Path) -> None:
    driver.set(state="gone")
    done = run("--folder", str(tmp_path), "--name", "n7", "--label", "region=eu", environment=driver.environment())
    assert (done.returncode, done.stderr) == (0, "")
    assert "n7  labels: region=eu" in done.stdout
    assert "no GPUs" in done.stdout
    assert "the NVIDIA driver is not loaded" in done.stdout


def test_gpus_for_a_person(driver: Driver) -> None:
    driver.set(
        gpu(0, nvlink="1"),
        gpu(1, nvlink="0", temperature=93, power=None),
        gpu(2, mig=1, numa=1),
        line("slice", gpu=2, gi=3, ci=0, uuid="MIG-x", profile="2g.20gb", memory=19968, used=1),
    )
    done = run(environment=driver.environment())
    assert (done.returncode, done.stderr) == (0, "")
    shown = [" ".join(row.split()) for row in done.stdout.splitlines()]
    assert "0 0.5/79.6 0.5 0% 9.0 0 71 33 ok" in shown
    assert "1 0.5/79.6 0.5 0% 9.0 0 ? 93 too_hot" in shown
    assert "2:3/0 2g.20gb 0.0/19.5 0.0 ok" in shown
    assert "GPU 0: NVIDIA H100 80GB HBM3, GPU-0, NVL 1; SYS 2" in shown
    assert "note: power is not told by the driver for GPU 1" in shown
    assert "note: GPU 1: 93 C, the limit is 87 C, to be used again below 82 C" in shown


def test_gpus_for_a_program(driver: Driver) -> None:
    driver.set(gpu(0), gpu(1, ecc=4))
    environment = {**driver.environment(), "TRIMTAB_NODE_LABELS": "tier=gold"}
    done = run("--json", environment=environment)
    assert (done.returncode, done.stderr) == (0, "")
    shown = json.loads(done.stdout)
    assert shown["host"]["labels"] == [["tier", "gold"]]
    assert [one["health"]["faults"] for one in shown["devices"]["gpus"]] == [[], ["ecc_uncorrected"]]
    assert shown["devices"]["gpus"][0]["topology"] == {"1": "PHB"}


def test_a_label_that_is_none() -> None:
    done = run("--label", "region")
    assert done.returncode == 2
    assert "must be key=value" in done.stderr
    assert "Traceback" not in done.stderr
