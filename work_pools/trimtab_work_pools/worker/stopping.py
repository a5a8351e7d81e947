"""Stops runs in the safe order: signal, time to write a checkpoint, the end of the process, and only then the queue."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass, replace

from trimtab_work_pools.worker.host_claims import created_s

__all__ = ["SUPERSEDED", "Stopping"]

SUPERSEDED = "Superseded"
"""Why a run is ended here that is somebody else's now: it is killed, and nothing of it is told to the server."""


@dataclass(frozen=True, slots=True)
class _Told:
    pid: int
    pid_created_s: float
    name: str
    why: str
    until_s: float


class Stopping:
    """Runs that have been told to stop, and what they will be called when they wait again."""

    def __init__(self) -> None:
        self._told: dict[str, _Told] = {}

    def told(self, run_id: str) -> bool:
        """Whether it has been told already."""
        return run_id in self._told

    def times(self) -> dict[str, float]:
        """Until when each is given (s since the epoch)."""
        return {run_id: told.until_s for run_id, told in self._told.items()}

    def tell(self, run_id: str, pid: int, name: str, why: str, grace_s: float) -> None:
        """Sends SIGTERM: Prefect raises TerminationSignal in the flow, which may write its state."""
        self._told[run_id] = _Told(pid, created_s(pid) if pid else 0.0, name, why, time.time() + grace_s)
        _signal(self._told[run_id], _number(name))

    def superseded(self, run_id: str) -> bool:
        """Whether it is somebody else's."""
        return run_id in self._told and self._told[run_id].name == SUPERSEDED

    def has_process(self, run_id: str, pid: int) -> None:
        """Tells a run that had no process yet when it was to stop."""
        told = self._told.get(run_id)
        if told is not None and not told.pid:
            self._told[run_id] = replace(told, pid=pid, pid_created_s=created_s(pid))
            _signal(self._told[run_id], _number(told.name))

    def press(self) -> None:
        """Ends those whose time is over."""
        for told in self._told.values():
            if time.time() >= told.until_s:
                _signal(told, signal.SIGKILL)

    def ended(self, run_id: str) -> tuple[str, str] | None:
        """(name of its next state, why) if it was told to stop; it is forgotten here."""
        told = self._told.pop(run_id, None)
        return (told.name, told.why) if told else None


def _number(name: str) -> signal.Signals:
    return signal.SIGKILL if name == SUPERSEDED else signal.SIGTERM


def _signal(told: _Told, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        if told.pid and created_s(told.pid) == told.pid_created_s > 0:
            os.kill(told.pid, number)
