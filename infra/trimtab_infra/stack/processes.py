"""Start a process that outlives this one, know it again later, and end it with everything it started."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from trimtab_infra.stack.state import Part
from trimtab_work_pools.host import process as identity
from trimtab_work_pools.host.clock import SYSTEM

__all__ = ["STACK_ID", "family", "find", "kill", "listens", "members", "spawn", "stop", "tail", "uninterrupted"]

#: Every process of a stack, and every process those start, carries the stack's id in its environment.
STACK_ID = "TRIMTAB_STACK_ID"


def spawn(command: Sequence[str], environment: Mapping[str, str], cwd: Path, log: Path) -> Part:
    """Start a process in a session of its own, writing to a log; Ctrl-C in our terminal does not reach it."""
    with log.open("ab") as out, _interruptible():
        process = subprocess.Popen(
            command, env=environment, cwd=cwd, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )
    # It is meant to outlive this object, which would warn of that when it goes if it did not think it had ended.
    process.returncode = 0
    started, ticks = psutil.Process(process.pid).create_time(), identity.find(process.pid).ticks
    return Part(process.pid, started, str(log), ticks, SYSTEM.boot_id)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let new processes hear SIGINT, which Prefect's worker turns SIGTERM into.

    A shell that starts us in the background has us ignore SIGINT, and ignored signals are inherited.
    """
    deaf = signal.getsignal(signal.SIGINT) == signal.SIG_IGN and _in_main_thread()
    if deaf:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        if deaf:
            signal.signal(signal.SIGINT, signal.SIG_IGN)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Finish what is inside even if Ctrl-C is pressed again: a half-stopped stack helps nobody."""
    if not _in_main_thread():
        yield
        return
    asked = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, lambda *_: None) for number in asked}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def find(part: Part | None) -> psutil.Process | None:
    """The live process of a part, or None; another process that got the same id since is not it."""
    if part is None:
        return None
    try:
        process = psutil.Process(part.pid)
        same = _is(part, process)
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None


def _is(part: Part, process: psutil.Process) -> bool:
    if part.ticks:
        return part.boot_id == SYSTEM.boot_id and identity.find(part.pid).ticks == part.ticks
    return bool(abs(process.create_time() - part.started) < 1)


def family(process: psutil.Process | None) -> list[psutil.Process]:
    """A process and all that descend from it; nothing for None or a process that has ended."""
    if process is None:
        return []
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def listens(process: psutil.Process, port: int) -> bool:
    """Whether a process, or one it started, is the one that listens on a port."""
    for member in family(process):
        try:
            connections = member.net_connections(kind="tcp")
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        if any(one.status == psutil.CONN_LISTEN and one.laddr.port == port for one in connections):
            return True
    return False


def stop(grace_s: Mapping[psutil.Process, float]) -> None:
    """Ask processes to end, all at once, and end those that stay longer than their grace, with all they started."""
    families = [family(process) for process in grace_s]
    for process in grace_s:
        try:
            process.terminate()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(list(grace_s), timeout=max(grace_s.values(), default=0))
    kill(process for members in families for process in members if process.is_running())


def kill(processes: Iterable[psutil.Process]) -> int:
    """End processes at once, and wait until they are gone; returns how many there were."""
    listed = list(processes)
    for process in listed:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(listed, timeout=5)
    return len(listed)


def members(stack_id: str) -> list[psutil.Process]:
    """Every live process that carries a stack's id, but this one and its parents."""
    own = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid in own or process.status() == psutil.STATUS_ZOMBIE:
                continue
            if process.environ().get(STACK_ID) == stack_id:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def tail(log: Path, lines: int = 12) -> str:
    """The last lines of a log."""
    if not log.exists():
        return ""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
