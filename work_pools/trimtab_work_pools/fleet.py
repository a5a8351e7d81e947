"""Keeps a fleet as a table with one row for each distinct state of a node, updated one node at a time.

Two nodes in one state are interchangeable, whatever their names: a row holds how many there are, and rankings look at
rows. The table is where numpy arrays live; the nodes themselves stay the frozen values that `fit` decides on.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from trimtab_work_pools.resources import Gpu, Node

__all__ = ["FleetTable", "Signature", "kind_of"]

Signature = tuple[int, int, int, int, int, tuple[tuple[int, int], ...]]
"""(CPUs free, GPU share free, memory free, disk free, kind, (share, memory) free of each GPU): least left sorts first."""


def kind_of(node: Node) -> Node:
    """What of a node stays as runs come and go: the node without its name and without what is given away."""
    gpus = tuple(_bare(gpu) for gpu in node.gpus)
    return replace(
        node, name="", gpus=gpus, cpu_given_milli=0, memory_given_mib=0, disk_given_mib=0, advertised_at_s=0.0
    )


def _bare(gpu: Gpu) -> Gpu:
    return replace(gpu, uuid="", memory_used_mib=0, memory_given_mib=0, share_given_milli=0)


def _kind_order(kind: Node) -> str:
    """Sets have no order of their own: their `repr` must not decide."""
    gpus = tuple((replace(gpu, nvlink_peers=frozenset()), sorted(gpu.nvlink_peers)) for gpu in kind.gpus)
    return repr((replace(kind, gpus=(), cached_digests=frozenset()), gpus, sorted(kind.cached_digests)))


class FleetTable:
    """Rows of distinct node states. `count[r]` nodes are in the state of row r; a row with none is free for another.

    Arrays, by row: `kind`, `cpu` (milli), `memory` (MiB), `disk` (MiB), and by row and GPU `share` (milli free) and
    `gpu_memory` (MiB free). `changed` lists rows in the order they were written since `epoch` last grew. Where all GPUs of a kind are alike the columns are sorted, so a column is not an index.
    """

    count: NDArray[np.int64]
    kind: NDArray[np.int64]
    share: NDArray[np.int64]
    cpu: NDArray[np.float64]
    memory: NDArray[np.float64]
    disk: NDArray[np.float64]
    gpu_memory: NDArray[np.float64]

    def __init__(self, nodes: Iterable[Node]) -> None:
        self.nodes = {node.name: node for node in nodes}
        kinds = {name: kind_of(node) for name, node in self.nodes.items()}
        self.kinds = sorted(set(kinds.values()), key=_kind_order)
        number = {kind: place for place, kind in enumerate(self.kinds)}
        self._kind_of = {name: number[kind] for name, kind in kinds.items()}
        self._alike = [len({replace(gpu, index=0) for gpu in kind.gpus}) <= 1 for kind in self.kinds]
        self.gpus = max((len(kind.gpus) for kind in self.kinds), default=0)
        self.nodes_of_kind = [0] * len(self.kinds)
        for place in self._kind_of.values():
            self.nodes_of_kind[place] += 1
        self.size = 0
        self._reserve(64)
        self.signatures: list[Signature] = []
        self.epoch = 0
        self.changed: list[int] = []
        self._names: list[list[str]] = []
        self._row_of: dict[Signature, int] = {}
        self._vacant: list[int] = []
        for name in self.nodes:
            self._enter(name)

    def _reserve(self, rows: int) -> None:
        old = self.size
        ints: dict[str, tuple[int, ...]] = {"count": (rows,), "kind": (rows,)}
        floats = {"cpu": (rows,), "memory": (rows,), "disk": (rows,), "gpu_memory": (rows, self.gpus)}
        ints["share"] = (rows, self.gpus)
        for name, form in (ints | floats).items():
            array = np.zeros(form, dtype=np.int64 if name in ints else np.float64)
            if old:
                array[:old] = getattr(self, name)[:old]
            setattr(self, name, array)

    def signature(self, node: Node) -> Signature:
        """The state of a node of this fleet; equal signatures mean interchangeable nodes."""
        kind = self._kind_of[node.name]
        gpus = [(gpu.share_free_milli, gpu.memory_free_mib) for gpu in node.gpus]
        if self._alike[kind]:
            gpus.sort()
        share = sum(free for free, _ in gpus)
        return (node.cpu_free_milli, share, node.memory_free_mib, node.disk_free_mib, kind, tuple(gpus))

    def kind_number(self, name: str) -> int:
        """The place in `kinds` of the kind of a node."""
        return self._kind_of[name]

    def one_of(self, row: int) -> Node:
        """A node in the state of `row`. Which one makes no difference but to people, who get the first by name."""
        return self.nodes[self._names[row][0]]

    def names(self, row: int) -> list[str]:
        """Names of the nodes in the state of `row`, in a heap: the first by name comes first."""
        return self._names[row]

    def put(self, node: Node) -> None:
        """Replaces the node of that name by one that differs in what is given away."""
        if len(self.changed) > 8 * self.size + 10_000:
            self.changed.clear()
            self.epoch += 1
        self._leave(node.name)
        self.nodes[node.name] = node
        self._enter(node.name)

    def _leave(self, name: str) -> None:
        row = self._row_of[self.signature(self.nodes[name])]
        names = self._names[row]
        if names[0] == name:
            heapq.heappop(names)
        else:
            names.remove(name)
            heapq.heapify(names)
        self.count[row] -= 1
        if not names:
            del self._row_of[self.signatures[row]]
            self._vacant.append(row)
            self.changed.append(row)

    def _enter(self, name: str) -> None:
        signature = self.signature(self.nodes[name])
        row = self._row_of.get(signature)
        if row is None:
            row = self._fresh_row(signature)
        heapq.heappush(self._names[row], name)
        self.count[row] += 1

    def _fresh_row(self, signature: Signature) -> int:
        if self._vacant:
            row = self._vacant.pop()
            self.signatures[row] = signature
        else:
            row = self.size
            if row == len(self.count):
                self._reserve(2 * row)
            self.size += 1
            self.signatures.append(signature)
            self._names.append([])
        self._row_of[signature] = row
        self.cpu[row], _, self.memory[row], self.disk[row], self.kind[row], gpus = signature
        self.share[row] = 0
        for column, (share, memory) in enumerate(gpus):
            self.share[row, column] = share
            self.gpu_memory[row, column] = memory
        self.changed.append(row)
        return row
