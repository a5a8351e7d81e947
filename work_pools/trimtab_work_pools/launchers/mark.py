"""The claim of a forked run where others can read it: in the environment that its process was started with.

/proc/PID/environ shows the block that execve filled. A fork has its parent's, and what it sets later lies elsewhere. So
the parent is started with room for a claim, and a child writes its own there; what it forks has it too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

from trimtab_work_pools.host.process_tree import MARK

__all__ = ["with_room", "write_mark"]

_LENGTH = 32
"""Of the id of a claim."""
_ENV_START = 47
"""Place of `env_start` in /proc/self/stat behind the name, see proc_pid_stat(5)."""


def with_room(env: Mapping[str, str]) -> dict[str, str]:
    """`env` with a claim that is nobody's."""
    return {**env, MARK: "-" * _LENGTH}


def write_mark(claim_id: str) -> None:
    """Puts the claim into the room that was left for it; nothing where there is none, or the kernel forbids it."""
    value = claim_id.encode()
    if len(value) != _LENGTH:
        return
    with contextlib.suppress(OSError, ValueError, IndexError):
        block = Path("/proc/self/environ").read_bytes()
        room = f"{MARK}={'-' * _LENGTH}".encode()
        at = block.index(room) + len(room) - _LENGTH
        start = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[_ENV_START])
        with Path("/proc/self/mem").open("r+b", buffering=0) as memory:
            memory.seek(start + at)
            memory.write(value)
