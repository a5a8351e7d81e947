"""The one clock of a host: how long something took, and which start of the host it was in.

The wall clock is stepped (NTP, a person, a virtual machine that is resumed), so no duration is measured by it. What is
told to the Prefect server is in the server's time, see `worker.control_plane`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

__all__ = ["SYSTEM", "Clock", "ManualClock", "SystemClock"]

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Clock(Protocol):
    """Seconds since the host started. Never stepped, the same in all processes of the host."""

    @property
    def boot_id(self) -> str:
        """Another one each time the host starts; "" where the kernel does not say."""
        ...

    def boot_s(self) -> float:
        """Goes on while the host sleeps: for what is written to files, and for what others promise."""
        ...

    def awake_s(self) -> float:
        """Stands still while the host sleeps, as its processes do: for patience with them."""
        ...


class SystemClock:
    """The kernel's. Honours Clock."""

    @property
    def boot_id(self) -> str:
        return _boot_id()

    def boot_s(self) -> float:
        return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))

    def awake_s(self) -> float:
        return time.monotonic()


@dataclass
class ManualClock:
    """Goes on when it is told to: for tests. Honours Clock."""

    boot_id: str = "this start of the host"
    asleep_s: float = 0.0
    run_s: float = 1000.0

    def boot_s(self) -> float:
        return self.run_s + self.asleep_s

    def awake_s(self) -> float:
        return self.run_s

    def pass_s(self, seconds: float) -> None:
        """So much time passes."""
        self.run_s += seconds

    def suspend_s(self, seconds: float) -> None:
        """The host sleeps so long."""
        self.asleep_s += seconds


@lru_cache(maxsize=1)
def _boot_id() -> str:
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


SYSTEM = SystemClock()
