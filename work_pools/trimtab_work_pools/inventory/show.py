"""Shows a reading: a table for a person, JSON for a program."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from trimtab_work_pools.inventory.health import Health
from trimtab_work_pools.inventory.reading import GpuReading, HostReading, MigSlice, Topology

__all__ = ["as_json", "print_table"]


def as_json(reading: HostReading) -> str:
    """The reading with its field names, units in them; unknown is null, topology levels are by name."""
    found = asdict(reading)
    for gpu in found["devices"]["gpus"]:
        gpu["topology"] = {str(index): Topology(level).name for index, level in gpu["topology"]}
    return json.dumps(found, default=sorted, indent=2)  # sets are all that JSON does not know here


def print_table(reading: HostReading, console: Console | None = None) -> None:
    """The host in a few lines, a row for each GPU and MIG slice, then what is wrong."""
    console = console or Console(highlight=False, soft_wrap=True)
    host, devices = reading.host, reading.devices
    disk = "unknown" if host.disk_free_mib is None else f"{_gib(host.disk_free_mib)} GiB free in {host.folder}"
    labels = ", ".join(f"{key}={value}" for key, value in host.labels) or "none"
    console.print(f"[bold]{escape(host.name)}[/bold]  labels: {escape(labels)}")
    console.print(
        f"CPUs {host.cpu_total_milli / 1000:g}, memory {_gib(host.memory_total_mib)} GiB"
        f" ({_gib(host.memory_available_mib)} available), disk {escape(disk)}"
    )
    if devices.gpus:
        console.print(f"driver {devices.driver_version or 'unknown'}, CUDA {devices.cuda_version or 'unknown'}")
        console.print(_table(devices.gpus))
        for gpu in devices.gpus:
            console.print(f"GPU {gpu.index}: {escape(gpu.model or 'model unknown')}, {gpu.uuid}, {_near(gpu)}")
    else:
        console.print("no GPUs")
    for note in (*reading.problems, *_reasons(devices.gpus)):
        console.print(f"note: {escape(note)}")
    console.print(f"read in {reading.took_s * 1000:.1f} ms")


def _table(gpus: tuple[GpuReading, ...]) -> Table:
    table = Table(box=SIMPLE, pad_edge=False)
    for name in ("GPU", "used GiB", "others", "busy", "CC", "NUMA", "W", "C", "health"):
        table.add_column(name, no_wrap=name != "health", justify="left" if name in ("GPU", "health") else "right")
    for gpu in gpus:
        table.add_row(
            str(gpu.index),
            *_memory(gpu),
            _shown(gpu.utilisation_percent, "%"),
            "?" if gpu.compute_capability is None else "{}.{}".format(*gpu.compute_capability),
            _shown(gpu.numa_node),
            _shown(gpu.power_w),
            _shown(gpu.temperature_c),
            _faults(gpu.health),
        )
        for part in gpu.slices:
            number = f" {gpu.index}:{_shown(part.gpu_instance)}/{_shown(part.compute_instance)}"
            table.add_row(f"{number} {escape(part.profile)}", *_memory(part), *[""] * 5, _faults(part.health))
    return table


def _reasons(gpus: tuple[GpuReading, ...]) -> Iterator[str]:
    for gpu in gpus:
        if not gpu.unreachable:  # those are among the problems already
            for reason in gpu.health.reasons:
                yield f"GPU {gpu.index}: {reason}"
        for part in gpu.slices:
            for reason in part.health.reasons:
                if reason not in gpu.health.reasons:
                    yield f"GPU {gpu.index}, MIG slice {part.uuid}: {reason}"


def _near(gpu: GpuReading) -> str:
    """NVLinked GPUs, then the others by what they share of the PCIe tree."""
    linked = sorted(gpu.nvlink_peers or ())
    groups = [f"NVL {_list(linked)}"] if linked else []
    for level in Topology:
        others = [index for index, found in gpu.topology if found is level and index not in linked]
        if others:
            groups.append(f"{level.name} {_list(others)}")
    return "; ".join(groups) or "alone"


def _list(indices: list[int]) -> str:
    return ",".join(str(index) for index in indices)


def _memory(device: GpuReading | MigSlice) -> tuple[str, str]:
    return f"{_gib(device.memory_used_mib)}/{_gib(device.memory_total_mib)}", _gib(device.memory_foreign_mib)


def _faults(health: Health) -> str:
    return ", ".join(fault.value for fault in health.faults) or "ok"


def _gib(mib: int | None) -> str:
    return "?" if mib is None else f"{mib / 1024:.1f}"


def _shown(value: float | None, unit: str = "") -> str:
    return "?" if value is None else f"{value:g}{unit}"
