"""Learns the mix of demands that arrive: how often each shape has been seen, nothing of the future."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

from trimtab_work_pools.resources import WHOLE, Demand

__all__ = ["Census", "Mix", "shape"]


def shape(demand: Demand) -> Demand:
    """What of a demand decides where it fits; the rest (priority, deadline, run time, data) is left out."""
    return replace(demand.placing(), reads=frozenset())


@dataclass(frozen=True, slots=True)
class Mix:
    """Shapes of demands with how often each comes; the weights sum to 1. Empty: nothing is known."""

    entries: tuple[tuple[Demand, float], ...] = ()

    @staticmethod
    def of(demands: Iterable[Demand]) -> Mix:
        """The mix of a history, in whatever order it is told."""
        census = Census()
        for demand in demands:
            census.see(shape(demand))
        return census.mix()

    @property
    def gpus(self) -> float:
        """Mean GPUs of a demand on one node."""
        return sum(weight * demand.gpu_milli for demand, weight in self.entries) / WHOLE


class Census:
    """Counts the shapes of demands as they arrive."""

    def __init__(self) -> None:
        self._counts: Counter[Demand] = Counter()
        self.seen = 0

    def see(self, asked: Demand) -> None:
        """Counts one arrival, by its shape."""
        self._counts[asked] += 1
        self.seen += 1

    def mix(self) -> Mix:
        """What has been seen so far. Sorted, so that sums over it come out the same in any order of arrival."""
        ordered = sorted(self._counts.items(), key=lambda item: repr(_sortable(item[0])))
        return Mix(tuple((demand, count / self.seen) for demand, count in ordered))


def _sortable(demand: Demand) -> tuple[object, ...]:
    """Sets have no order of their own: their `repr` must not decide."""
    labels = [(key, sorted(values)) for key, values in demand.node_labels]
    plain = replace(demand, gpu_models=frozenset(), node_labels=())
    return (plain, sorted(demand.gpu_models), labels)
