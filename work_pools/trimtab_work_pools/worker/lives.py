"""What the runs of a worker live in: how they are looked for, told to stop, and waited for."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Protocol

import anyio
import anyio.to_thread

from trimtab_work_pools.host.clock import SYSTEM, Clock
from trimtab_work_pools.host.process import Process, read_row, rows
from trimtab_work_pools.host.process_tree import ProcessTree
from trimtab_work_pools.worker.host_claims import HostClaim, tree_of
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

    def pids(self, claim: HostClaim) -> list[int]:
        """Of all that lives of the run, as far as it can be seen from here. May block for some ms."""
        ...

    def glance(self, claims: Collection[HostClaim]) -> None:
        """Remembers what belongs to these runs now. May block for some ms."""
        ...

    def sender(self, claim: HostClaim) -> Send:
        """Sends signals to all of the run, in the background and in order."""
        ...

    async def clear(self, claim: HostClaim, grace_s: float, stuck: Callable[[str], None]) -> None:
        """Ends what the run has left behind: SIGTERM, `grace_s` seconds, SIGKILL. Returns when nothing of it is left;
        `stuck` is told, in words, what cannot be ended.
        """
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

    def __init__(self, clock: Clock = SYSTEM) -> None:
        self._clock = clock
        self._trees: dict[str, ProcessTree] = {}
        self._signals = ThreadPoolExecutor(1, thread_name_prefix="run-signals")

    def tree(self, claim: HostClaim) -> ProcessTree:
        """All processes of the run; what was seen of it before is remembered until it is cleared."""
        tree = self._trees.setdefault(claim.claim_id, tree_of(claim))
        tree.began(claim.main)
        return tree

    def name(self, claim: HostClaim) -> str:
        return f"process {claim.pid}"

    async def problem(self) -> str:
        return ""

    async def unknown(self, server: str, pool: str, known: Collection[str]) -> list[HostClaim]:
        """None: a process does not say by which pool it is here."""
        return []

    async def look(self, claim: HostClaim) -> HostClaim | None:
        """A worker that was killed may have started a process that it could not write down any more."""
        if claim.pid:
            self.glance([claim])
            return claim if claim.running else None
        found = await anyio.to_thread.run_sync(self.tree(claim).look)
        main = min(found, key=lambda one: (one.ticks, one.pid), default=None)
        return replace(claim, pid=main.pid, pid_ticks=main.ticks) if main else None

    def pids(self, claim: HostClaim) -> list[int]:
        return self.tree(claim).pids()

    def glance(self, claims: Collection[HostClaim]) -> None:
        table = rows()
        for claim in claims:
            self.tree(claim).glance(table)

    def sender(self, claim: HostClaim) -> Send:
        tree = self.tree(claim)

        def send(number: signal.Signals) -> None:
            if number == signal.SIGSTOP:
                self._signals.submit(tree.freeze)  # also what is being forked meanwhile
            else:
                self._signals.submit(tree.send, number)

        return send

    async def clear(self, claim: HostClaim, grace_s: float, stuck: Callable[[str], None]) -> None:
        def told(processes: frozenset[Process]) -> None:
            stuck(", ".join(_state(one) for one in sorted(processes)))

        await self.tree(claim).end(grace_s, self._clock, told)
        self._trees.pop(claim.claim_id, None)

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


def _state(process: Process) -> str:
    row = read_row(process.pid)
    return f"process {process.pid} ({row.name}, state {row.state})" if row else f"process {process.pid}"
