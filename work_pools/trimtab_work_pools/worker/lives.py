"""What the runs of a worker live in: how they are looked for, told to stop, and waited for."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import anyio

from trimtab_work_pools.worker.host_claims import HostClaim, created_s
from trimtab_work_pools.worker.stopping import Send
from trimtab_work_pools.worker.usage import memory_mib

__all__ = ["End", "Lives", "Processes"]


@dataclass(frozen=True, slots=True)
class End:
    """How a run ended. `exit_code` as in subprocess (negative: a signal); None if that cannot be known any more.
    `oom_killed`: the kernel ended a process of it for want of memory.
    """

    exit_code: int | None = None
    oom_killed: bool = False


class Lives(Protocol):
    """Processes, or containers, of this host. None of these raises if a run has gone."""

    in_containers: bool

    def name(self, claim: HostClaim) -> str:
        """For people."""
        ...

    async def problem(self) -> str:
        """Why nothing can be started now; "" if it can."""
        ...

    async def unknown(self, server: str, pool: str, known: Collection[str]) -> list[HostClaim]:
        """Claims of runs that are here, although none of the `known` claim ids is theirs."""
        ...

    async def look(self, claim: HostClaim) -> HostClaim | None:
        """The claim with what is known of its run now; None if nothing of that is there any more."""
        ...

    def sender(self, claim: HostClaim) -> Send:
        """Sends signals to the run."""
        ...

    async def end(self, claim: HostClaim) -> End:
        """Waits until the run has ended."""
        ...

    def memory_mib(self, claim: HostClaim) -> int | None:
        """Host memory that the run has now, or has had at most; None if that cannot be seen. May block."""
        ...


class Processes:
    """Honours Lives."""

    in_containers = False

    def name(self, claim: HostClaim) -> str:
        return f"process {claim.pid}"

    async def problem(self) -> str:
        return ""

    async def unknown(self, server: str, pool: str, known: Collection[str]) -> list[HostClaim]:
        """None: a process does not say by which claim it is here."""
        return []

    async def look(self, claim: HostClaim) -> HostClaim | None:
        return claim if claim.running else None

    def sender(self, claim: HostClaim) -> Send:
        return partial(_signal, claim.pid, created_s(claim.pid))

    async def end(self, claim: HostClaim) -> End:
        with contextlib.suppress(ProcessLookupError):
            process = os.pidfd_open(claim.pid)
            try:
                if claim.running:
                    await anyio.wait_readable(process)
            finally:
                os.close(process)
        return End()

    def memory_mib(self, claim: HostClaim) -> int | None:
        return memory_mib(claim.pid)


def _signal(pid: int, pid_created_s: float, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        if pid and created_s(pid) == pid_created_s > 0:
            os.kill(pid, number)
