"""Decides whether a GPU may be given to runs, from what was read of it, with the reasons when it may not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from trimtab_work_pools.xids import XidClass, class_of, meaning

__all__ = ["APPLICATION_XIDS", "HEALTHY", "Fault", "Health", "Limits", "Process", "Signs", "Xid", "judge"]

APPLICATION_XIDS = frozenset(code for code in range(1000) if class_of(code).harmless)
"""XIDs that leave the GPU usable by NVIDIA's catalogue: an application's own faults, and notes (see `xids`). All others
count against the GPU, those too that the catalogue does not have."""


class Fault(StrEnum):
    """Why a GPU is not given to runs. The values are API."""

    LOST = "lost"
    RESET_NEEDED = "reset_needed"
    XID = "xid"
    ECC = "ecc_uncorrected"
    REMAP_FAILED = "row_remap_failed"
    UNREADABLE = "unreadable"
    TOO_HOT = "too_hot"
    TAKEN = "taken"


@dataclass(frozen=True, slots=True)
class Health:
    """A verdict: `faults` and, in the same order, `reasons` for people. Without faults the GPU is healthy."""

    faults: tuple[Fault, ...] = ()
    reasons: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """The GPU may be given to runs."""
        return not self.faults

    def __add__(self, other: Health) -> Health:
        return Health(self.faults + other.faults, self.reasons + other.reasons)


HEALTHY = Health()


@dataclass(frozen=True, slots=True)
class Process:
    """A process that uses a GPU and belongs to none of our runs. `memory_mib` is None when the driver does not tell.

    `name` is empty when the process cannot be seen from here (another PID name space, another user).
    """

    pid: int
    name: str = ""
    memory_mib: int | None = None
    gpu_instance: int | None = None


@dataclass(frozen=True, slots=True)
class Xid:
    """An error event of the driver; on a MIG-enabled GPU it may concern one GPU instance only."""

    code: int
    gpu_instance: int | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """What is too much. `temperature_c` None: the temperature at which the GPU itself slows down.

    A GPU that was too hot is given again when it is `hysteresis_c` below the limit. Processes that are not ours may
    hold `foreign_memory_mib` altogether (a desktop, an idle CUDA context); with more the GPU counts as taken. None: it
    never does, what they hold is only subtracted.
    """

    temperature_c: float | None = None
    hysteresis_c: float = 5.0
    ecc_uncorrected: int = 0
    ignored_xids: frozenset[int] = APPLICATION_XIDS
    foreign_memory_mib: int | None = 1024


@dataclass(frozen=True, slots=True)
class Signs:
    """What health is judged by; None is unknown, and unknown is not held against a GPU. But `unreadable` is: what the
    driver answered "Unknown Error" for, which a GPU that is well does not do.
    """

    unreachable: str = ""
    unreadable: Sequence[str] = ()
    reset_needed: bool | None = None
    remap_failed: bool | None = None
    ecc_uncorrected: int | None = None
    temperature_c: float | None = None
    slowdown_c: float | None = None
    xids: Sequence[Xid] = ()
    foreign: Sequence[Process] | None = None


def judge(signs: Signs, limits: Limits, before: Health = HEALTHY) -> Health:
    """The verdict on one GPU or slice. `before` is the last one: only hysteresis needs it."""
    if signs.unreachable:
        return Health((Fault.LOST,), (signs.unreachable,))
    found = [
        _reset(signs),
        _unreadable(signs.unreadable),
        _xids(signs.xids, limits),
        _ecc(signs, limits),
        _hot(signs, limits, Fault.TOO_HOT in before.faults),
        _taken(signs.foreign, limits),
    ]
    return sum(found, HEALTHY)


def _reset(signs: Signs) -> Health:
    health = HEALTHY
    if signs.reset_needed:
        health += Health((Fault.RESET_NEEDED,), ("it needs a reset (nvidia-smi --gpu-reset) before it is used again",))
    if signs.remap_failed:
        health += Health((Fault.REMAP_FAILED,), ("a faulty memory row could not be remapped; have the GPU replaced",))
    return health


def _unreadable(what: Sequence[str]) -> Health:
    if not what:
        return HEALTHY
    named = ", ".join(dict.fromkeys(what))
    why = (
        f"the driver answers 'Unknown Error' when it is asked for its {named}; see dmesg, reset it or reboot this host"
    )
    return Health((Fault.UNREADABLE,), (why,))


def _xids(xids: Sequence[Xid], limits: Limits) -> Health:
    held = sorted({xid.code for xid in xids} - limits.ignored_xids)
    if not held:
        return HEALTHY
    notes = {xid.code for xid in xids if class_of(xid.code) is XidClass.NOTE}
    named = ", ".join(str(code) for code in sorted(notes.union(held)))
    means = ", ".join(filter(None, dict.fromkeys(meaning(code) for code in held)))
    resets = any(class_of(code) is XidClass.RESET for code in held)
    next_step = "reset it (nvidia-smi --gpu-reset) or reboot this host" if resets else "see NVIDIA's list of XIDs"
    return Health((Fault.XID,), (f"the driver reported XID {named}{f' ({means})' if means else ''}; {next_step}",))


def _ecc(signs: Signs, limits: Limits) -> Health:
    count = signs.ecc_uncorrected
    if count is None or count <= limits.ecc_uncorrected:
        return HEALTHY
    allowed = f"; {limits.ecc_uncorrected} allowed" if limits.ecc_uncorrected else ""
    return Health((Fault.ECC,), (f"{count} uncorrected ECC errors since the driver was loaded{allowed}",))


def _hot(signs: Signs, limits: Limits, was_hot: bool) -> Health:
    limit_c = limits.temperature_c if limits.temperature_c is not None else signs.slowdown_c
    if signs.temperature_c is None or limit_c is None:
        return HEALTHY
    if signs.temperature_c < limit_c - (limits.hysteresis_c if was_hot else 0.0):
        return HEALTHY
    until = f", to be used again below {limit_c - limits.hysteresis_c:g} C"
    return Health((Fault.TOO_HOT,), (f"{signs.temperature_c:g} C, the limit is {limit_c:g} C{until}",))


def _taken(foreign: Sequence[Process] | None, limits: Limits) -> Health:
    if not foreign or limits.foreign_memory_mib is None:
        return HEALTHY
    held_mib = sum(process.memory_mib or 0 for process in foreign)
    if held_mib <= limits.foreign_memory_mib:
        return HEALTHY
    largest = max(foreign, key=lambda process: (process.memory_mib or 0, -process.pid))
    who = f"pid {largest.pid}" + (f" ({largest.name})" if largest.name else "")
    others = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
    return Health((Fault.TAKEN,), (f"{who}{others}, which is no run of ours, holds {held_mib} MiB",))
