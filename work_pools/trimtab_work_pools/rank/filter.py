"""Sieves the rows of a table for one demand: which rows may fit, by plain counting on whole arrays.

It never leaves out a node that `fit` accepts. What it cannot count (NVLink) it lets pass: `fit` has the last word.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trimtab_work_pools.fit import least_share_memory_mib
from trimtab_work_pools.rank.kinds import Kinds
from trimtab_work_pools.rank.table import StateTable
from trimtab_work_pools.resources import WHOLE, Demand, Gpu

__all__ = ["Flags", "Idle", "Question", "Rows"]

Rows = NDArray[np.int64]
Flags = NDArray[np.bool_]


class Question:
    """A demand asked of a table. What depends on the kind of node only is answered once."""

    def __init__(self, table: StateTable, demand: Demand) -> None:
        self.table, self.demand = table, demand
        kinds = table.kinds
        # The last entry is for a GPU that is not there: gpu_type -1.
        suits = np.array([*(_suits(gpu, demand) for gpu in kinds.gpu_types), False], dtype=bool)
        self._gpu_fits: Flags = suits[kinds.gpu_type]
        self.suits: Flags = self._gpu_fits.sum(axis=1) >= max(1, demand.gpus)
        self._labels: Flags = np.array([_labelled(labels, demand) for labels in kinds.label_sets], dtype=bool)
        self._any_gpu = bool(self._gpu_fits.all())

    def gpus(self, rows: Rows) -> Flags:
        """Of each row, which GPUs could be given (rows x GPUs): the right kind, the share and the memory free."""
        table, demand = self.table, self.demand
        free: Flags = table.share[rows] >= (demand.gpu_share_milli if demand.shared else WHOLE)
        if not self._any_gpu:
            free &= self._gpu_fits[table.kind[rows]]
        if demand.gpu_memory_mib:
            free &= table.gpu_memory[rows] >= demand.gpu_memory_mib
        elif demand.shared:
            free &= table.gpu_memory[rows] >= least_share_memory_mib(table.gpu_usable[rows], demand.gpu_share_milli)
        return free

    def host(self, rows: Rows) -> Flags:
        """Which rows have a node, of a kind that may, with the CPUs, the memory and the disk."""
        table, demand = self.table, self.demand
        fits: Flags = (table.count[rows] > 0) & (table.cpu[rows] >= demand.cpu_milli)
        fits &= table.memory[rows] >= demand.memory_mib
        if demand.disk_mib:
            fits &= table.disk[rows] >= demand.disk_mib
        if demand.node_labels:
            fits &= self._labels[table.kinds.label_set[table.kind[rows]]]
        return fits

    def fits(self, rows: Rows) -> Flags:
        """Which rows have room, as far as counting can tell."""
        fits = self.host(rows)
        if self.demand.gpus:
            fits = fits & (self.gpus(rows).sum(axis=1) >= self.demand.gpus)
        return fits


class Idle:
    """The kinds of a fleet as if nothing were given away."""

    def __init__(self, kinds: Kinds) -> None:
        self._table = StateTable(kinds, [kinds.state(place, kind) for place, kind in enumerate(kinds.nodes)])

    def could_host(self, demand: Demand) -> Flags:
        """By kind: whether it has room for `demand`, as far as counting can tell."""
        return Question(self._table, demand).fits(np.arange(len(self._table.kinds)))


def _labelled(labels: tuple[tuple[str, str], ...], demand: Demand) -> bool:
    has = dict(labels)
    return all(has.get(key) in allowed for key, allowed in demand.node_labels)


def _suits(gpu: Gpu, demand: Demand) -> bool:
    return (
        (not demand.gpu_models or gpu.model in demand.gpu_models)
        and gpu.mig_profile == demand.gpu_mig_profile
        and gpu.compute_capability >= demand.gpu_compute_capability
        and gpu.healthy
    )
