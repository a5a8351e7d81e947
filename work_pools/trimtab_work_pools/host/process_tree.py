"""All processes of one run, however they were started, and their end.

A run is found by four marks, for each is lost in some way: its control group (where the host has one for it), its
session (lost by setsid), its descendants (lost by a double fork), and the claim in its environment (lost by a child
that is given an empty one). What was found once is remembered.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.to_thread

from trimtab_work_pools.host.clock import SYSTEM, Clock
from trimtab_work_pools.host.process import Process, Row, rows
from trimtab_work_pools.host.run_groups import RunGroup

__all__ = ["MARK", "Members", "ProcessTree", "family"]

MARK = "TRIMTAB_CLAIM"
"""The variable that has the id of the claim a process is here by."""

_SOON_S, _LATER_S = 0.05, 1.0
"""Looked at again after so long: soon at first, then twice as long each time."""
_AGAIN_S, _LOOKS = 0.02, 2
"""Nothing is left if nothing was found twice: what becomes another program has no environment for a moment."""
_STUCK_S = 10.0
"""A process that has not gone so long after SIGKILL cannot be ended: it waits for a device or a dead file server."""


@dataclass(frozen=True, slots=True)
class Members:
    """What was found of a run: its living processes, and the ids of the sessions that they lead or have led."""

    processes: frozenset[Process] = frozenset()
    sessions: frozenset[int] = frozenset()


def family(table: Mapping[int, Row], marked: Collection[int], before: Members, never: Collection[int] = ()) -> Members:
    """What belongs to a run now: what is `marked` as its own or was so `before`, what descends from these, and what is
    in a session of one of them. Pure. `never`: ids that are not a run's, whatever they look like.
    """
    alive = {pid: row for pid, row in table.items() if row.alive and pid not in never}
    found = {pid for pid in marked if pid in alive}
    found |= {one.pid for one in before.processes if one.pid in alive and alive[one.pid].process == one}
    sessions = {sid for sid in before.sessions if sid not in alive or sid in found}  # else another has that id now
    while True:
        sessions |= {pid for pid in found if alive[pid].session == pid}
        more = {pid for pid, row in alive.items() if row.parent in found or row.session in sessions} - found
        if not more:
            return Members(frozenset(alive[pid].process for pid in found), frozenset(sessions))
        found |= more


class ProcessTree:
    """Of the run that is here by the claim `claim_id`. All of it is looked up anew each time; calls take some ms.

    Args:
        claim_id: the value of `MARK` in its environment.
        main: its first process.
        group: its control group, if it has one.
    """

    def __init__(self, claim_id: str, main: Process | None = None, group: RunGroup | None = None) -> None:
        self.claim_id, self.group = claim_id, group
        self._members = Members()
        self.began(main)

    def began(self, main: Process | None) -> None:
        """Its first process is there; it leads a session if it says so."""
        if main is not None and main.ticks:
            self._members = Members(self._members.processes | {main}, self._members.sessions)

    def look(self) -> frozenset[Process]:
        """Its living processes."""
        table = rows()
        return self._find(table, _marked(table, self.claim_id) if self.claim_id else set())

    def glance(self, table: Mapping[int, Row]) -> None:
        """Remembers which processes of `table` are of the run, without reading environments: what is seen while its
        parents live is known when they have gone.
        """
        self._find(table, set())

    def _find(self, table: Mapping[int, Row], marked: set[int]) -> frozenset[Process]:
        marked |= self.group.pids() if self.group else set()
        self._members = family(table, marked, self._members, never=(os.getpid(), os.getppid(), 1))
        return self._members.processes

    def pids(self) -> list[int]:
        """Ids of its living processes, in order."""
        return [one.pid for one in sorted(self.look())]

    def send(self, number: signal.Signals) -> int:
        """Signals all of it; how many there were. One that is stopped is let go on, or it would not hear."""
        if number == signal.SIGKILL:
            return self._kill()
        if number != signal.SIGSTOP and self.group is not None:
            self.group.freeze(False)
        told = [one for one in self.look() if _send(one, number)]
        if number not in (signal.SIGSTOP, signal.SIGCONT):
            for one in told:
                _send(one, signal.SIGCONT)
        return len(told)

    def freeze(self) -> None:
        """Stops all of it where it stands, also what is being forked meanwhile. Its memory and devices stay its own."""
        if self.group is not None and self.group.freeze(True) and {one.pid for one in self.look()} <= self.group.pids():
            return
        stopped: set[Process] = set()
        while fresh := self.look() - stopped:
            for one in fresh:
                _send(one, signal.SIGSTOP)
            stopped |= fresh

    def thaw(self) -> None:
        """Lets all of it go on."""
        self.send(signal.SIGCONT)

    async def end(
        self, grace_s: float, clock: Clock = SYSTEM, stuck: Callable[[frozenset[Process]], None] | None = None
    ) -> None:
        """Ends all of it: SIGTERM, `grace_s` seconds, SIGKILL; returns when nothing of it is left, however long that
        takes. `stuck` is told, once, of processes that not even SIGKILL ends.
        """
        until_s, pause_s = clock.awake_s() + grace_s, _SOON_S
        told: frozenset[Process] = frozenset()
        empty = 0
        while empty < _LOOKS:
            alive = await anyio.to_thread.run_sync(self.look)
            empty = 0 if alive else empty + 1
            if not alive:
                await anyio.sleep(_AGAIN_S)
                continue
            left_s = until_s - clock.awake_s()
            if left_s > 0:
                for one in alive - told:
                    _send(one, signal.SIGTERM)
                    _send(one, signal.SIGCONT)
                told |= alive
            else:
                await anyio.to_thread.run_sync(self._kill)
            if stuck is not None and left_s <= -_STUCK_S:
                stuck(alive)
                stuck = None
            await anyio.sleep(min(pause_s, max(_SOON_S, left_s)))
            pause_s = min(2 * pause_s, _LATER_S)
        self.forget()

    def forget(self) -> None:
        """Nothing of it is left: its group is taken away."""
        if self.group is not None:
            self.group.remove()

    def _kill(self) -> int:
        if self.group is not None:
            self.group.kill()
        return sum(_send(one, signal.SIGKILL) for one in self.look())


def _send(process: Process, number: signal.Signals) -> bool:
    with contextlib.suppress(PermissionError):  # it has become somebody else's (setuid): only root can end it
        return process.send(number)
    return False


def _marked(table: Mapping[int, Row], claim_id: str) -> set[int]:
    wanted = f"{MARK}={claim_id}".encode()
    return {pid for pid, row in table.items() if row.alive and wanted in _environment(pid)}


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:  # it is somebody else's, or has gone
        return []
