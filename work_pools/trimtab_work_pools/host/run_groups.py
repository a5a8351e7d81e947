"""A control group of version 2 for each run, where the host lets us make one: no process leaves it by forking.

It has no limits: nothing is switched on in it, so it may be made beside the processes of the worker's own group.
Format: https://docs.kernel.org/admin-guide/cgroup-v2.html (`cgroup.procs`, `cgroup.kill`, `cgroup.freeze`).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

__all__ = ["RunGroup", "own_group"]

_NAME = "trimtab-run-"
_UNITS = (".service", ".scope", ".slice")
_DELEGATED = ("user.delegate", "trusted.delegate")


@dataclass(frozen=True, slots=True)
class RunGroup:
    """The group of one run, at `folder`. None of these raises if it has gone."""

    folder: Path

    @classmethod
    def make(cls, claim_id: str, own: Path | None = None) -> RunGroup | None:
        """Below the worker's `own` group; None where the host does not let us."""
        base = own or own_group()
        if base is None:
            return None
        made = base / f"{_NAME}{claim_id}"
        try:
            made.mkdir(exist_ok=True)
        except OSError:
            return None
        return cls(made)

    def enter(self, pid: int) -> bool:
        """Puts a process into it; what it starts from now on is in it too. Whether that was possible."""
        return _write(self.folder / "cgroup.procs", str(pid))

    def pids(self) -> set[int]:
        """Of all processes in it and in groups that were made below it."""
        found: set[int] = set()
        for folder in self._folders():
            with contextlib.suppress(OSError, ValueError):
                found |= {int(line) for line in (folder / "cgroup.procs").read_text().split()}
        return found - {0}  # 0: one of another PID name space

    def kill(self) -> bool:
        """SIGKILL to all at once, also to those that fork meanwhile (Linux 5.14). Whether the kernel can do that."""
        return _write(self.folder / "cgroup.kill", "1")

    def freeze(self, frozen: bool) -> bool:
        """Stops all of it, or lets it go on. Whether that was possible."""
        return _write(self.folder / "cgroup.freeze", "1" if frozen else "0")

    def remove(self) -> None:
        """Takes it away, if nothing is in it any more."""
        for folder in sorted(self._folders(), key=lambda one: -len(one.parts)):
            with contextlib.suppress(OSError):
                folder.rmdir()

    def _folders(self) -> Iterator[Path]:
        for folder, _, _ in os.walk(self.folder):
            yield Path(folder)


def own_group(root: Path = Path("/")) -> Path | None:
    """The group of this process, if groups may be made in it; else None. `root` is the top folder.

    A group that systemd manages is left alone unless it was delegated (`Delegate=yes`): else systemd may take away what
    is made there.
    """
    path = next((line[3:] for line in _lines(root / "proc/self/cgroup") if line.startswith("0::/")), "")
    for line in _lines(root / "proc/self/mountinfo"):
        left, _, right = line.partition(" - ")
        columns = left.split(" ")
        if not path or not right.startswith("cgroup2 ") or len(columns) < 5:
            continue
        group, base = PurePosixPath(path), PurePosixPath(columns[3])
        if group.is_relative_to(base):
            folder = root / columns[4].lstrip("/") / group.relative_to(base)
            if os.access(folder, os.W_OK) and os.access(folder / "cgroup.procs", os.W_OK) and _ours(folder, group):
                return folder
    return None


def _ours(folder: Path, group: PurePosixPath) -> bool:
    managed = any(part.endswith(_UNITS) for part in group.parts)
    return not managed or any(_attribute(folder, name) == b"1" for name in _DELEGATED)


def _attribute(folder: Path, name: str) -> bytes:
    try:
        return os.getxattr(folder, name)
    except OSError:
        return b""


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def _write(path: Path, text: str) -> bool:
    try:
        path.write_text(text)
    except OSError:
        return False
    return True
