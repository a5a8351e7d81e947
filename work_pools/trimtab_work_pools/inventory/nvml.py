"""Reads the GPUs of this host through NVML (nvidia-ml-py). The only module that knows NVML.

Whatever cannot be read is left out and said once in `problems`; the rest goes on. A GPU that was there and does not
answer any more is kept, as unhealthy: runs hold it, and people must see it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import pynvml

from trimtab_work_pools.resources import Gpu

__all__ = ["Nvml"]

_MIB = 2**20
_LINKS = 18  # NVLINK_MAX_LINKS
_HOT_C = 95
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _Seen:
    """A GPU, and where its NVLinks end: PCI bus ids of other GPUs; or `switched`: at an NVSwitch."""

    gpu: Gpu
    bus_id: str
    ends: frozenset[str]
    switched: bool


class Nvml:
    """The GPUs of this host, read again and again. `problems` are sentences on what could not be read the last time."""

    def __init__(self) -> None:
        self.problems: tuple[str, ...] = ()
        self._last: tuple[Gpu, ...] = ()
        self._ready = False
        self._said: list[str] = []

    def read(self, own_pids: Collection[int] = ()) -> tuple[Gpu, ...]:
        """GPUs and MIG slices, by index. Memory in use by processes other than `own_pids` is counted as used."""
        self._said = []
        gpus = self._read(frozenset(own_pids))
        self.problems = tuple(self._said)
        self._last = gpus
        return gpus

    def _read(self, own_pids: frozenset[int]) -> tuple[Gpu, ...]:
        try:
            if not self._ready:
                pynvml.nvmlInit()
                self._ready = True
            count = pynvml.nvmlDeviceGetCount()
        except pynvml.NVMLError as error:
            return self._without_driver(error)
        seen: list[_Seen] = []
        for index in range(count):
            one = self._device(index, own_pids)
            if one is not None:
                seen += one
        return self._complete(_linked(seen))

    def _without_driver(self, error: pynvml.NVMLError) -> tuple[Gpu, ...]:
        """No library or no driver, from the start or since a reload; the next read tries again."""
        self._ready = False
        if isinstance(error, (pynvml.NVMLError_LibraryNotFound, pynvml.NVMLError_DriverNotLoaded)) and not self._last:
            self._said.append(f"no NVIDIA driver ({error}): this node has no GPUs to offer")
            return ()
        self._said.append(f"the NVIDIA driver does not answer ({error}): its GPUs are not given to new runs")
        return tuple(replace(gpu, healthy=False) for gpu in self._last)

    def _complete(self, gpus: list[Gpu]) -> tuple[Gpu, ...]:
        """With those that have gone since the last time, as unhealthy."""
        there = {gpu.uuid for gpu in gpus}
        places = {gpu.index for gpu in gpus}
        for gpu in self._last:
            if gpu.uuid not in there and gpu.index not in places:
                self._said.append(f"GPU {gpu.index} ({gpu.model}) has fallen off the bus: it is not given to new runs")
                gpus.append(replace(gpu, healthy=False))
        return tuple(sorted(gpus, key=lambda gpu: gpu.index))

    def _device(self, index: int, own_pids: frozenset[int]) -> list[_Seen] | None:
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            slices = self._slices(handle, index)
            if slices:
                return slices
            uuid = _text(pynvml.nvmlDeviceGetUUID(handle))
            memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        except pynvml.NVMLError as error:
            if not any(gpu.index == index for gpu in self._last):
                self._said.append(f"GPU {index} cannot be read ({error}): it is left out")
            return None
        pci = self._ask("nvmlDeviceGetPciInfo", None, handle)
        bus_id = _text(pci.busId) if pci else ""
        capability = self._ask("nvmlDeviceGetCudaComputeCapability", (0, 0), handle)
        ends, switched = self._links(handle)
        gpu = Gpu(
            uuid,
            index,
            _text(self._ask("nvmlDeviceGetName", "unknown", handle)),
            int(memory.total) // _MIB,
            self._foreign_mib(handle, own_pids),
            compute_capability=tuple(capability),
            numa_node=_numa_node(bus_id),
            healthy=self._healthy(handle, index),
        )
        return [_Seen(gpu, bus_id, ends, switched)]

    def _ask(self, what: str, default: _T, *arguments: Any) -> Any | _T:
        """One call; a device that does not support it is nothing to worry about."""
        try:
            return getattr(pynvml, what)(*arguments)
        except (pynvml.NVMLError_NotSupported, pynvml.NVMLError_FunctionNotFound):
            return default
        except pynvml.NVMLError as error:
            self._said.append(f"{what} failed ({error})")
            return default

    def _foreign_mib(self, handle: Any, own_pids: frozenset[int]) -> int:
        """In MiB, rounded up to 256: less is breathing. What the driver itself keeps is not counted."""
        processes: list[Any] = self._ask("nvmlDeviceGetComputeRunningProcesses", [], handle)
        foreign = sum(int(one.usedGpuMemory or 0) for one in processes if one.pid not in own_pids)
        return -(-foreign // (256 * _MIB)) * 256 if foreign else 0

    def _healthy(self, handle: Any, index: int) -> bool:
        uncorrected = self._ask(
            "nvmlDeviceGetTotalEccErrors",
            0,
            handle,
            pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED,
            pynvml.NVML_VOLATILE_ECC,
        )
        if uncorrected:
            self._said.append(f"GPU {index} has {uncorrected} uncorrectable memory errors: it is not given to new runs")
        degrees = self._ask("nvmlDeviceGetTemperature", 0, handle, pynvml.NVML_TEMPERATURE_GPU)
        if degrees >= _HOT_C:
            self._said.append(f"GPU {index} is at {degrees} degrees: it is not given to new runs")
        return not uncorrected and degrees < _HOT_C

    def _slices(self, handle: Any, index: int) -> list[_Seen]:
        """MIG slices of a GPU that is cut into some. They get indices of their own beyond those of GPUs."""
        mode = self._ask("nvmlDeviceGetMigMode", (0, 0), handle)
        if not mode[0]:
            return []
        capability = self._ask("nvmlDeviceGetCudaComputeCapability", (0, 0), handle)
        found: list[_Seen] = []
        for place in range(int(self._ask("nvmlDeviceGetMaxMigDeviceCount", 0, handle))):
            try:
                mig = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, place)
                name = _text(pynvml.nvmlDeviceGetName(mig))
                total = int(pynvml.nvmlDeviceGetMemoryInfo(mig).total) // _MIB
                uuid = _text(pynvml.nvmlDeviceGetUUID(mig))
            except pynvml.NVMLError:
                continue  # a place without a slice
            model, _, profile = name.partition(" MIG ")
            number = 100 * (index + 1) + place
            gpu = Gpu(uuid, number, model, total, compute_capability=tuple(capability), mig_profile=profile)
            found.append(_Seen(gpu, "", frozenset(), False))
        return found

    def _links(self, handle: Any) -> tuple[frozenset[str], bool]:
        ends: set[str] = set()
        switched = False
        for link in range(_LINKS):
            try:
                if not pynvml.nvmlDeviceGetNvLinkState(handle, link):
                    continue
                remote = _text(pynvml.nvmlDeviceGetNvLinkRemotePciInfo(handle, link).busId)
            except pynvml.NVMLError:
                break  # this GPU has no more links, or none
            kind = self._ask("nvmlDeviceGetNvLinkRemoteDeviceType", pynvml.NVML_NVLINK_DEVICE_TYPE_GPU, handle, link)
            switched |= kind == pynvml.NVML_NVLINK_DEVICE_TYPE_SWITCH
            ends.add(remote)
        return frozenset(ends), switched


def _linked(seen: list[_Seen]) -> list[Gpu]:
    """The GPUs with their peers. All that are linked to an NVSwitch reach each other."""
    gpus = []
    for one in seen:
        peers = (
            other.gpu.index
            for other in seen
            if other is not one and ((one.switched and other.switched) or other.bus_id in one.ends)
        )
        gpus.append(replace(one.gpu, nvlink_peers=frozenset(peers)))
    return gpus


def _numa_node(bus_id: str) -> int | None:
    """From the kernel: NVML writes the PCI domain with eight digits, the kernel with four."""
    path = Path("/sys/bus/pci/devices") / bus_id.lower()[-12:] / "numa_node"
    try:
        node = int(path.read_text())
    except (OSError, ValueError):
        return None
    return node if node >= 0 else None


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
