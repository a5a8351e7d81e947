"""Measures fragmentation as FGD does: the GPU share of a node that a random demand of the mix could not use.

Q. Weng et al., "Beware of Fragmentation: Scheduling GPU-Sharing Workloads with Fragmentation Gradient Descent", USENIX
ATC'23, section 4. For a demand that fits a node, the free GPUs too small for it are fragments; for one that does not
fit, or that wants no GPU, all that is free is.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trimtab_work_pools.rank.filter import Question
from trimtab_work_pools.rank.mix import Mix
from trimtab_work_pools.rank.table import FleetTable
from trimtab_work_pools.resources import WHOLE

__all__ = ["Fragmentation"]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class Fragmentation:
    """Expected fragments (GPUs) of states of nodes under a mix. Like FGD it looks at GPUs and CPUs, not at memory."""

    def __init__(self, table: FleetTable, mix: Mix) -> None:
        entries = [(demand, weight) for demand, weight in mix.entries if demand.gpus]
        self._no_gpu = 1.0 - sum(weight for _, weight in entries)
        self._weight = np.array([weight for _, weight in entries])
        self._cpu = np.array([demand.cpu_milli for demand, _ in entries])
        self._gpus = np.array([demand.gpus for demand, _ in entries], dtype=np.int64)
        shares = [demand.gpu_share_milli for demand, _ in entries]
        self._shares, self._share = np.unique(np.array(shares, dtype=np.int64), return_inverse=True)
        suits = [Question(table, demand).suits for demand, _ in entries]
        self._suits = np.stack(suits, axis=1) if suits else np.zeros((len(table.kinds), 0), dtype=bool)

    def of(self, kind: Ints, cpu: Floats, share: Ints) -> Floats:
        """For states given by `kind` (n), free `cpu` (n, milli) and free `share` of each GPU (n x GPUs, milli)."""
        free = share.sum(axis=1)
        if not len(self._weight):
            return np.asarray(free / WHOLE)
        # By distinct share: how many GPUs are large enough, and what is on those that are too small.
        enough = np.zeros((len(free), len(self._shares)), dtype=np.int64)
        small = np.zeros_like(enough)
        for column in share.T:
            large = column[:, None] >= self._shares
            enough += large
            small += np.where(large, 0, column[:, None])
        fits = (enough[:, self._share] >= self._gpus) & (cpu[:, None] >= self._cpu) & self._suits[kind]
        parts = np.where(fits, small[:, self._share], free[:, None])
        result: Floats = (parts * self._weight).sum(axis=1) / WHOLE + self._no_gpu * free / WHOLE
        return result
