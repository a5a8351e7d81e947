"""Tells the kinds of node in a fleet apart, and says in what state a node of a kind is.

A kind is what stays as runs come and go: the hardware and the labels. The state is what is free. Two nodes of one kind
in one state are interchangeable to a demand that reads no data, whatever their names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from trimtab_work_pools.resources import Gpu, Node

__all__ = ["Kinds", "State"]

State = tuple[int, int, int, int, int, tuple[tuple[int, int, int], ...]]
"""CPUs, GPU share, memory, disk free; kind; of each GPU (share free, memory free, memory that others leave to runs).

Least left sorts first.
"""


class Kinds:
    """The distinct kinds of a fleet, numbered in an order that depends on neither names nor the order of the nodes.

    `nodes[k]` is kind k as an idle node without a name, `counts[k]` how many nodes are of it, `gpus` the most GPUs of
    any. Kinds have few types of GPU and few sets of labels between them, which a demand is compared with: `gpu_types`
    and `label_sets`, by number; `gpu_type` (kinds x GPUs, -1: there is none) and `label_set` (kinds) are numbers.
    """

    def __init__(self, nodes: Iterable[Node]) -> None:
        counted = Counter(_kind(node) for node in nodes)
        self.nodes = sorted(counted, key=_order)
        self.counts = [counted[kind] for kind in self.nodes]
        self.gpus = max((len(kind.gpus) for kind in self.nodes), default=0)
        self._number = {kind: place for place, kind in enumerate(self.nodes)}
        self._alike = [len({replace(gpu, index=0) for gpu in kind.gpus}) <= 1 for kind in self.nodes]
        types: dict[Gpu, int] = {}
        self.gpu_type = np.full((len(self.nodes), self.gpus), -1, dtype=np.int64)
        for place, kind in enumerate(self.nodes):
            self.gpu_type[place, : len(kind.gpus)] = [types.setdefault(_type(gpu), len(types)) for gpu in kind.gpus]
        self.gpu_types = list(types)
        sets: dict[tuple[tuple[str, str], ...], int] = {}
        self.label_set = np.array([sets.setdefault(kind.labels, len(sets)) for kind in self.nodes], dtype=np.int64)
        self.label_sets = list(sets)

    def __len__(self) -> int:
        return len(self.nodes)

    def number(self, node: Node) -> int:
        """The kind of a node of this fleet."""
        return self._number[_kind(node)]

    def state(self, kind: int, node: Node) -> State:
        """The state of a node of `kind`. Where all its GPUs are alike they are sorted: a place is then not an index."""
        gpus = [(gpu.share_free_milli, gpu.memory_free_mib, gpu.memory_for_runs_mib) for gpu in node.gpus]
        if self._alike[kind]:
            gpus.sort()
        share = sum(free for free, _, _ in gpus)
        return (node.cpu_free_milli, share, node.memory_free_mib, node.disk_free_mib, kind, tuple(gpus))


def _kind(node: Node) -> Node:
    return Node(
        "", node.cpu_total_milli, node.memory_total_mib, tuple(map(_bare, node.gpus)), node.disk_total_mib,
        labels=node.labels,
    )  # fmt: skip


def _bare(gpu: Gpu) -> Gpu:
    return replace(gpu, uuid="", memory_used_mib=0, memory_given_mib=0, share_given_milli=0)


def _type(gpu: Gpu) -> Gpu:
    """What of a GPU a demand asks about by itself, without its place among the others."""
    return replace(gpu, index=0, nvlink_peers=frozenset(), numa_node=None)


def _order(kind: Node) -> str:
    """Sets have no order of their own: their `repr` must not decide."""
    gpus = tuple((replace(gpu, nvlink_peers=frozenset()), sorted(gpu.nvlink_peers)) for gpu in kind.gpus)
    return repr((replace(kind, gpus=()), gpus))
