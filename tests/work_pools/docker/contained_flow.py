"""Flows that write down what they find in their container."""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path

from prefect import flow
from prefect.runtime import flow_run


@flow
def contained(folder: str, seconds: float = 0.0) -> None:
    """What it sees at its start, and its end."""
    told = {name: value for name, value in os.environ.items() if name.startswith("TRIMTAB_GPU_")}
    write(folder, "start", gpus=gpus(), cuda=os.environ["CUDA_VISIBLE_DEVICES"], told=told, **limits())
    time.sleep(seconds)
    write(folder, "end")


@flow
def greedy(folder: str, seconds: float = 0.0) -> None:
    """Takes 600 MiB, or is ended by the kernel before it has them."""
    write(folder, "start", **limits())
    taken = b"x" * (600 << 20)
    write(folder, "end", taken=len(taken))


def gpus() -> list[str]:
    """UUIDs of the devices that the driver shows here: GPUs, or the slices of those that are in slices."""
    import pynvml as nvml

    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return []
    found = []
    for gpu in map(nvml.nvmlDeviceGetHandleByIndex, range(nvml.nvmlDeviceGetCount())):
        slices = []
        with contextlib.suppress(nvml.NVMLError):  # not a GPU in slices, or no more of them
            for number in range(nvml.nvmlDeviceGetMaxMigDeviceCount(gpu)):
                slices.append(nvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, number))
        found += [str(nvml.nvmlDeviceGetUUID(device)) for device in slices or [gpu]]
    return found


def limits() -> dict[str, object]:
    """Of the control group, version 1 or 2; and the CPUs that it may use."""
    group = Path("/sys/fs/cgroup")
    if (group / "memory.max").exists():
        memory, quota = (group / "memory.max").read_text(), (group / "cpu.max").read_text().split()[0]
    else:
        memory = (group / "memory/memory.limit_in_bytes").read_text()
        quota = (group / "cpu/cpu.cfs_quota_us").read_text()
    return {"memory": int(memory), "quota_us": int(quota), "cpus": sorted(os.sched_getaffinity(0))}


def write(folder: str, what: str, **facts: object) -> None:
    with (Path(folder) / f"{flow_run.get_id()}.jsonl").open("a") as file:
        file.write(json.dumps({"at_s": time.time(), "what": what, **facts}) + "\n")
