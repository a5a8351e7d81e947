"""Ranks where a demand should go: where it leaves the fewest GPUs expected to be stranded, under the mix learnt so far.

After FGD (Weng et al., "Beware of Fragmentation", USENIX ATC'23), which asks what the *next* demand could not use. Here
each state of a node has an expected loss (`outlook`), and a placement's score is the loss before less the loss after.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from trimtab_work_pools.rank.filter import Flags, Idle, Question, Rows
from trimtab_work_pools.rank.mix import Census, Mix
from trimtab_work_pools.rank.outlook import Aims, Outlook, outlook
from trimtab_work_pools.rank.table import StateTable
from trimtab_work_pools.resources import WHOLE, Demand, Node, Placement

__all__ = ["NOT_HERE", "Floats", "Ranking", "StrandingRank", "cached_share"]

Floats = NDArray[np.float64]

NOT_HERE = -np.inf
"""The score of a row on which the demand does not fit."""


class Ranking(Protocol):
    """How good each row of a table is for a demand; higher is better. `version` changes when old scores are void."""

    version: int

    def see(self, asked: Demand) -> None:
        """Told of the shape of each demand once, as it arrives, before it is ranked."""
        ...

    def scores(self, question: Question, rows: Rows) -> Floats:
        """One score for each of `rows`, NOT_HERE where it does not fit."""
        ...

    def choose(self, node: Node, options: Sequence[Placement]) -> Placement:
        """The best of several choices of devices on one node."""
        ...


class StrandingRank:
    """Least expected stranding. Scores are GPUs: at most the GPUs demanded, and as a rule between -1 and that.

    Without a `mix` it is learnt from what is seen, and the tables are renewed when a quarter more has been seen.
    """

    def __init__(self, table: StateTable, aims: Aims | None = None, mix: Mix | None = None) -> None:
        self.version = 0
        self._table = table
        self._aims = aims or Aims()
        self._census = Census()
        self._learns = mix is None
        self._renew_at = 1
        self._hosts: dict[Demand, Flags] = {}
        self._idle = Idle(table.kinds)
        self._gpu_memory_mib = np.array([_mean_gpu_memory_mib(kind) for kind in table.kinds.nodes])
        self._capacity = [
            float(number * sum(gpu.healthy for gpu in kind.gpus))
            for kind, number in zip(table.kinds.nodes, table.kinds.counts, strict=True)
        ]
        self._outlook = self._look(mix or Mix())

    def see(self, asked: Demand) -> None:
        if not self._learns:
            return
        self._census.see(asked)
        if self._census.seen >= self._renew_at:
            self._outlook = self._look(self._census.mix())
            self._renew_at = self._census.seen + 1 + self._census.seen // 4
            self.version += 1

    def _look(self, mix: Mix) -> Outlook:
        for demand, _ in mix.entries:
            if demand not in self._hosts:
                self._hosts[demand] = self._idle.could_host(demand)
        return outlook(mix, self._capacity, self._hosts, self._table.gpus, self._aims)

    def scores(self, question: Question, rows: Rows) -> Floats:
        """One score for each of `rows`. What does not fit, most rows of a busy fleet, is not reckoned."""
        fits = question.fits(rows)
        result = np.full(len(rows), NOT_HERE)
        if fits.any():
            result[fits] = self._gains(question, rows[fits])
        return result

    def _gains(self, question: Question, rows: Rows) -> Floats:
        """For rows on which the demand fits."""
        table, demand, aims = self._table, question.demand, self._aims
        share = table.share[rows]
        before = self._loss(rows, share, table.cpu[rows], table.memory[rows])
        cpu, memory = table.cpu[rows] - demand.cpu_milli, table.memory[rows] - demand.memory_mib
        if demand.gpus == 0:
            gain = before - self._loss(rows, share, cpu, memory)
        elif demand.shared:
            gain = self._best_share(question, rows, before, cpu, memory)
        else:
            can = question.gpus(rows)
            left = np.where(can & (np.cumsum(can, axis=1) <= demand.gpus), 0, share)
            gain = before - self._loss(rows, left, cpu, memory)
        if demand.gpu_memory_mib:
            used = demand.gpu_memory_mib / self._gpu_memory_mib[table.kind[rows]]
            gain = gain - aims.tight_memory * np.maximum(0.0, 1.0 - used)
        return gain

    def _best_share(self, question: Question, rows: Rows, before: Floats, cpu: Floats, memory: Floats) -> Floats:
        """The gain on the best GPU of each row, by the loss after each choice; NOT_HERE where no GPU has the share."""
        table, look, size = self._table, self._outlook, question.demand.gpu_share_milli
        share = table.share[rows]
        left = np.maximum(share - size, 0)
        loss, whole, free = self._sums(share)
        idle = share == WHOLE
        # Per GPU: the sums of the row as they would be if this one were given.
        losses = loss[:, None] - look.share_loss[share] + look.share_loss[left]
        fillable = np.maximum((free[:, None] - size) / WHOLE - losses, 0.0)
        after = losses + look.whole_loss[whole[:, None] - idle]
        after += look.cpu.short(fillable, cpu[:, None])
        after += self._aims.memory * look.memory.short(fillable, memory[:, None])
        after -= look.price[table.kind[rows]][:, None] * (free[:, None] - size) / WHOLE
        best: Floats = np.where(question.gpus(rows), before[:, None] - after, NOT_HERE).max(axis=1)
        return best

    def _sums(self, share: NDArray[np.int64]) -> tuple[Floats, NDArray[np.int64], NDArray[np.int64]]:
        """Of each row: expected stranded for want of share, GPUs that are whole, thousandths free."""
        return self._outlook.share_loss[share].sum(axis=1), (share == WHOLE).sum(axis=1), share.sum(axis=1)

    def _loss(self, rows: Rows, share: NDArray[np.int64], cpu: Floats, memory: Floats) -> Floats:
        """Expected GPUs stranded in a state, less what its free GPUs are worth to demands that can use only them."""
        look = self._outlook
        loss, whole, free = self._sums(share)
        fillable = np.maximum(free / WHOLE - loss, 0.0)
        short = look.cpu.short(fillable, cpu) + self._aims.memory * look.memory.short(fillable, memory)
        result: Floats = loss + look.whole_loss[whole] + short - look.price[self._table.kind[rows]] * free / WHOLE
        return result

    def choose(self, node: Node, options: Sequence[Placement]) -> Placement:
        """Of equal gains the first: options come tightest first."""
        if len(options) == 1:
            return options[0]
        after = [node.take(option) for option in options]
        share = np.array([[gpu.share_free_milli for gpu in one.gpus] for one in after])
        cpu = np.array([float(one.cpu_free_milli) for one in after])
        memory = np.array([float(one.memory_free_mib) for one in after])
        row = np.zeros(len(after), dtype=np.int64)  # one node: the price is the same for all
        loss = self._loss(row, share, cpu, memory)
        return options[int(np.argmax(loss <= loss.min() + 1e-9))]


def cached_share(node: Node, demand: Demand) -> float:
    """Part (0..1) of the data that `demand` reads which lies on the node; digests carry no sizes: each counts alike."""
    return len(demand.reads & node.cached_digests) / len(demand.reads) if demand.reads else 0.0


def _mean_gpu_memory_mib(kind: Node) -> float:
    return max(1.0, sum(gpu.memory_total_mib for gpu in kind.gpus) / max(1, len(kind.gpus)))
