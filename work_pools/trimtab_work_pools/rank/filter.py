"""Sieves the rows of a fleet table for one demand: which rows may fit, by plain counting on whole arrays.

It never leaves out a node that `fit` accepts. What it cannot count (NVLink) it lets pass: `fit` has the last word.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trimtab_work_pools.rank.table import StateTable
from trimtab_work_pools.resources import WHOLE, Demand, Gpu, Node

__all__ = ["Question"]

Rows = NDArray[np.int64]
Flags = NDArray[np.bool_]


class Question:
    """A demand asked of a table. What depends on the kind of node only is answered once."""

    def __init__(self, table: StateTable, demand: Demand) -> None:
        self.table = table
        self.demand = demand
        kinds, gpus = len(table.kinds), table.gpus
        self.kind_fits = np.array([_labelled(kind, demand) for kind in table.kinds.nodes], dtype=bool)
        self._gpu_fits = np.zeros((kinds, gpus), dtype=bool)
        self._gpu_memory = np.zeros((kinds, gpus))
        self.cached = np.array([_cached(kind, demand) for kind in table.kinds.nodes])
        self.oversize = np.zeros(kinds)
        for place, kind in enumerate(table.kinds.nodes):
            for column, gpu in enumerate(kind.gpus):
                self._gpu_fits[place, column] = _suits(gpu, demand)
                self._gpu_memory[place, column] = _memory_mib(gpu, demand)
            self.oversize[place] = _oversize(kind, demand)
        self.suits = self._gpu_fits.sum(axis=1) >= max(1, demand.gpus)
        self._any_gpu = bool(self._gpu_fits.all())
        self._no_memory = not self._gpu_memory.any()

    def gpus(self, rows: Rows) -> Flags:
        """Of each row, which GPUs could be given: the kind is right, the share and the memory are free."""
        table, demand = self.table, self.demand
        free: Flags = table.share[rows] >= (demand.gpu_share_milli if demand.shared else WHOLE)
        if not self._any_gpu:
            free &= self._gpu_fits[table.kind[rows]]
        if not self._no_memory:
            free &= table.gpu_memory[rows] >= self._gpu_memory[table.kind[rows]]
        return free

    def host(self, rows: Rows) -> Flags:
        """Which rows have a node, of a kind that may, with the CPUs, the memory and the disk."""
        table, demand = self.table, self.demand
        fits: Flags = (table.count[rows] > 0) & (table.cpu[rows] >= demand.cpu_milli)
        fits &= table.memory[rows] >= demand.memory_mib
        if demand.disk_mib:
            fits &= table.disk[rows] >= demand.disk_mib
        if demand.node_labels:
            fits &= self.kind_fits[table.kind[rows]]
        return fits


def _labelled(kind: Node, demand: Demand) -> bool:
    has = dict(kind.labels)
    return all(has.get(key) in allowed for key, allowed in demand.node_labels)


def _suits(gpu: Gpu, demand: Demand) -> bool:
    return (
        (not demand.gpu_models or gpu.model in demand.gpu_models)
        and gpu.mig_profile == demand.gpu_mig_profile
        and gpu.compute_capability >= demand.gpu_compute_capability
        and gpu.healthy
    )


def _memory_mib(gpu: Gpu, demand: Demand) -> int:
    if demand.gpu_memory_mib or not demand.shared:
        return demand.gpu_memory_mib
    return gpu.memory_total_mib * demand.gpu_share_milli // WHOLE


def _cached(kind: Node, demand: Demand) -> float:
    """Part (0..1) of the data it reads that lies on the node; digests carry no sizes, so each counts the same."""
    return len(demand.reads & kind.cached_digests) / len(demand.reads) if demand.reads else 0.0


def _oversize(kind: Node, demand: Demand) -> float:
    """Part (0..1) of the memory of the GPUs that the demand would not use, if it says what it uses."""
    if not demand.gpu_memory_mib or not kind.gpus:
        return 0.0
    mean = sum(gpu.memory_total_mib for gpu in kind.gpus) / len(kind.gpus)
    return max(0.0, 1.0 - demand.gpu_memory_mib / mean) if mean else 0.0
