"""The limits that control groups (version 1 and 2) put on this process: CPU time and memory.

Formats: https://docs.kernel.org/admin-guide/cgroup-v2.html (`cpu.max`, `memory.max`) and
https://docs.kernel.org/admin-guide/cgroup-v1/ (`cpu.cfs_quota_us`, `memory.limit_in_bytes`). A group is limited by all
groups above it, so the lowest limit on the way up counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

__all__ = ["cpu_limit_milli", "memory_limit_mib", "oom_kills"]

MIB = 1024 * 1024
_NO_LIMIT_V1 = 1 << 62
"""Version 1 writes "no limit" as a number near 2**63, rounded down to a page."""


def cpu_limit_milli(root: Path = Path("/")) -> int | None:
    """CPUs' worth of time this process may use, in thousandths; None without a limit. `root` is the top folder."""
    limits = []
    for folder in _groups(root, "cpu"):
        # "50000 100000" or "max 100000" in version 2, two files in version 1.
        unified = _text(folder / "cpu.max").split()
        texts = unified or [_text(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period")]
        quota, period = (_number(texts[0]), _number(texts[1])) if len(texts) > 1 else (None, None)
        if quota and period:
            limits.append(max(1, quota * 1000 // period))
    return min(limits, default=None)


def memory_limit_mib(root: Path = Path("/")) -> int | None:
    """Memory this process may use; None without a limit. `root` is the top folder."""
    limits = []
    for folder in _groups(root, "memory"):
        limit = _number(_text(folder / "memory.max") or _text(folder / "memory.limit_in_bytes"))
        if limit is not None and limit < _NO_LIMIT_V1:
            limits.append(limit // MIB)
    return min(limits, default=None)


def oom_kills(root: Path = Path("/")) -> int:
    """Processes that the kernel has ended for want of memory: in the group of this process, or on the whole host where
    the group does not tell. Only its growth says something.
    """
    for folder in _groups(root, "memory"):
        for line in (_text(folder / "memory.events") or _text(folder / "memory.oom_control")).splitlines():
            if (count := _count(line)) is not None:
                return count
    counts = (_count(line) for line in _text(root / "proc/vmstat").splitlines())
    return next((count for count in counts if count is not None), 0)


def _count(line: str) -> int | None:
    """Of a line "oom_kill 3"; None for others."""
    name, _, number = line.partition(" ")
    return _number(number.strip()) if name == "oom_kill" else None


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """Folders of the group this process is in and of those above it, as far as they are mounted."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, colon, path = rest.partition(":")
        if not colon:
            continue  # of a form that nobody has described yet
        unified = number == "0" and not controllers
        if unified or controller in controllers.split(","):
            for base, point in _mounts(root, None if unified else controller):
                yield from _upwards(root / point.lstrip("/"), PurePosixPath(path), PurePosixPath(base))


def _upwards(mounted: Path, group: PurePosixPath, base: PurePosixPath) -> Iterator[Path]:
    # In a container without its own cgroup name space the mount starts at (or below) the group itself.
    inside = group.relative_to(base) if group.is_relative_to(base) else PurePosixPath()
    for part in (inside, *inside.parents):
        yield mounted / part


def _mounts(root: Path, controller: str | None) -> Iterator[tuple[str, str]]:
    """(group at its top, mount point) of each hierarchy with this controller; None: of the unified one of version 2.

    The columns are those of proc_pid_mountinfo(5): "... root mount-point options [tags] - type source super-options".
    """
    for line in _text(root / "proc/self/mountinfo").splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = (*right.split(" ", 2), "", "", "")[:3]
        columns = left.split(" ")
        if len(columns) < 5 or kind != ("cgroup2" if controller is None else "cgroup"):
            continue
        if controller is None or controller in options.split(","):
            yield _unescaped(columns[3]), _unescaped(columns[4])


def _unescaped(text: str) -> str:
    """The kernel writes spaces and the like in octal."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except (OSError, ValueError):  # ValueError: a path with a zero in it
        return ""


def _number(text: str) -> int | None:
    """None for "max", for -1 (no limit in version 1) and where there is no file."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 40 else None
