"""Policies to compare with, and the figures published for them: random, DotProd, GpuPacking, BestFit and FGD.

The published runs break ties by the name of the node. Here they go to the state with the least left, as everywhere.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from enum import StrEnum

import numpy as np

from trimtab_work_pools.rank.filter import Question, Rows
from trimtab_work_pools.rank.mix import Census, Mix
from trimtab_work_pools.rank.outlook import Aims
from trimtab_work_pools.rank.stranding import NOT_HERE, Floats, Ranking, StrandingRank
from trimtab_work_pools.rank.table import FleetTable
from trimtab_work_pools.resources import WHOLE, Demand, Node, Placement
from trimtab_work_pools.simulation.fragmentation import Fragmentation
from trimtab_work_pools.simulation.openb import Task

__all__ = [
    "PUBLISHED",
    "BestFitRank",
    "DotProductRank",
    "FragmentationRank",
    "PackingRank",
    "PolicyName",
    "RandomRank",
    "ranking",
]

PUBLISHED = {
    "default": {"random": 87.47, "dotprod": 90.85, "packing": 92.00, "bestfit": 93.08, "fgd": 95.39},
    "gpushare40": {"random": 86.00, "dotprod": 89.56, "packing": 90.03, "bestfit": 91.69, "fgd": 94.15},
    "multigpu30": {"random": 89.27, "dotprod": 93.28, "packing": 94.87, "bestfit": 94.72, "fgd": 96.46},
    "cpu100": {"random": 89.11, "dotprod": 91.96, "packing": 92.72, "bestfit": 93.44, "fgd": 95.35},
    "gpuspec10": {"random": 87.43, "dotprod": 90.39, "packing": 92.46, "bestfit": 93.30, "fgd": 94.95},
}
"""Percent of GPUs allocated at 130 % of arrivals, mean of ten seeds (USENIX ATC'23, its artifact)."""


class _Plain:
    """What the simple rankings share: where the demand fits, and the tightest GPU of a node."""

    def __init__(self, table: FleetTable) -> None:
        self.version = 0
        self.table = table
        self.most_cpu = max((kind.cpu_total_milli for kind in table.kinds.nodes), default=1) or 1

    def see(self, asked: Demand) -> None:
        """They know nothing of demands to come."""

    def free(self, rows: Rows) -> tuple[Floats, Floats]:
        """CPUs by the node with the most, GPUs by the node with the most."""
        gpu = self.table.share[rows].sum(axis=1) / (WHOLE * max(1, self.table.gpus))
        return self.table.cpu[rows] / self.most_cpu, gpu

    def choose(self, node: Node, options: Sequence[Placement]) -> Placement:
        return options[0]


class RandomRank(_Plain):
    """Any node that fits, any of its GPUs."""

    def __init__(self, table: FleetTable, seed: int) -> None:
        super().__init__(table)
        self._draw = random.Random(seed)
        self._bits = np.random.default_rng(seed)

    def see(self, asked: Demand) -> None:
        self.version += 1

    def scores(self, question: Question, rows: Rows) -> Floats:
        # The largest of n draws is u^(1/n): a row wins as often as its nodes would.
        draws = self._bits.random(len(rows)) ** (1.0 / np.maximum(1, self.table.count[rows]))
        return np.where(question.fits(rows), draws, NOT_HERE)

    def choose(self, node: Node, options: Sequence[Placement]) -> Placement:
        return self._draw.choice(options)


class BestFitRank(_Plain):
    """The node with the least left, CPUs and GPUs counted alike."""

    def scores(self, question: Question, rows: Rows) -> Floats:
        cpu, gpu = self.free(rows)
        return np.where(question.fits(rows), -(cpu + gpu), NOT_HERE)


class DotProductRank(_Plain):
    """The least dot product of what is wanted and what is free (after Tetris, SIGCOMM'14)."""

    def scores(self, question: Question, rows: Rows) -> Floats:
        cpu, gpu = self.free(rows)
        wants_cpu = question.demand.cpu_milli / self.most_cpu
        wants_gpu = question.demand.gpu_milli / (WHOLE * max(1, self.table.gpus))
        return np.where(question.fits(rows), -(cpu * wants_cpu + gpu * wants_gpu), NOT_HERE)


class PackingRank(_Plain):
    """GPUs in use before idle GPUs of nodes in use, before idle nodes; then the fewest free."""

    def scores(self, question: Question, rows: Rows) -> Floats:
        share = self.table.share[rows]
        total = np.array([len(kind.gpus) for kind in self.table.kinds.nodes])[self.table.kind[rows]]
        idle = (share == WHOLE).sum(axis=1)
        stage = np.where(idle < total, 1.0, 0.0)
        if question.demand.shared:
            stage = stage + (question.gpus(rows) & (share < WHOLE)).any(axis=1)
        return np.where(question.fits(rows), stage - idle / 100.0, NOT_HERE)


class FragmentationRank(_Plain):
    """FGD: the steepest descent of expected fragments, exact instead of rounded to 1/100; BestFit among near ties.

    `mix` is the whole task list, as in the published runs; without it it is learnt from what arrives.
    """

    def __init__(self, table: FleetTable, mix: Mix | None = None, best_fit: float = 0.1) -> None:
        super().__init__(table)
        self._best_fit = best_fit
        self._census = None if mix else Census()
        self._renew_at = 1
        self._measure = Fragmentation(table, mix or Mix())

    def see(self, asked: Demand) -> None:
        if self._census is None:
            return
        self._census.see(asked)
        if self._census.seen >= self._renew_at:
            self._measure = Fragmentation(self.table, self._census.mix())
            self._renew_at = self._census.seen + 1 + self._census.seen // 4
            self.version += 1

    def scores(self, question: Question, rows: Rows) -> Floats:
        demand, table = question.demand, self.table
        kind, share, cpu = table.kind[rows], table.share[rows], table.cpu[rows]
        before, after = self._measure.of(kind, cpu, share), cpu - demand.cpu_milli
        can = question.gpus(rows)
        if demand.shared:
            gain = np.full(len(rows), NOT_HERE)
            for column in range(table.gpus):
                left = share.copy()
                left[:, column] -= demand.gpu_share_milli
                here = before - self._measure.of(kind, after, np.maximum(left, 0))
                gain = np.maximum(gain, np.where(can[:, column], here, NOT_HERE))
        else:
            left = np.where(can & (np.cumsum(can, axis=1) <= demand.gpus), 0, share) if demand.gpus else share
            gain = before - self._measure.of(kind, after, left)
        free_cpu, free_gpu = self.free(rows)
        spare = (free_cpu - demand.cpu_milli / self.most_cpu + free_gpu) / 2
        return np.where(question.fits(rows), gain - self._best_fit * spare, NOT_HERE)

    def choose(self, node: Node, options: Sequence[Placement]) -> Placement:
        if len(options) == 1:
            return options[0]
        kind = self.table.kind_number(node.name)
        after = [node.take(option) for option in options]
        share = np.array(
            [[gpu.share_free_milli for gpu in one.gpus] + [0] * (self.table.gpus - len(one.gpus)) for one in after]
        )
        cpu = np.array([float(one.cpu_free_milli) for one in after])
        left = self._measure.of(np.full(len(after), kind), cpu, share)
        return options[int(np.argmax(left <= left.min() + 1e-9))]


class PolicyName(StrEnum):
    trimtab = "trimtab"
    fgd = "fgd"
    bestfit = "bestfit"
    packing = "packing"
    dotprod = "dotprod"
    random = "random"


def ranking(
    policy: PolicyName, tasks: Sequence[Task], seed: int, aims: Aims | None = None
) -> Callable[[FleetTable], Ranking]:
    """How `policy` ranks. Only fgd is told the mix of all `tasks` beforehand, as in the published runs."""
    rankings: dict[PolicyName, Callable[[FleetTable], Ranking]] = {
        PolicyName.trimtab: lambda table: StrandingRank(table, aims),
        PolicyName.fgd: lambda table: FragmentationRank(table, Mix.of(task.demand for task in tasks)),
        PolicyName.bestfit: BestFitRank,
        PolicyName.packing: PackingRank,
        PolicyName.dotprod: DotProductRank,
        PolicyName.random: lambda table: RandomRank(table, seed),
    }
    return rankings[policy]
