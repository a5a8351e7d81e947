"""Watch parts of the stack come up: say when each is ready, and notice at once when one ends instead."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from trimtab_infra.errors import PartFailed, PortLost
from trimtab_infra.stack import ports, processes
from trimtab_infra.stack.services import SERVICES, Service, environment, is_ready, url
from trimtab_infra.stack.state import State, StateFolder

__all__ = ["READY_WITHIN_S", "Say", "Watch", "service"]

#: Seconds a part, or a command, may take; a cold disk and two busy cores took 40 s.
READY_WITHIN_S = 180

#: How often parts are asked, in seconds.
_EVERY_S = 0.1

Say = Callable[[str], None]


def service(name: str) -> Service:
    """A part of the stack by name."""
    return next(one for one in SERVICES if one.name == name)


class Watch:
    """Parts that are coming up. Whatever is waited for, all of them are watched.

    Args:
        say: called with a line when a part is ready.
    """

    def __init__(self, say: Say) -> None:
        self._say = say
        self._pending: dict[str, tuple[State, bool]] = {}

    def add(self, name: str, state: State, fresh: bool) -> None:
        """Watch a part of ``state``; ``fresh`` if it has just been started."""
        self._pending[name] = (state, fresh)

    def wait(self, *names: str) -> None:
        """Return when these parts are ready.

        Raises:
            PartFailed: a watched part ended, or was not ready in time. PortLost: another program took its port.
        """
        while not self._pending.keys().isdisjoint(names):
            self._look()
            time.sleep(_EVERY_S)

    def run(self, command: Sequence[str], folder: StateFolder, state: State, cwd: Path, name: str) -> str:
        """Run a command to its end, with its output in a log called ``name``; returns what it wrote.

        Raises:
            PartFailed: the command failed or took too long; or as ``wait``.
        """
        log = folder.logs / f"{name}.log"
        shown = " ".join(command[1:]).removeprefix("-m ")
        # A wide page, or the line that says what is wrong comes in pieces.
        settings = {**environment(folder, state), "PWD": str(cwd), "COLUMNS": "500"}
        with log.open("w") as out:
            process = subprocess.Popen(
                command, env=settings, cwd=cwd, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )
            try:
                self._finish(process, shown, log)
            finally:
                if process.poll() is None:
                    processes.kill(processes.family(psutil.Process(process.pid)))
                    process.wait()
        if process.returncode:
            raise PartFailed(f"`{shown}` failed: {_last_line(log)} (all of it is in {log})")
        return log.read_text(errors="replace")

    def _finish(self, process: subprocess.Popen[bytes], shown: str, log: Path) -> None:
        deadline = time.monotonic() + READY_WITHIN_S
        while process.poll() is None:
            self._look()
            if time.monotonic() > deadline:
                raise PartFailed(f"`{shown}` has not ended after {READY_WITHIN_S} s; see {log}")
            time.sleep(_EVERY_S)

    def _look(self) -> None:
        """Ask every part that is not ready yet."""
        for name, (state, fresh) in list(self._pending.items()):
            one, part = service(name), state.parts[name]
            took_s = time.time() - part.started
            if is_ready(one, state):
                del self._pending[name]
                address = f" at {url(state, name)}" if name in state.ports else ""
                self._say(f"{one.title} is up{address} ({f'{took_s:.1f} s' if fresh else 'as before'})")
            elif processes.find(part) is None:
                raise _ended(one, state)
            elif fresh and took_s > READY_WITHIN_S:
                raise PartFailed(f"{one.title} is not ready after {READY_WITHIN_S} s; see {part.log}")


def _ended(one: Service, state: State) -> PartFailed | PortLost:
    """Why a part that was starting is gone."""
    port = state.ports.get(one.name)
    if port is not None and not ports.is_free(port):
        return PortLost(f"another program took port {port} while {one.title} was starting")
    log = state.parts[one.name].log
    return PartFailed(f"{one.title} stopped while starting; the end of {log}:\n{processes.tail(Path(log))}")


def _last_line(log: Path) -> str:
    """The line of a log that says what went wrong: the last one, but for what Prefect adds after a traceback."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
    return next((line for line in reversed(lines) if line and line != "An exception occurred."), "it wrote nothing")
