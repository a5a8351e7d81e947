"""Why a run may end badly, how sure that is, and what can be done next. Pure."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["ADVICE", "NEXT", "SAID", "Cause", "Confidence", "Step"]


class Cause(StrEnum):
    """Also the name of the state that the run is left in. The values are API."""

    HOST_MEMORY = "OutOfMemory"
    GPU_MEMORY = "OutOfGpuMemory"
    LOST_DEVICE = "LostDevice"
    LOST_HOST = "LostHost"
    START_UP = "StartFailed"
    TIMED_OUT = "TimedOut"
    BAD_EXIT = "BadExit"
    DRIVER_MISMATCH = "DriverMismatch"
    UNSUPPORTED_GPU = "UnsupportedGpu"
    KERNEL_TOO_LARGE = "KernelTooLarge"
    PROGRAM_FAULT = "GpuProgramFault"
    DISK_FULL = "DiskFull"
    QUOTA = "QuotaExceeded"
    TOO_MANY_FILES = "TooManyFiles"
    UNREACHABLE = "Unreachable"
    NOT_AUTHORISED = "NotAuthorised"
    BAD_DATA = "BadData"


class Confidence(StrEnum):
    """`HIGH`: the text says so and means nothing else. `MEDIUM`: it usually does. `LOW`: nothing speaks against it."""

    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"


class Step(StrEnum):
    """What is done next: the values are API.

    `AGAIN`: as it was. `ELSEWHERE`: as it was, on devices or a host that are well. `LATER`: when a service may be
    back. `LARGER`: with more memory. `STOP`: somebody has to change something first.
    """

    AGAIN = "again"
    LARGER = "larger"
    ELSEWHERE = "elsewhere"
    LATER = "later"
    STOP = "stop"


NEXT = {
    Cause.HOST_MEMORY: Step.LARGER,
    Cause.GPU_MEMORY: Step.LARGER,
    Cause.LOST_DEVICE: Step.ELSEWHERE,
    Cause.LOST_HOST: Step.ELSEWHERE,
    Cause.START_UP: Step.AGAIN,
    Cause.TIMED_OUT: Step.STOP,
    Cause.BAD_EXIT: Step.AGAIN,
    Cause.DRIVER_MISMATCH: Step.STOP,
    Cause.UNSUPPORTED_GPU: Step.STOP,
    Cause.KERNEL_TOO_LARGE: Step.STOP,
    Cause.PROGRAM_FAULT: Step.STOP,
    Cause.DISK_FULL: Step.STOP,
    Cause.QUOTA: Step.STOP,
    Cause.TOO_MANY_FILES: Step.STOP,
    Cause.UNREACHABLE: Step.LATER,
    Cause.NOT_AUTHORISED: Step.STOP,
    Cause.BAD_DATA: Step.STOP,
}
"""The first step after each cause; what follows when that did not help is for `diagnose`."""


ADVICE = {
    Cause.HOST_MEMORY: "Give it more with resources.memory_mib, or read the data in smaller parts.",
    Cause.GPU_MEMORY: "Give it more with resources.gpu_memory_mib, or use a smaller batch.",
    Cause.LOST_DEVICE: "Its devices fail again and again: look at the hosts it ran on.",
    Cause.LOST_HOST: "Its hosts were lost again and again: see whether the run takes them down.",
    Cause.START_UP: "Its code was never reached: check the entrypoint, the pull steps and the packages of the worker.",
    Cause.TIMED_OUT: "Raise timeout_seconds of the flow, or give it more; it would take as long again.",
    Cause.BAD_EXIT: "The last lines of its log say where.",
    Cause.DRIVER_MISMATCH: "Update the driver of the node and reboot it, or install packages for the CUDA it has.",
    Cause.UNSUPPORTED_GPU: "Install packages built for this GPU, or ask for another with resources.gpu_models.",
    Cause.KERNEL_TOO_LARGE: "A kernel needs more of a multiprocessor than the GPU has: use smaller blocks or fewer"
    " stages, or a GPU of a newer kind. More GPU memory does not help.",
    Cause.PROGRAM_FAULT: "The program reads or writes where it may not: run it with CUDA_LAUNCH_BLOCKING=1 or"
    " compute-sanitizer.",
    Cause.DISK_FULL: "Make room on the disk that the line names, or ask for more with resources.disk_mib.",
    Cause.QUOTA: "Make room, or have the quota raised.",
    Cause.TOO_MANY_FILES: "Raise the limit (ulimit -n), use fewer data loader workers, or the file_system sharing"
    " strategy of PyTorch.",
    Cause.UNREACHABLE: "See whether the service that the line names is up, and can be reached from this node.",
    Cause.NOT_AUTHORISED: "Renew the credentials that it uses.",
    Cause.BAD_DATA: "The table does not keep its contract: see the quarantine, mend the data or the contract.",
}
"""What a person can do, one or two sentences each."""

SAID = {
    Step.AGAIN: "A worker starts it again, once.",
    Step.LARGER: "A worker starts it again, once, with twice the memory, if a node of the fleet has that.",
    Step.ELSEWHERE: "A worker starts it again, on devices and a host that are well, three times at most.",
    Step.LATER: "It may go when it is run again later; a worker starts it again, once, if its process has crashed.",
    Step.STOP: "It is not started again: it would end the same way.",
}
"""What happens next, for people."""
