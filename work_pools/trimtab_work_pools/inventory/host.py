"""Reads the host beside its GPUs: what a process here may use of its CPUs and memory, its disk, and its labels.

What a worker offers can be narrowed: TRIMTAB_NODE_NAME, TRIMTAB_NODE_CPUS, TRIMTAB_NODE_MEMORY_MIB,
TRIMTAB_NODE_LABELS (`region=eu-1,tier=gold`), TRIMTAB_NODE_DOMAIN (a rack, or whatever fails together).
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from pathlib import Path

import psutil

from trimtab_work_pools.resources import Gpu, Node, labels_of

__all__ = ["HostError", "host_node"]

_MIB = 2**20
_CGROUP = Path("/sys/fs/cgroup")


class HostError(ValueError):
    """A setting of the node is wrong; the text names the variable and says what is allowed."""


def host_node(gpus: tuple[Gpu, ...] = (), env: Mapping[str, str] | None = None, disk: Path | None = None) -> Node:
    """This host with `gpus`, and nothing given away. Raises HostError."""
    env = os.environ if env is None else env
    disk_mib = psutil.disk_usage(str(disk or Path.cwd())).free // _MIB
    return Node(
        env.get("TRIMTAB_NODE_NAME") or platform.node(),
        round(_number(env, "TRIMTAB_NODE_CPUS", _cpus()) * 1000),
        round(_number(env, "TRIMTAB_NODE_MEMORY_MIB", _memory_mib())),
        gpus,
        # Free space breathes with every log line; a node that changes all the time would be news all the time.
        disk_mib // 1024 * 1024,
        labels=labels_of(_labels(env.get("TRIMTAB_NODE_LABELS", ""))),
        failure_domain=env.get("TRIMTAB_NODE_DOMAIN", ""),
    )


def _number(env: Mapping[str, str], name: str, there_is: float) -> float:
    text = env.get(name)
    if not text:
        return there_is
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 < number < 1e9:
        raise HostError(f"{name} must be a number above 0, not {text!r}")
    return number


def _labels(text: str) -> dict[str, str]:
    labels: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        key, found, value = part.partition("=")
        if not found or not key.strip() or not value.strip():
            raise HostError(f"TRIMTAB_NODE_LABELS must be like region=eu-1,tier=gold; {part!r} is not key=value")
        labels[key.strip()] = value.strip()
    return labels


def _cpus() -> float:
    """CPUs this process may run on, or a cgroup's quota where that is less."""
    allowed = float(len(os.sched_getaffinity(0)))
    quota, period = _text(_CGROUP / "cpu.max").split()[:2] if _text(_CGROUP / "cpu.max") else ("max", "1")
    if quota == "max":
        quota, period = _text(_CGROUP / "cpu/cpu.cfs_quota_us"), _text(_CGROUP / "cpu/cpu.cfs_period_us")
    if quota.isdigit() and period.isdigit():
        allowed = min(allowed, int(quota) / int(period))
    return allowed


def _memory_mib() -> int:
    limits = [psutil.virtual_memory().total]
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        text = _text(_CGROUP / name)
        if text.isdigit():
            limits.append(int(text))
    return int(min(limits)) // _MIB


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
