"""Binds a run to CPUs of its own: those that no other run is bound to, near its GPUs."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable

from trimtab_work_pools.devices_env import choose_cpus
from trimtab_work_pools.inventory import Host
from trimtab_work_pools.resources import Node, Placement

__all__ = ["bind"]


def bind(pid: int, placement: Placement, node: Node, host: Host, others: Iterable[int]) -> tuple[int, ...]:
    """Binds process `pid`, and what it starts from now on; returns the CPU ids, or none where it is left alone.

    `others` are the pids of the runs that are here already. A run that asked for no CPUs, or for as many as there are,
    is left alone, and so is one that has gone already.
    """
    load: Counter[int] = Counter()
    for other in others:
        bound = _bound(other)
        if len(bound) < len(host.cpus):
            load.update(bound)
    cpus = choose_cpus(placement, node, host.numa_cpus or ((0, host.cpus),), load)
    if not 0 < len(cpus) < len(host.cpus):
        return ()
    try:
        os.sched_setaffinity(pid, cpus)
    except OSError:  # it has gone, or this kernel (a sandbox) binds nothing
        return ()
    return cpus


def _bound(pid: int) -> frozenset[int]:
    try:
        return frozenset(os.sched_getaffinity(pid))
    except OSError:
        return frozenset()
