"""Reads what this process may use of its host: CPUs (affinity, cgroup), memory (cgroup), disk, labels, cached data."""

from __future__ import annotations

import re
import shutil
import socket
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import psutil

from trimtab_work_pools.inventory.cgroup import cpu_limit_milli, memory_limit_mib
from trimtab_work_pools.inventory.marks import Mark, unmarked
from trimtab_work_pools.inventory.reading import Host
from trimtab_work_pools.resources import brief, labels_of

__all__ = ["LABELS_VARIABLE", "HostReader", "LabelError", "id_list", "parse_labels"]

LABELS_VARIABLE = "TRIMTAB_NODE_LABELS"
"""Labels of this node, as `key=value,key=value`."""

MIB = 1024 * 1024
_NOTHING: Mapping[str, str] = {}
_KEY = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_./-]{0,61}[A-Za-z0-9])?")


class LabelError(ValueError):
    """A label of a node is not written as key=value; the text names it and says where it came from."""


def parse_labels(given: Iterable[str], environment: Mapping[str, str]) -> dict[str, str]:
    """Labels from the command line (`given`, each one key=value) and from TRIMTAB_NODE_LABELS in `environment`.

    A label on the command line wins over one in the environment. Raises LabelError for what is no label, and for one
    key with two values in the same place.
    """
    from_environment = [part for part in environment.get(LABELS_VARIABLE, "").split(",") if part.strip()]
    return {**_labels(from_environment, LABELS_VARIABLE), **_labels(given, "the command line")}


def _labels(texts: Iterable[str], where: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        key, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not value:
            raise LabelError(f"label {text.strip()!r} in {where} must be key=value, like region=eu-1")
        if not _KEY.fullmatch(key):
            allowed = "letters, digits and _ . / - inside, at most 63"
            raise LabelError(f"label {text.strip()!r} in {where}: the key {key!r} may have {allowed}")
        if found.get(key, value) != value:
            raise LabelError(f"label {key!r} has two values in {where}, {found[key]!r} and {value!r}; give one")
        found[key] = value
    return found


class HostReader:
    """Reads the host afresh each time; `root` is the top folder (tests put their own /proc and /sys there)."""

    def __init__(
        self,
        folder: Path,
        *,
        name: str = "",
        labels: Mapping[str, str] | None = None,
        cached_digests: Callable[[], Iterable[str]] = tuple,
        root: Path = Path("/"),
        mark: Mark = unmarked,
    ) -> None:
        self._folder = folder
        self._name = name or socket.gethostname()
        self._labels = labels_of(labels or {})
        self._cached_digests = cached_digests
        self._root, self._mark = root, mark

    def read(self, left_out: Mapping[str, str] = _NOTHING) -> Host:
        """The host now; what cannot be read is None and named in `problems`. `left_out`: what is not to be asked
        ("disk", "digests") and why.
        """
        problems: list[str] = []
        cpus = usable_cpus()
        memory = psutil.virtual_memory()
        limit_mib = memory_limit_mib(self._root)
        total_mib = min(memory.total // MIB, limit_mib or memory.total // MIB)
        disk = self._disk(problems, left_out)
        return Host(
            name=self._name,
            cpu_total_milli=min(1000 * len(cpus), cpu_limit_milli(self._root) or 1000 * len(cpus)),
            memory_total_mib=total_mib,
            cpus=cpus,
            numa_cpus=numa_cpus(cpus, self._root),
            memory_available_mib=min(memory.available // MIB, total_mib),
            folder=str(self._folder),
            disk_total_mib=disk[0],
            disk_free_mib=disk[1],
            labels=self._labels,
            cached_digests=self._digests(problems, left_out),
            problems=tuple(problems),
        )

    def _disk(self, problems: list[str], left_out: Mapping[str, str]) -> tuple[int, int] | tuple[None, None]:
        if "disk" in left_out:
            problems.append(f"the disk of {self._folder} does not answer: {left_out['disk']}")
            return None, None
        self._mark("disk", "statvfs")
        try:
            usage = shutil.disk_usage(self._folder)
        except OSError as error:
            problems.append(f"the disk of {self._folder} cannot be read: {error.strerror}")
            return None, None
        return usage.total // MIB, usage.free // MIB

    def _digests(self, problems: list[str], left_out: Mapping[str, str]) -> frozenset[str]:
        if "digests" in left_out:
            problems.append(f"the cached data cannot be listed: {left_out['digests']}")
            return frozenset()
        self._mark("digests", "listing the cache")
        try:
            return frozenset(map(brief, self._cached_digests()))
        except OSError as error:
            problems.append(f"the cached data cannot be listed: {error}")
            return frozenset()


def usable_cpus() -> tuple[int, ...]:
    """Ids of the CPUs this process may run on, ascending (taskset and cpusets leave some out)."""
    process = psutil.Process()
    if hasattr(process, "cpu_affinity"):
        return tuple(sorted(process.cpu_affinity()))
    return tuple(range(psutil.cpu_count() or 1))  # macOS has no affinity


def numa_cpus(cpus: Iterable[int], root: Path = Path("/")) -> tuple[tuple[int, tuple[int, ...]], ...]:
    """Each NUMA node with those of `cpus` that are on it; nothing where the kernel tells none."""
    usable = frozenset(cpus)
    found = []
    for folder in (root / "sys/devices/system/node").glob("node[0-9]*"):
        try:
            number, listed = int(folder.name.removeprefix("node")), id_list((folder / "cpulist").read_text())
        except (OSError, ValueError):  # ValueError: of a form that nobody has described yet
            continue
        if own := tuple(sorted(usable.intersection(listed))):
            found.append((number, own))
    return tuple(sorted(found))


def id_list(text: str) -> tuple[int, ...]:
    """The kernel's list format, "0-3,8": https://docs.kernel.org/admin-guide/cputopology.html. Raises ValueError."""
    ids: list[int] = []
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        if first:
            ids.extend(range(int(first), int(last or first) + 1))
    return tuple(ids)
