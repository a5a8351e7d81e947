"""Expects, from the mix of demands, how much of what is free will never be used: the tables that rank looks up.

All is in GPUs. A free GPU is *stranded* if no demand that comes can use it: because what is left of it is too small
(`share_loss`), because too few whole ones are together (`whole_loss`), or because the CPUs or the memory beside it are
gone (`cpu`, `memory`). `price` is what a GPU of a kind of node is worth to the demands that have few to choose from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trimtab_work_pools.rank.mix import Mix
from trimtab_work_pools.resources import WHOLE, Demand

__all__ = ["Aims", "Outlook", "Pull", "outlook"]

Floats = NDArray[np.float64]

_STEP = 0.01
_SPAN = 6.0  # beyond 6 standard deviations the loss is 0, or its mean, to 1e-10


def _normal_loss() -> Floats:
    """E max(0, z + Z) for a standard normal Z, at z = -6, -5.99 .. 6 (the newsvendor's loss function)."""
    z = [-_SPAN + _STEP * i for i in range(round(2 * _SPAN / _STEP) + 1)]
    values = [x * 0.5 * math.erfc(-x / math.sqrt(2)) + math.exp(-x * x / 2) / math.sqrt(2 * math.pi) for x in z]
    return np.array(values)


_LOSS = _normal_loss()


@dataclass(frozen=True, slots=True)
class Aims:
    """Weights of the terms; what each gives is measured in PLACEMENT.md ("What each idea gave").

    - `offers`: how many demands are thought to try a GPU before no more come. More: small remainders count for less.
    - `whole`: weight of keeping whole GPUs together for demands of several.
    - `pull_mean`, `pull_spread`: of the CPUs (memory) that a GPU's demands pull with them, how much is counted. Below
      1, since late demands that are lean still fit where fat ones do not.
    - `memory`: weight of host memory that runs short, beside 1 for CPUs.
    - `scarcity`: weight of `price`.
    - `locality`: GPUs' worth of having all data a run reads on the node. `tight_memory`: of not using larger GPUs than
      needed. Both are small: they decide between nodes that are nearly as good.
    - `apart`: GPUs' worth of a gang's node being in a failure domain of its own.
    """

    offers: int = 60
    whole: float = 0.5
    pull_mean: float = 0.85
    pull_spread: float = 0.7
    memory: float = 0.5
    scarcity: float = 0.3
    locality: float = 0.2
    tight_memory: float = 0.02
    apart: float = 0.5


@dataclass(frozen=True, slots=True)
class Pull:
    """How much of a host resource (`mean` +- `spread` per GPU and its root) comes with the demands for one GPU."""

    mean: float
    spread: float

    def short(self, fillable: Floats, free: Floats) -> Floats:
        """GPUs of `fillable` that are expected to be stranded with `free` of the resource; elementwise.

        The demands that would fill g GPUs pull N(mean g, spread^2 g) of it: E max(0, pull - free) / mean.
        """
        if self.mean <= 0:
            return np.zeros_like(fillable)
        gap = self.mean * fillable - free
        spread = self.spread * np.sqrt(fillable) + 1e-9
        # A table and plain arithmetic: vector exp differs in the last bit with the place in the array.
        place = np.clip((gap / spread + _SPAN) / _STEP, 0.0, len(_LOSS) - 1.000001)
        cell = place.astype(np.int64)
        part = place - cell
        loss = spread * (_LOSS[cell] * (1.0 - part) + _LOSS[cell + 1] * part)
        return np.where(gap > _SPAN * spread, gap, loss) / self.mean


@dataclass(frozen=True, slots=True)
class Outlook:
    """`share_loss[f]`: expected stranded of a GPU with f thousandths free; `whole_loss[k]`: of k whole ones."""

    share_loss: Floats
    whole_loss: Floats
    cpu: Pull
    memory: Pull
    price: Floats


def outlook(
    mix: Mix, capacity: Sequence[float], hosts: Mapping[Demand, NDArray[np.bool_]], most_gpus: int, aims: Aims
) -> Outlook:
    """Tables for a fleet whose kinds of node have `capacity` GPUs in all; `hosts[demand]`: which could hold it idle."""
    return Outlook(
        _share_loss(mix, aims.offers),
        aims.whole * _whole_loss(mix, most_gpus),
        _pull([(d.gpu_milli / WHOLE, d.cpu_milli, w) for d, w in mix.entries], aims),
        _pull([(d.gpu_milli / WHOLE, d.memory_mib, w) for d, w in mix.entries], aims),
        aims.scarcity * _price(mix, np.asarray(capacity, dtype=np.float64), hosts),
    )


def _share_loss(mix: Mix, offers: int) -> Floats:
    """Exact for one GPU by itself that is offered `offers` demands for (a share of) one and takes each that fits."""
    free = np.arange(WHOLE + 1)
    weights: dict[int, float] = {}
    for demand, weight in mix.entries:
        if demand.gpus == 1:
            weights[demand.gpu_share_milli] = weights.get(demand.gpu_share_milli, 0.0) + weight
    total = sum(weights.values())
    loss = free / WHOLE
    if not weights:
        return loss
    for _ in range(offers):
        after = np.zeros(WHOLE + 1)
        for share, weight in sorted(weights.items()):
            after[:share] += weight / total * loss[:share]
            after[share:] += weight / total * loss[: WHOLE + 1 - share]
        loss = after
    return loss


def _whole_loss(mix: Mix, most_gpus: int) -> Floats:
    """For k whole GPUs together: what is left over of them if filled with one demand for several, over the mix."""
    count = np.arange(most_gpus + 1)
    loss = np.zeros(most_gpus + 1)
    for demand, weight in mix.entries:
        if demand.gpus > 1:
            loss += weight * (count % demand.gpus)
    return loss


def _pull(rows: Sequence[tuple[float, float, float]], aims: Aims) -> Pull:
    """From (GPUs, resource, weight) of each demand; those without GPUs pull nothing with a GPU."""
    gpus = sum(weight * g for g, _, weight in rows)
    if gpus <= 0:
        return Pull(0.0, 0.0)
    mean = sum(weight * x for g, x, weight in rows if g > 0) / gpus
    spread = math.sqrt(sum(weight * (x - mean * g) ** 2 for g, x, weight in rows if g > 0) / gpus)
    return Pull(aims.pull_mean * mean, aims.pull_spread * spread)


def _price(mix: Mix, capacity: Floats, hosts: Mapping[Demand, NDArray[np.bool_]]) -> Floats:
    """Demand for a kind of node per GPU it has, 1 on average: each demand spreads over all that could host it."""
    price = np.zeros(len(capacity))
    gpus = mix.gpus
    for demand, weight in mix.entries:
        able = hosts[demand]
        room = float(capacity[able].sum())
        if demand.gpus and room > 0:
            price[able] += weight * demand.gpu_milli / WHOLE / gpus * float(capacity.sum()) / room
    return price
