"""Stops runs in the safe order: signal, time to write a checkpoint, the end of the process, and only then the queue."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass, replace

from trimtab_work_pools.host.clock import SYSTEM, Clock

__all__ = ["SUPERSEDED", "Send", "Stopping"]

Send = Callable[[signal.Signals], None]
"""Sends a signal to all of what a run lives in; nothing happens if that has gone."""

SUPERSEDED = "Superseded"
"""Why a run is ended here that is somebody else's now: it is killed, and nothing of it is told to the server."""


@dataclass(frozen=True, slots=True)
class _Told:
    send: Send | None
    name: str
    why: str
    until_s: float


class Stopping:
    """Runs that have been told to stop, and what they will be called when they wait again.

    Each has its time by `clock.awake_s`: a host that sleeps takes nothing of it.
    """

    def __init__(self, clock: Clock = SYSTEM) -> None:
        self._clock = clock
        self._told: dict[str, _Told] = {}

    def told(self, run_id: str) -> bool:
        """Whether it has been told already."""
        return run_id in self._told

    def left_s(self) -> dict[str, float]:
        """How long each still has; below 0 if its time is over."""
        return {run_id: told.until_s - self._clock.awake_s() for run_id, told in self._told.items()}

    def tell(self, run_id: str, send: Send | None, name: str, why: str, grace_s: float) -> None:
        """Sends SIGTERM: Prefect raises TerminationSignal in the flow, which may write its state. None: it has not
        started yet.
        """
        self._told[run_id] = _Told(send, name, why, self._clock.awake_s() + grace_s)
        if send is not None:
            send(_number(name))

    def superseded(self, run_id: str) -> bool:
        """Whether it is somebody else's."""
        return run_id in self._told and self._told[run_id].name == SUPERSEDED

    def has_started(self, run_id: str, send: Send) -> None:
        """Tells a run that had not started when it was to stop."""
        told = self._told.get(run_id)
        if told is not None and told.send is None:
            self._told[run_id] = replace(told, send=send)
            send(_number(told.name))

    def press(self) -> None:
        """Ends those whose time is over."""
        for told in self._told.values():
            if told.send is not None and self._clock.awake_s() >= told.until_s:
                told.send(signal.SIGKILL)

    def ended(self, run_id: str) -> tuple[str, str] | None:
        """(name of its next state, why) if it was told to stop; it is forgotten here."""
        told = self._told.pop(run_id, None)
        return (told.name, told.why) if told else None


def _number(name: str) -> signal.Signals:
    return signal.SIGKILL if name == SUPERSEDED else signal.SIGTERM
