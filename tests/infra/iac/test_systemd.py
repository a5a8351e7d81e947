"""The worker's unit agrees with the worker: its type, its settings, and the time that a drain takes."""

from __future__ import annotations

import re
from pathlib import Path

from trimtab_blocks.settings import unknown
from trimtab_work_pools.worker import GpuProcessWorker

ROOT = Path(__file__).parents[3]
UNIT = (ROOT / "infra/systemd/trimtab-worker.service").read_text()
EXAMPLE = dict(
    line.split("=", 1)
    for line in (ROOT / "infra/systemd/worker.env.example").read_text().splitlines()
    if not line.startswith("#")
)


def _value(key: str) -> str:
    found = re.findall(rf"^{key}=(.*)$", UNIT, re.MULTILINE)
    assert len(found) == 1, f"{key} is given {len(found)} times"
    return str(found[0])


def test_the_type_is_the_one_that_the_worker_registers() -> None:
    assert f"--type {GpuProcessWorker.type}" in _value("ExecStart")


def test_systemd_waits_longer_than_a_drain() -> None:
    drain_s = int(EXAMPLE["TRIMTAB_DRAIN_SECONDS"]) + int(EXAMPLE["TRIMTAB_STOP_GRACE_SECONDS"])
    assert int(_value("TimeoutStopSec")) >= drain_s + 30
    assert _value("KillSignal") == "SIGTERM"


def test_every_setting_of_ours_is_one_that_the_code_reads() -> None:
    ours = set(re.findall(r"\bTRIMTAB_[A-Z_]+\b", UNIT + "\n".join(EXAMPLE)))
    assert unknown(dict.fromkeys(ours, "")) == []


def test_no_secret_stands_in_the_unit_or_the_example() -> None:
    assert not re.search(r"(AUTH_STRING|PASSWORD|SECRET\w*|TOKEN)=", UNIT + "\n".join(f"{k}=" for k in EXAMPLE))


def test_gpu_devices_stay_visible() -> None:
    assert not re.search(r"^(PrivateDevices|DevicePolicy|MemoryDenyWriteExecute)=", UNIT, re.MULTILINE)
