"""Binds a run to CPUs of its own: those that no other run is bound to, near its GPUs."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterable

from trimtab_work_pools.devices_env import choose_cpus
from trimtab_work_pools.inventory import Host
from trimtab_work_pools.resources import Node, Placement

__all__ = ["bind", "own_cpus"]


def own_cpus(placement: Placement, node: Node, host: Host, others: Iterable[int]) -> tuple[int, ...]:
    """Ids of the CPUs to bind the run to; none for one that asked for no CPUs, or for as many as there are.

    `others` are the pids of the runs that are here already.
    """
    load: Counter[int] = Counter()
    for other in others:
        bound = _bound(other)
        if len(bound) < len(host.cpus):
            load.update(bound)
    cpus = choose_cpus(placement, node, host.numa_cpus or ((0, host.cpus),), load)
    return cpus if 0 < len(cpus) < len(host.cpus) else ()


def bind(pid: int, cpus: tuple[int, ...]) -> None:
    """Binds a process, and what it starts from now on. One that has gone already is left alone."""
    if cpus:
        with contextlib.suppress(OSError):  # it has gone, or this kernel (a sandbox) binds nothing
            os.sched_setaffinity(pid, cpus)


def _bound(pid: int) -> frozenset[int]:
    try:
        return frozenset(os.sched_getaffinity(pid))
    except OSError:
        return frozenset()
