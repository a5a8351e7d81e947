"""A process that has children of every kind, says their ids in one line of JSON, and lives until it is told to end.

python lineage.py KIND...: as the run of a claim, TRIMTAB_CLAIM is in its environment.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

SLEEPER = [sys.executable, "-c", "import signal; signal.pause()"]
DEAF = [
    sys.executable,
    "-c",
    "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); signal.pause()",
]


def _pid_of(starts: object) -> int:
    """What a function that ends in a process of its own tells of the process it has left behind."""
    ours, its = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(its, f"{starts()}\n".encode())  # type: ignore[operator]
        os._exit(0)
    os.close(its)
    os.waitpid(child, 0)
    with os.fdopen(ours) as said:
        return int(said.readline())


def plain() -> int:
    return subprocess.Popen(SLEEPER).pid


def deaf() -> int:
    child = subprocess.Popen(DEAF, stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    return child.pid


def session() -> int:
    return subprocess.Popen(SLEEPER, start_new_session=True).pid


def deaf_session() -> int:
    child = subprocess.Popen(DEAF, stdout=subprocess.PIPE, start_new_session=True)
    assert child.stdout is not None
    child.stdout.readline()
    return child.pid


def double_fork() -> int:
    """A daemon: its parent has gone, and it leads a session."""
    return _pid_of(session)


def double_fork_plain() -> int:
    return _pid_of(plain)


def nameless() -> int:
    """One with an empty environment."""
    return subprocess.Popen(SLEEPER, env={}).pid


def bare_fork() -> int:
    """A daemon that runs no new program."""

    def start() -> int:
        child = os.fork()
        if child == 0:
            os.setsid()
            while True:
                signal.pause()
        return child

    return _pid_of(start)


def stopped() -> int:
    child = subprocess.Popen(SLEEPER).pid
    os.kill(child, signal.SIGSTOP)
    return child


KINDS = {
    one.__name__: one
    for one in (plain, deaf, session, deaf_session, double_fork, double_fork_plain, nameless, bare_fork, stopped)
}


def children(kinds: list[str]) -> dict[str, int]:
    """Of each kind, by name."""
    return {kind: KINDS[kind]() for kind in kinds}


if __name__ == "__main__":
    print(json.dumps(children(sys.argv[1:])), flush=True)
    sys.stdin.read()
