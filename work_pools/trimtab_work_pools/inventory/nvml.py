"""NVML, call by call: the only module that imports pynvml. What is not told is None; only a lost GPU or driver raises.

NvmlError
├── DriverGone      no library, no driver, or one that was loaded anew: open NVML again
└── GpuUnreachable  this GPU does not answer any more; the others may

Calls that a GPU or driver does not offer are collected, and reported as one sentence for each kind of value.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pynvml

from trimtab_work_pools.inventory.marks import Mark, unmarked
from trimtab_work_pools.inventory.reading import Topology

__all__ = ["DriverGone", "GpuUnreachable", "Nvml", "NvmlError"]

MIB = 1024 * 1024
NO_INSTANCE = 0xFFFFFFFF
EVENTS_AT_ONCE = 256
"""An upper bound for one poll, so that a GPU that reports errors without end does not hold up the read."""

_GONE = {
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: "there is no NVIDIA driver library (libnvidia-ml.so.1) on this host",
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: "the NVIDIA driver is not loaded (see dmesg; try modprobe nvidia)",
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "the NVIDIA driver was updated but not loaded anew; reboot this host",
    pynvml.NVML_ERROR_UNINITIALIZED: "the NVIDIA driver was unloaded or loaded anew",
}
_UNREACHABLE = {
    pynvml.NVML_ERROR_GPU_IS_LOST: "it has fallen off the bus or is otherwise lost; reset it or reboot this host",
    pynvml.NVML_ERROR_GPU_NOT_FOUND: "the driver no longer finds it",
    pynvml.NVML_ERROR_RESET_REQUIRED: "it needs a reset (nvidia-smi --gpu-reset) before it answers",
    pynvml.NVML_ERROR_INSUFFICIENT_POWER: "its power cables are not properly attached",
    pynvml.NVML_ERROR_IRQ_ISSUE: "the kernel has an interrupt problem with it (see dmesg)",
}
_NOT_OFFERED = {
    pynvml.NVML_ERROR_NOT_SUPPORTED,
    pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
    pynvml.NVML_ERROR_VGPU_ECC_NOT_SUPPORTED,
    pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH,
    pynvml.NVML_ERROR_DEPRECATED,
}


class NvmlError(RuntimeError):
    """NVML cannot answer; the text says why and what can be done."""


class DriverGone(NvmlError):
    """Nothing can be asked until NVML is opened again."""


class GpuUnreachable(NvmlError):
    """One GPU does not answer."""


class Nvml:
    """NVML, open. Raises DriverGone if that cannot be.

    It is kept open between reads: without persistence mode the driver initialises a GPU anew for its first user, which
    takes seconds. So the driver cannot be unloaded while this is open; close() lets it go.
    """

    def __init__(self, mark: Mark = unmarked) -> None:
        """`mark` is told what is asked next, and of which GPU (`about`)."""
        self._mark, self.about = mark, ""
        mark("", "nvmlInit")
        self._not_told: dict[str, list[str]] = {}
        self._problems: list[str] = []
        self._unknown: list[str] = []
        self._events: Any = None
        self._watched: dict[int, str] = {}
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            raise DriverGone(_GONE.get(error.value, f"NVML does not start: {error}")) from error

    def close(self) -> None:
        """Lets the driver go; never raises."""
        self._drop_events()
        with suppress(pynvml.NVMLError):  # the driver went first
            pynvml.nvmlShutdown()

    def _drop_events(self) -> None:
        if self._events is not None:
            with suppress(pynvml.NVMLError):
                pynvml.nvmlEventSetFree(self._events)
        self._events, self._watched = None, {}

    def take_problems(self) -> tuple[str, ...]:
        """What could not be read since this was last asked, in plain sentences."""
        found = [f"{what} is not told by the driver for {', '.join(of)}" for what, of in sorted(self._not_told.items())]
        found += self._problems
        self._not_told, self._problems = {}, []
        return tuple(found)

    def take_unknown(self) -> tuple[str, ...]:
        """What the driver has answered "Unknown Error" for since this was last asked."""
        found, self._unknown = tuple(self._unknown), []
        return found

    def ask(self, what: str, of: str, call: Callable[..., Any], *args: Any) -> Any:
        """The answer, or None and a problem noted ("`what` ... `of`"). Raises DriverGone, GpuUnreachable."""
        self._mark(self.about, f"the driver's call for its {what}" if self.about else f"the driver's call for {what}")
        try:
            return call(*args)
        except pynvml.NVMLError as error:
            code = error.value
            if code in _GONE:
                raise DriverGone(_GONE[code]) from error
            if code in _UNREACHABLE:
                raise GpuUnreachable(_UNREACHABLE[code]) from error
            if code in _NOT_OFFERED:
                self._not_told.setdefault(what, []).append(of)
            else:
                if code == pynvml.NVML_ERROR_UNKNOWN:
                    self._unknown.append(what)
                self._problems.append(f"{what} of {of} could not be read: {error}")
            return None
        except UnicodeDecodeError:  # pynvml decodes texts, which a broken infoROM may spoil
            self._problems.append(f"{what} of {of} is no text")
            return None

    # The driver.

    def driver_version(self) -> str:
        return self.ask("driver version", "this host", pynvml.nvmlSystemGetDriverVersion) or ""

    def cuda_version(self) -> str:
        """Like "12.9": the newest CUDA that the driver runs."""
        number = self.ask("CUDA version", "this host", pynvml.nvmlSystemGetCudaDriverVersion_v2)
        return f"{number // 1000}.{number % 1000 // 10}" if number else ""

    def count(self) -> int:
        return self.ask("number of GPUs", "this host", pynvml.nvmlDeviceGetCount) or 0

    def handle(self, nvml_index: int) -> Any:
        return self.ask("handle", f"GPU {nvml_index}", pynvml.nvmlDeviceGetHandleByIndex, nvml_index)

    # One GPU; `of` is how it is called in a problem.

    def uuid(self, handle: Any, of: str) -> str:
        return self.ask("UUID", of, pynvml.nvmlDeviceGetUUID, handle) or ""

    def name(self, handle: Any, of: str) -> str:
        return self.ask("model", of, pynvml.nvmlDeviceGetName, handle) or ""

    def memory_mib(self, handle: Any, of: str) -> tuple[int, int] | tuple[None, None] | None:
        """Total, and all that is not free. None for a device that has no memory of its own (GB10, Jetson)."""
        info = self.ask("memory", of, _memory, handle)
        if info is None:
            return None, None
        if info is _UNIFIED:
            return None
        # Rounded against us: no run is promised a MiB that is not there.
        return info.total // MIB, -(-(info.total - info.free) // MIB)

    def utilisation_percent(self, handle: Any, of: str) -> int | None:
        rates = self.ask("utilisation", of, pynvml.nvmlDeviceGetUtilizationRates, handle)
        return None if rates is None else int(rates.gpu)

    def compute_capability(self, handle: Any, of: str) -> tuple[int, int] | None:
        found: tuple[int, int] | None = self.ask(
            "compute capability", of, pynvml.nvmlDeviceGetCudaComputeCapability, handle
        )
        return found

    def pci_bus_id(self, handle: Any, of: str) -> str:
        info = self.ask("PCI bus id", of, pynvml.nvmlDeviceGetPciInfo_v3, handle)
        if info is None:
            return ""
        text = info.busId
        return text.decode(errors="replace") if isinstance(text, bytes) else str(text)

    def numa_node(self, handle: Any, of: str) -> int | None:
        """The nearest NUMA node of the host (nvmlDeviceGetNumaNodeId is another: that of the GPU's own memory)."""
        words = self.ask(
            "NUMA node", of, pynvml.nvmlDeviceGetMemoryAffinity, handle, 16, pynvml.NVML_AFFINITY_SCOPE_NODE
        )
        if words is None:
            return None
        bits = sum(int(word) << 64 * place for place, word in enumerate(words))
        return (bits & -bits).bit_length() - 1 if bits else None

    def power_w(self, handle: Any, of: str) -> float | None:
        return _thousandth(self.ask("power", of, pynvml.nvmlDeviceGetPowerUsage, handle))

    def power_limit_w(self, handle: Any, of: str) -> float | None:
        return _thousandth(self.ask("power limit", of, pynvml.nvmlDeviceGetEnforcedPowerLimit, handle))

    def temperature_c(self, handle: Any, of: str) -> float | None:
        # Not nvmlDeviceGetTemperatureV: drivers before 570 do not have it, and all have this.
        found: float | None = self.ask(
            "temperature", of, pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU
        )
        return found

    def slowdown_c(self, handle: Any, of: str) -> float | None:
        threshold = pynvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN
        found: float | None = self.ask(
            "slowdown temperature", of, pynvml.nvmlDeviceGetTemperatureThreshold, handle, threshold
        )
        return found

    def ecc_uncorrected(self, handle: Any, of: str) -> int | None:
        kind, since_load = pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, pynvml.NVML_VOLATILE_ECC
        found: int | None = self.ask("ECC", of, pynvml.nvmlDeviceGetTotalEccErrors, handle, kind, since_load)
        return found

    def remapping(self, handle: Any, of: str) -> tuple[bool, bool] | tuple[None, None]:
        """Of faulty memory rows: a remapping waits for a reset; a remapping failed."""
        rows = self.ask("row remapping", of, pynvml.nvmlDeviceGetRemappedRows, handle)
        return (None, None) if rows is None else (bool(rows[2]), bool(rows[3]))

    def processes(self, handle: Any, of: str) -> list[tuple[int, int | None, int | None]] | None:
        """(pid, MiB, GPU instance) of each process that computes or draws on it. The driver names one that does both,
        or is a client of MPS, in several lists, with all that it holds in each: it counts once.
        """
        found: dict[tuple[int, int | None], int | None] = {}
        for what, call in (
            ("compute processes", pynvml.nvmlDeviceGetComputeRunningProcesses_v3),
            ("graphics processes", pynvml.nvmlDeviceGetGraphicsRunningProcesses_v3),
            ("MPS processes", _mps_processes),
        ):
            processes = self.ask(what, of, call, handle)
            if processes is None and what == "compute processes":
                return None
            for one in processes or ():
                held = None if one.usedGpuMemory is None else -(-int(one.usedGpuMemory) // MIB)
                key = int(one.pid), _instance(one.gpuInstanceId)
                known = [mib for mib in (found.get(key), held) if mib is not None]
                found[key] = max(known, default=None)
        return [(pid, held, instance) for (pid, instance), held in found.items()]

    # Between two GPUs.

    def topology(self, one: Any, other: Any, of: str) -> Topology | None:
        level = self.ask("PCIe topology", of, pynvml.nvmlDeviceGetTopologyCommonAncestor, one, other)
        return Topology(level) if level in list(Topology) else None

    def nvlinked(self, one: Any, other: Any, of: str) -> bool | None:
        """They reach each other's memory over NVLink, directly or through NVSwitch."""
        status = self.ask("NVLink", of, pynvml.nvmlDeviceGetP2PStatus, one, other, pynvml.NVML_P2P_CAPS_INDEX_NVLINK)
        return None if status is None else status == pynvml.NVML_P2P_STATUS_OK

    # MIG.

    def mig_enabled(self, handle: Any, of: str) -> bool | None:
        """None on GPUs that know no MIG: that is no problem to report."""
        mode = self.ask("MIG mode", of, _mig_mode, handle)
        return None if mode is None else bool(mode)

    def mig_handles(self, handle: Any, of: str) -> list[Any]:
        most = self.ask("number of MIG slices", of, pynvml.nvmlDeviceGetMaxMigDeviceCount, handle) or 0
        found = [self.ask("MIG slice", of, _mig_handle, handle, index) for index in range(most)]
        return [one for one in found if one is not None]

    def mig_instances(self, handle: Any, of: str) -> tuple[int | None, int | None]:
        """(GPU instance, compute instance) of a MIG device."""
        gpu_instance = self.ask("GPU instance", of, pynvml.nvmlDeviceGetGpuInstanceId, handle)
        return gpu_instance, self.ask("compute instance", of, pynvml.nvmlDeviceGetComputeInstanceId, handle)

    # XIDs.

    def watch(self, handle: Any, uuid: str, of: str) -> None:
        """From now on XIDs of this GPU are noticed; asked again it does nothing."""
        if uuid in self._watched.values():
            return
        if self._events is None:
            self._events = self.ask("events", "this host", pynvml.nvmlEventSetCreate)
        if self._events is not None:
            xids = pynvml.nvmlEventTypeXidCriticalError
            if self.ask("XID events", of, _register, handle, xids, self._events):
                self._watched[_address(handle)] = uuid

    def unwatch(self, uuid: str) -> None:
        """This GPU was reset or lost: register it anew when it is back."""
        self._watched = {address: watched for address, watched in self._watched.items() if watched != uuid}

    def new_xids(self) -> list[tuple[str, int, int | None]]:
        """(uuid of the GPU or "", code, GPU instance) of each XID since this was last asked; does not wait."""
        found: list[tuple[str, int, int | None]] = []
        while self._events is not None and len(found) < EVENTS_AT_ONCE:
            try:
                event = self.ask("events", "this host", _next_event, self._events)
            except GpuUnreachable:
                self._drop_events()  # a set with a lost GPU in it may stay silent: make one of those that are left
                break
            if event is None:
                break
            # By address first: a GPU that has just been lost no longer tells its uuid.
            uuid = self._watched.get(_address(event.device)) or self._uuid_of(event)
            found.append((uuid, int(event.eventData), _instance(event.gpuInstanceId)))
        return found

    def _uuid_of(self, event: Any) -> str:
        try:
            return self.uuid(event.device, "a GPU with an event")
        except GpuUnreachable:
            return ""


_UNIFIED = object()


def _memory(handle: Any) -> Any:
    try:
        return pynvml.nvmlDeviceGetMemoryInfo(handle)
    except pynvml.NVMLError_NotSupported:
        return _UNIFIED


def _mps_processes(handle: Any) -> Any:
    """Nothing where MPS is not known."""
    try:
        return pynvml.nvmlDeviceGetMPSComputeRunningProcesses_v3(handle)
    except (pynvml.NVMLError_NotSupported, pynvml.NVMLError_FunctionNotFound):
        return []


def _mig_mode(handle: Any) -> int | None:
    try:
        return int(pynvml.nvmlDeviceGetMigMode(handle)[0])
    except (pynvml.NVMLError_NotSupported, pynvml.NVMLError_FunctionNotFound):
        return None


def _mig_handle(handle: Any, index: int) -> Any:
    """None where no slice is made: the places are numbered up to the most there can be."""
    try:
        return pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)
    except (pynvml.NVMLError_NotFound, pynvml.NVMLError_InvalidArgument):
        return None


def _register(handle: Any, kinds: int, events: Any) -> bool:
    pynvml.nvmlDeviceRegisterEvents(handle, kinds, events)
    return True


def _next_event(events: Any) -> Any:
    try:
        return pynvml.nvmlEventSetWait_v2(events, 0)
    except pynvml.NVMLError_Timeout:
        return None


def _instance(number: int) -> int | None:
    return None if number == NO_INSTANCE else int(number)


def _thousandth(number: int | None) -> float | None:
    return None if number is None else number / 1000


def _address(handle: Any) -> int:
    return ctypes.cast(handle, ctypes.c_void_p).value or 0
