"""Whether a process may be forked: what it has that a child must not inherit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["faults", "look"]

#: Descriptors of these kinds belong to somebody: a connection, an event loop, a driver.
_SHARED = ("socket:", "anon_inode:[eventpoll]", "anon_inode:[io_uring]", "/dev/nvidia", "/dev/kfd", "/dev/dri")

_STDIO = (0, 1, 2)


def look() -> tuple[int, dict[int, str]]:
    """Threads of this process, of whatever library, and what its descriptors are."""
    open_files = {}
    for link in Path("/proc/self/fd").iterdir():
        try:
            open_files[int(link.name)] = str(link.readlink())
        except FileNotFoundError:
            continue  # the descriptor of this very listing
    return len(list(Path("/proc/self/task").iterdir())), open_files


def faults(threads: int, open_files: Mapping[int, str], own: Sequence[int]) -> list[str]:
    """What speaks against forking now, in words; empty if nothing does.

    Args:
        threads: how many the process has. A forked child has one, and the locks of all.
        open_files: descriptor to target, as in /proc/self/fd.
        own: descriptors that are meant to be there; stdin, stdout and stderr (a socket, under systemd) always are.
    """
    found = [f"has {threads} threads, where a process that forks may have one"] if threads != 1 else []
    meant = {*_STDIO, *own}
    shared = sorted({name for fd, name in open_files.items() if name.startswith(_SHARED) and fd not in meant})
    return [*found, *(f"holds {name} open" for name in shared)]
