"""What is done when a run of a worker has ended badly: the cause, and the step that follows from it. Pure.

Every cause leads to one stated step: again (where a device or a host was lost, there is no other way to run elsewhere),
larger (out of memory, once), or stop and say why. An error of the flow's own code is not judged here: its retries are
Prefect's.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trimtab_work_pools.diagnosis.causes import ADVICE, NEXT, Cause, Confidence, Step
from trimtab_work_pools.diagnosis.evidence import Finding, of_texts, signal_name
from trimtab_work_pools.resources import Demand, Placement

__all__ = ["Diagnosis", "Ended", "Largest", "Peak", "diagnose", "lost_host"]

_TRIES = {
    Cause.HOST_MEMORY: 1,
    Cause.GPU_MEMORY: 1,
    Cause.LOST_DEVICE: 3,
    Cause.LOST_HOST: 3,
    Cause.START_UP: 1,  # a pull or a share that was away for a moment
    Cause.UNREACHABLE: 1,
    Cause.BAD_EXIT: 1,
}
"""How often one run is started again for a cause. What is not named stops at once."""

_GROWTH = 2.0
"""An out-of-memory run comes back with this times what it had, or this times its peak, whichever is more."""

_OF_THE_SYSTEM = frozenset({Cause.HOST_MEMORY, Cause.GPU_MEMORY, Cause.LOST_DEVICE})
"""Causes that a worker can do something about, although the flow's own code has seen them as an exception. What else
has failed a flow is between the flow and its retries, which are Prefect's.
"""

_REPORTED = re.compile(r"exited with status code: (-?\d+)")
"""As Prefect's FlowRunExecutor says it."""

_A_CHILD = re.compile(
    r"BrokenProcessPool|TerminatedWorkerError|terminated abruptly|unexpectedly terminated|exited unexpectedly"
    r"|died unexpectedly|SIGKILL|killed|exit(?:ed with)? (?:status|code):? (?:-9|137)\b|exit status -9|EOFError"
    r"|Connection reset|Broken pipe|ChildFailedError|BrokenBarrierError|WorkerCrashed",
    re.IGNORECASE,
)
"""How a program tells that a process of its own has gone."""


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
    `errors`: what its tasks failed with and what it logged as errors, where its message does not say what happened.
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
    errors: tuple[str, ...] = ()

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
        later = NEXT[cause] is Step.LATER
        when = ", when that may be over" if later else ""
        step = Step.LATER if later else Step.AGAIN  # what is not well is given to nobody: again is elsewhere
        return Diagnosis(cause, step, f"{happened}. It is started again{when} ({tried + 1} of {tries}).")
    again = f" It was started again {tried} times before." if tried else ""
    return Diagnosis(cause, Step.STOP, f"{happened}. {ADVICE[cause]}{again}")


def lost_host(before: Mapping[Cause, int]) -> Diagnosis:
    """For a run that no worker holds any more."""
    return _again_or_stop(Cause.LOST_HOST, "No worker holds it any more: its host was lost", before)


def found_in(ended: Ended) -> Finding:
    """What the words say that the run has left."""
    return of_texts((ended.message, *ended.errors))


def _cause(ended: Ended) -> tuple[Cause, str] | None:
    """What happened, most certain evidence first."""
    if ended.state == "Cancelled" or ended.state == "Completed":
        return None
    if ended.state == "TimedOut":
        return Cause.TIMED_OUT, "The flow took longer than its time limit"
    found = found_in(ended)
    if found.cause is Cause.GPU_MEMORY:
        return found.cause, "Out of GPU memory"
    if _killed_by_kernel(ended):
        return Cause.HOST_MEMORY, "Out of memory on the host: the kernel ended it"
    if found.cause is Cause.HOST_MEMORY and not _only_a_signal(ended, found):
        return found.cause, "Out of memory on the host"
    if ended.lost_devices:
        return Cause.LOST_DEVICE, f"A device was lost: {'; '.join(ended.lost_devices)}"
    if found.cause is Cause.LOST_DEVICE:
        return found.cause, "A device was lost, says its error"
    if not ended.began:
        return Cause.START_UP, f"It could not be started (exit code {ended.exit_code})"
    return _own_end(ended, found)


def _own_end(ended: Ended, found: Finding) -> tuple[Cause, str] | None:
    """What neither memory nor a device explains."""
    code = ended.code
    if found.cause and ended.state != "Failed" and found.cause not in (Cause.BAD_EXIT, *_OF_THE_SYSTEM):
        return found.cause, f"It ended over this: {found.line}"
    if code is not None and code < 0:
        return Cause.BAD_EXIT, f"Its process was ended by {signal_name(-code)}"
    if ended.state == "Failed" or not code:
        return None  # the flow's own exception
    return Cause.BAD_EXIT, f"Its process ended with exit code {code} before the flow had"


def _killed_by_kernel(ended: Ended) -> bool:
    """The kernel counts what it kills for want of memory, not whom: it was this run if it was killed, or says that a
    process of its own was.
    """
    if not ended.oom_kills:
        return False
    if ended.in_container or ended.exit_code in (-signal.SIGKILL, 128 + signal.SIGKILL):
        return True
    return any(_A_CHILD.search(text) for text in (ended.message, *ended.errors))


def _only_a_signal(ended: Ended, found: Finding) -> bool:
    """Nothing but SIGKILL speaks for want of memory, and the kernel has counted nobody that it killed for that."""
    return found.confidence is Confidence.LOW and not ended.oom_kills


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
