"""Who a process is, as the kernel counts: its id and the tick it was made in, in one start of the host.

Ids are used again, and the time of creation that libraries give is computed from the wall clock: it moves when that is
stepped. The tick (proc_pid_stat(5), field 22) never does.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Process", "Row", "find", "read_row", "rows"]

_DEAD = "ZXx"


@dataclass(frozen=True, slots=True, order=True)
class Process:
    """One process of this start of the host. `ticks`: since the host started, when it was made; 0: it is unknown."""

    pid: int
    ticks: int

    @property
    def alive(self) -> bool:
        """It is there and runs; one that has ended and was not reaped yet does not."""
        return self.ticks > 0 and find(self.pid) == self

    def send(self, number: signal.Signals) -> bool:
        """Signals this process and no other that has its id by now. False if it has gone.

        Raises PermissionError if it is somebody else's.
        """
        try:
            held = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return False
        try:
            if not self.alive:
                return False
            signal.pidfd_send_signal(held, number)
            return True
        except ProcessLookupError:
            return False
        finally:
            os.close(held)


@dataclass(frozen=True, slots=True)
class Row:
    """What /proc/PID/stat says of a process. `alive`: it is no zombie, or threads of it go on after its first."""

    process: Process
    name: str
    state: str
    parent: int
    group: int
    session: int
    alive: bool


def find(pid: int) -> Process:
    """The process that has this id now, with `ticks` 0 if there is none that runs."""
    row = read_row(pid) if pid > 0 else None
    return row.process if row is not None and row.alive else Process(pid, 0)


def rows() -> dict[int, Row]:
    """Every process that can be seen from here, by id."""
    return {row.process.pid: row for row in _rows()}


def _rows() -> Iterator[Row]:
    with os.scandir("/proc") as entries:
        for entry in entries:
            if entry.name.isdigit() and (row := read_row(int(entry.name))) is not None:
                yield row


def read_row(pid: int) -> Row | None:
    """None if there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    # The name may have blanks and parentheses of its own.
    before, _, after = text.rpartition(")")
    with contextlib.suppress(ValueError, IndexError):
        fields = after.split()
        alive = fields[0] not in _DEAD or int(fields[17]) > 1
        return Row(
            Process(pid, int(fields[19])),
            before.partition("(")[2],
            fields[0],
            int(fields[1]),
            int(fields[2]),
            int(fields[3]),
            alive,
        )
    return None
