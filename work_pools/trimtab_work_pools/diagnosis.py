"""Why a run ended badly, and what is done next. Pure.

Every cause leads to one stated step: again (where a device or a host was lost, there is no other way to run elsewhere),
larger (out of memory, once), or stop and say why. An error of the flow's own code is not judged here: its retries are
Prefect's.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from trimtab_work_pools.resources import Demand, Placement

__all__ = ["Cause", "Diagnosis", "Ended", "Largest", "Peak", "Step", "diagnose", "lost_host"]


class Cause(StrEnum):
    """Also the name of the state that the run is left in."""

    HOST_MEMORY = "OutOfMemory"
    GPU_MEMORY = "OutOfGpuMemory"
    LOST_DEVICE = "LostDevice"
    LOST_HOST = "LostHost"
    START_UP = "StartFailed"
    TIMED_OUT = "TimedOut"
    BAD_EXIT = "BadExit"


class Step(StrEnum):
    AGAIN = "again"
    LARGER = "larger"
    STOP = "stop"


_TRIES = {
    Cause.HOST_MEMORY: 1,
    Cause.GPU_MEMORY: 1,
    Cause.LOST_DEVICE: 3,
    Cause.LOST_HOST: 3,
    Cause.START_UP: 1,  # a pull or a share that was away for a moment
    Cause.BAD_EXIT: 1,
}
"""How often one run is started again for a cause. What is not named stops at once."""

_GROWTH = 2.0
"""An out-of-memory run comes back with this times what it had, or this times its peak, whichever is more."""

_GPU_MEMORY = re.compile(
    r"(cuda|hip|gpu|xla|mps)[^\n]{0,80}out of memory|cudaErrorMemoryAllocation|CUBLAS_STATUS_ALLOC_FAILED"
    r"|RESOURCE_EXHAUSTED: out of memory|OOM when allocating tensor",
    re.IGNORECASE,
)
_HOST_MEMORY = re.compile(r"MemoryError|cannot allocate memory|can't allocate memory|std::bad_alloc", re.IGNORECASE)
_DEVICE = re.compile(
    r"fallen off the bus|GPU is lost|uncorrectable ECC|cudaErrorECCUncorrectable|cudaErrorDevicesUnavailable"
    r"|no CUDA-capable device is detected|CUDA error: (device|hardware|unknown) (lost|stack error|error)",
    re.IGNORECASE,
)


_REPORTED = re.compile(r"exited with status code: (-?\d+)")
"""As Prefect's FlowRunExecutor says it."""


@dataclass(frozen=True, slots=True)
class Peak:
    """The most that a run was seen to use: `gpu_memory_mib` of the GPU it filled most. None: it was not seen."""

    memory_mib: int | None = None
    gpu_memory_mib: int | None = None


@dataclass(frozen=True, slots=True)
class Largest:
    """What the best node of the fleet could ever give a run: no demand is raised above it."""

    memory_mib: int
    gpu_memory_mib: int


@dataclass(frozen=True, slots=True)
class Ended:
    """A run whose process has gone, and what is known of it.

    `exit_code` is negative for a signal, as in subprocess; None where nobody saw it. `message` is that of its state.
    `began`: the flow's code was reached. `oom_kills`: processes that the kernel ended for want of memory, in the
    worker's control group, while it ran. `lost_devices`: sentences on devices it held that are not healthy now.
    `before`: how often it was started again, by cause. `in_container`: it had a control group of its own, and its first
    process was Prefect's supervisor, which ends with 0 when it has reported how the flow's process ended.
    """

    exit_code: int | None
    state: str
    message: str
    began: bool
    demand: Demand
    placement: Placement
    peak: Peak = Peak()
    oom_kills: int = 0
    lost_devices: tuple[str, ...] = ()
    before: Mapping[Cause, int] = field(default_factory=dict)
    in_container: bool = False

    @property
    def code(self) -> int | None:
        """The exit code of the flow's process."""
        reported = _REPORTED.search(self.message) if self.in_container and self.state == "Crashed" else None
        return int(reported[1]) if reported and not self.exit_code else self.exit_code


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """`wishes` are keys of `resources:` to be raised; `text` says what happened and what is done, for people."""

    cause: Cause
    step: Step
    text: str
    wishes: tuple[tuple[str, Any], ...] = ()


def diagnose(ended: Ended, largest: Largest) -> Diagnosis | None:
    """None if nothing was wrong with the system: the run ended well, was cancelled, or its own code failed."""
    found = _cause(ended)
    if found is None:
        return None
    cause, happened = found
    if cause in (Cause.HOST_MEMORY, Cause.GPU_MEMORY):
        return _larger(ended, largest, cause, happened)
    return _again_or_stop(cause, happened, ended.before)


def _again_or_stop(cause: Cause, happened: str, before: Mapping[Cause, int]) -> Diagnosis:
    tries, tried = _TRIES.get(cause, 0), before.get(cause, 0)
    if tried < tries:
        return Diagnosis(cause, Step.AGAIN, f"{happened}. It is started again ({tried + 1} of {tries}).")
    again = f" It was started again {tried} times before." if tried else ""
    return Diagnosis(cause, Step.STOP, f"{happened}. {_ADVICE[cause]}{again}")


def lost_host(before: Mapping[Cause, int]) -> Diagnosis:
    """For a run that no worker holds any more."""
    return _again_or_stop(Cause.LOST_HOST, "No worker holds it any more: its host was lost", before)


_ADVICE = {
    Cause.LOST_DEVICE: "Its devices fail again and again: look at the hosts it ran on.",
    Cause.LOST_HOST: "Its hosts were lost again and again: see whether the run takes them down.",
    Cause.START_UP: "Its code was never reached: check the entrypoint, the pull steps and the packages of the worker.",
    Cause.TIMED_OUT: "Raise timeout_seconds of the flow, or give it more; it would take as long again.",
    Cause.BAD_EXIT: "The last lines of its log say where.",
}


def _cause(ended: Ended) -> tuple[Cause, str] | None:
    """What happened, most certain evidence first."""
    if ended.state == "Cancelled" or ended.state == "Completed":
        return None
    if ended.state == "TimedOut":
        return Cause.TIMED_OUT, "The flow took longer than its time limit"
    if _GPU_MEMORY.search(ended.message):
        return Cause.GPU_MEMORY, "Out of GPU memory"
    if ended.oom_kills and (ended.in_container or ended.exit_code in (-signal.SIGKILL, 128 + signal.SIGKILL)):
        return Cause.HOST_MEMORY, "Out of memory on the host: the kernel ended it"
    if _HOST_MEMORY.search(ended.message):
        return Cause.HOST_MEMORY, "Out of memory on the host"
    if ended.lost_devices:
        return Cause.LOST_DEVICE, f"A device was lost: {'; '.join(ended.lost_devices)}"
    if _DEVICE.search(ended.message):
        return Cause.LOST_DEVICE, "A device was lost, says its error"
    if not ended.began:
        return Cause.START_UP, f"It could not be started (exit code {ended.exit_code})"
    code = ended.code
    if code is not None and code < 0:
        return Cause.BAD_EXIT, f"Its process was ended by {_name(-code)}"
    if ended.state == "Failed" or not code:
        return None  # the flow's own exception
    return Cause.BAD_EXIT, f"Its process ended with exit code {code} before the flow had"


def _larger(ended: Ended, largest: Largest, cause: Cause, happened: str) -> Diagnosis:
    gpu = cause is Cause.GPU_MEMORY
    key = "gpu_memory_mib" if gpu else "memory_mib"
    had = _given(ended, gpu)
    peak = (ended.peak.gpu_memory_mib if gpu else ended.peak.memory_mib) or 0
    most = largest.gpu_memory_mib if gpu else largest.memory_mib
    used = f", saw {peak} used" if peak else ""
    happened = f"{happened}: it had {had} MiB{used}" if had else f"{happened}{used}"
    if ended.before.get(cause):
        return Diagnosis(cause, Step.STOP, f"{happened}. It had been given more already: set resources.{key} yourself.")
    wanted = min(most, round(_GROWTH * max(had, peak)) or most // 2)
    if wanted <= had or not wanted:
        return Diagnosis(cause, Step.STOP, f"{happened}. No node of the fleet can give more than {most} MiB.")
    raised = ((key, wanted),)
    return Diagnosis(cause, Step.LARGER, f"{happened}. It is started again, once, with {key}: {wanted}.", raised)


def _given(ended: Ended, gpu: bool) -> int:
    if gpu:
        grants = [grant.memory_mib for grant in ended.placement.grants]
        return max(ended.demand.gpu_memory_mib, min(grants, default=0))
    return max(ended.demand.memory_mib, ended.placement.memory_mib)


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
