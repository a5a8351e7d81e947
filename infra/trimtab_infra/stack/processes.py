"""Start a process that outlives this one, know it again later, and end it with everything it started."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import psutil

from trimtab_infra.stack.state import Part

__all__ = ["STACK_ID", "find", "spawn", "stop", "sweep", "tail"]

#: Every process of a stack, and every process those start, carries the stack's id in its environment.
STACK_ID = "TRIMTAB_STACK_ID"


def spawn(command: Sequence[str], environment: Mapping[str, str], cwd: Path, log: Path) -> Part:
    """Start a process in a session of its own, writing to a log; Ctrl-C in our terminal does not reach it."""
    with log.open("ab") as out:
        process = subprocess.Popen(
            command, env=environment, cwd=cwd, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )
    return Part(process.pid, psutil.Process(process.pid).create_time(), str(log))


def find(part: Part | None) -> psutil.Process | None:
    """The live process of a part, or None; another process that got the same id since is not it."""
    if part is None:
        return None
    try:
        process = psutil.Process(part.pid)
        same = abs(process.create_time() - part.started) < 1
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None


def stop(process: psutil.Process, grace_s: float) -> None:
    """Ask a process to end, wait, and end it and all it started."""
    try:
        family = [process, *process.children(recursive=True)]
        process.terminate()
    except psutil.NoSuchProcess:
        return
    _, alive = psutil.wait_procs([process], timeout=grace_s)
    kill([*alive, *(child for child in family[1:] if child.is_running())])


def kill(processes: Iterable[psutil.Process]) -> None:
    """End processes at once, and wait until they are gone."""
    listed = list(processes)
    for process in listed:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(listed, timeout=5)


def sweep(stack_id: str) -> int:
    """End every process that carries a stack's id, but this one and its parents; returns how many there were."""
    found = members(stack_id)
    kill(found)
    return len(found)


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
