"""Tells processes of our runs from others, by who started them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

import psutil

from trimtab_work_pools.inventory.health import Process

__all__ = ["Ours", "Uses", "foreign_mib", "nobody"]

Uses = list[tuple[int, int | None, int | None]] | None
"""(pid, MiB it holds, GPU instance) of each process on a GPU; None where something is not told."""


class Ours:
    """`roots` gives the pids of our runs; what descends from one of them is ours too (data loaders, ranks of a
    torchrun).

    A process in a container that dockerd started descends from none of them: give its pid on the host (`docker
    inspect`) as a root as well. In a container of our own without the host's PID name space no process can be told: all
    are others.
    """

    def __init__(self, roots: Callable[[], Collection[int]]) -> None:
        self._roots = roots

    def others(self, pids: Iterable[int]) -> dict[int, str]:
        """Those of `pids` that are not ours, with their names ("" when they cannot be seen)."""
        roots = frozenset(self._roots())
        return {pid: _name(pid) for pid in pids if not _descends(pid, roots)}


def foreign_mib(used_mib: int | None, processes: Uses, foreign: tuple[Process, ...] | None) -> int | None:
    """What is not free, less what our runs are known to hold; None when that is not known."""
    if used_mib is None or processes is None or foreign is None:
        return None
    others = {process.pid for process in foreign}
    ours = [held for pid, held, _ in processes if pid not in others]
    if None not in ours:
        return max(0, used_mib - sum(held or 0 for held in ours))
    theirs = [process.memory_mib for process in foreign]
    return None if None in theirs else sum(held or 0 for held in theirs)


nobody = Ours(tuple)
"""No process is ours."""


def _descends(pid: int, roots: frozenset[int]) -> bool:
    if pid in roots:
        return True
    if not roots:
        return False
    try:
        return any(parent.pid in roots for parent in psutil.Process(pid).parents())
    except psutil.Error:
        return False


def _name(pid: int) -> str:
    try:
        return str(psutil.Process(pid).name())
    except psutil.Error:
        return ""
