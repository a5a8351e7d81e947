"""The inventory through the real nvidia-ml-py and a library written in C, as the machine changes under it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from nvml.library import FakeNvml, build

READER = """
import json, sys
from dataclasses import asdict
from trimtab_work_pools.inventory import Nvml
nvml = Nvml()
for line in sys.stdin:
    gpus = nvml.read([int(pid) for pid in line.split()])
    print(json.dumps({"gpus": [asdict(gpu) for gpu in gpus], "problems": nvml.problems}, default=sorted), flush=True)
"""
TWO = (
    "gpu 0 uuid=GPU-a name=NVIDIA_A100 memory=40960 capability=8.0",
    "gpu 1 uuid=GPU-b name=NVIDIA_A100 memory=40960 capability=8.0",
)


@dataclass
class Reader:
    """A process that reads the machine whenever it is asked: a library is loaded once in a process."""

    machine: FakeNvml
    process: subprocess.Popen[str]

    def read(self, *own_pids: int) -> tuple[list[dict[str, Any]], list[str]]:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(" ".join(map(str, own_pids)) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        return answer["gpus"], answer["problems"]


@pytest.fixture
def reader(tmp_path: Path, outside: dict[str, str]) -> Iterator[Reader]:
    machine = build(tmp_path)
    env = {**outside, **machine.env}
    with subprocess.Popen(
        [sys.executable, "-c", READER], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield Reader(machine, process)
        assert process.stdin
        process.stdin.close()
        assert process.wait(20) == 0


def test_what_a_gpu_has(reader: Reader) -> None:
    reader.machine.show(*TWO, "gpu 2 uuid=GPU-c name=Tesla_T4 memory=15360 capability=7.5", "link 0 1", "link 1 0")
    gpus, problems = reader.read()
    assert problems == []
    assert [(gpu["uuid"], gpu["model"], gpu["memory_total_mib"], gpu["compute_capability"]) for gpu in gpus] == [
        ("GPU-a", "NVIDIA A100", 40_960, [8, 0]),
        ("GPU-b", "NVIDIA A100", 40_960, [8, 0]),
        ("GPU-c", "Tesla T4", 15_360, [7, 5]),
    ]
    assert [gpu["nvlink_peers"] for gpu in gpus] == [[1], [0], []]
    assert all(gpu["healthy"] for gpu in gpus)


def test_gpus_on_a_switch_reach_each_other(reader: Reader) -> None:
    reader.machine.show(
        *TWO, "gpu 2 uuid=GPU-c name=A memory=1 capability=8.0", *(f"link {gpu} switch" for gpu in range(3))
    )
    assert [gpu["nvlink_peers"] for gpu in reader.read()[0]] == [[1, 2], [0, 2], [0, 1]]


def test_memory_of_others_is_in_use_and_ours_is_not(reader: Reader) -> None:
    reader.machine.show(*TWO, "process 0 pid=4711 memory=1000", "process 0 pid=4712 memory=3000")
    assert [gpu["memory_used_mib"] for gpu in reader.read()[0]] == [4096, 0]
    assert [gpu["memory_used_mib"] for gpu in reader.read(4712)[0]] == [1024, 0]
    assert [gpu["memory_used_mib"] for gpu in reader.read(4711, 4712)[0]] == [0, 0]


@pytest.mark.parametrize(
    ("fault", "said"),
    [("ecc=3", "GPU 1 has 3 uncorrectable memory errors"), ("temperature=99", "GPU 1 is at 99 degrees")],
)
def test_an_unwell_gpu_is_said_and_not_given(reader: Reader, fault: str, said: str) -> None:
    reader.machine.show(*TWO)
    assert [gpu["healthy"] for gpu in reader.read()[0]] == [True, True]
    reader.machine.show(TWO[0], f"{TWO[1]} {fault}")
    gpus, problems = reader.read()
    assert [gpu["healthy"] for gpu in gpus] == [True, False]
    assert problems == [f"{said}: it is not given to new runs"]
    reader.machine.show(*TWO)
    assert [gpu["healthy"] for gpu in reader.read()[0]] == [True, True]


def test_a_gpu_that_falls_off_the_bus_is_still_seen(reader: Reader) -> None:
    reader.machine.show(*TWO)
    reader.read()
    reader.machine.show(TWO[0], f"{TWO[1]} lost=1")
    gpus, problems = reader.read()
    assert [(gpu["uuid"], gpu["healthy"]) for gpu in gpus] == [("GPU-a", True), ("GPU-b", False)]
    assert "GPU 1 (NVIDIA A100) has fallen off the bus" in problems[0]
    reader.machine.show(*TWO)
    assert [gpu["healthy"] for gpu in reader.read()[0]] == [True, True]


def test_the_driver_goes_and_comes_back(reader: Reader) -> None:
    reader.machine.show(*TWO)
    reader.read()
    reader.machine.show("driver gone")
    gpus, problems = reader.read()
    assert [gpu["healthy"] for gpu in gpus] == [False, False]
    assert "the NVIDIA driver does not answer" in problems[0]
    reader.machine.show(*TWO)
    gpus, problems = reader.read()
    assert ([gpu["healthy"] for gpu in gpus], problems) == ([True, True], [])


def test_no_driver_is_a_node_without_gpus(reader: Reader) -> None:
    reader.machine.show("driver gone")
    gpus, problems = reader.read()
    assert gpus == []
    assert "this node has no GPUs to offer" in problems[0]
    reader.machine.show(*TWO)
    assert len(reader.read()[0]) == 2, "a driver that is loaded later is found"


@pytest.mark.parametrize(
    "call",
    [
        "nvmlDeviceGetTotalEccErrors",
        "nvmlDeviceGetTemperature",
        "nvmlDeviceGetComputeRunningProcesses",
        "nvmlDeviceGetPciInfo",
        "nvmlDeviceGetCudaComputeCapability",
        "nvmlDeviceGetMigMode",
        "nvmlDeviceGetNvLinkState",
        "nvmlDeviceGetNvLinkRemoteDeviceType",
        "nvmlDeviceGetName",
    ],
)
def test_a_call_that_a_gpu_does_not_support_is_no_trouble(reader: Reader, call: str) -> None:
    reader.machine.show(*TWO, "link 0 1", "link 1 0", f"unsupported {call}")
    gpus, problems = reader.read()
    assert problems == []
    assert [(gpu["uuid"], gpu["healthy"]) for gpu in gpus] == [("GPU-a", True), ("GPU-b", True)]


def test_a_gpu_without_a_uuid_is_left_out_and_said(reader: Reader) -> None:
    reader.machine.show(*TWO, "unsupported nvmlDeviceGetUUID")
    gpus, problems = reader.read()
    assert gpus == []
    assert problems == [f"GPU {index} cannot be read (Not Supported): it is left out" for index in (0, 1)]


def test_a_gpu_that_is_cut_appears_as_its_slices(reader: Reader) -> None:
    reader.machine.show(
        *TWO,
        "slice 0 uuid=MIG-x profile=1g.5gb memory=4864",
        "slice 0 uuid=MIG-y profile=3g.20gb memory=19968",
    )
    gpus, problems = reader.read()
    assert problems == []
    assert [(gpu["uuid"], gpu["index"], gpu["model"], gpu["mig_profile"], gpu["memory_total_mib"]) for gpu in gpus] == [
        ("GPU-b", 1, "NVIDIA A100", "", 40_960),
        ("MIG-x", 100, "NVIDIA A100", "1g.5gb", 4864),
        ("MIG-y", 101, "NVIDIA A100", "3g.20gb", 19_968),
    ]
    assert gpus[1]["compute_capability"] == [8, 0]


def test_reading_is_cheap(reader: Reader) -> None:
    """Eight GPUs, all linked: it is read at every plan."""
    code = "import timeit; from trimtab_work_pools.inventory import Nvml; nvml = Nvml(); nvml.read()\n"
    code += "print(min(timeit.repeat(nvml.read, number=5, repeat=5)) / 5)"
    lines = [f"gpu {index} uuid=GPU-{index} name=A memory=40960 capability=8.0" for index in range(8)]
    reader.machine.show(*lines, *(f"link {one} {two}" for one in range(8) for two in range(8) if one != two))
    env = {"PATH": "/usr/bin:/bin", **reader.machine.env}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    taken_s = float(done.stdout)
    print(f"8 GPUs read in {1000 * taken_s:.1f} ms, most of it the fake reading its file")
    assert taken_s < 0.2


@pytest.mark.gpu
def test_real_gpus() -> None:
    """Run with `-m gpu` on a host that has some."""
    from trimtab_work_pools.inventory import Nvml

    gpus = Nvml().read()
    if not gpus:
        pytest.skip("no NVIDIA GPU on this machine")
    assert all(gpu.uuid and gpu.memory_total_mib > 0 and gpu.compute_capability > (0, 0) for gpu in gpus)
