"""Keeps the states of nodes as numpy arrays, for rankings that look at all of them at once.

The nodes themselves stay the frozen values that `fit` decides on; a table says what of them is free.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from trimtab_work_pools.rank.kinds import Kinds, State
from trimtab_work_pools.resources import Node

__all__ = ["FleetTable", "Order", "StateTable", "order_of"]

Order = tuple[str, tuple[str, ...], str]
"""(failure domain, cached digests, name): what else tells nodes in one state apart. The name comes last."""


def order_of(node: Node) -> Order:
    """The place of a node among those in its state."""
    return (node.failure_domain, tuple(sorted(node.cached_digests)), node.name)


class StateTable:
    """One row for each of `states`. `count[r]` nodes are in the state of row r; rows with none are vacant.

    Arrays, by row: `kind`, `cpu` (milli), `memory` (MiB), `disk` (MiB), and by row and GPU `share` (milli free),
    `gpu_memory` (MiB free) and `gpu_usable` (MiB that others leave to runs, free or given).
    """

    count: NDArray[np.int64]
    kind: NDArray[np.int64]
    share: NDArray[np.int64]
    cpu: NDArray[np.float64]
    memory: NDArray[np.float64]
    disk: NDArray[np.float64]
    gpu_memory: NDArray[np.float64]
    gpu_usable: NDArray[np.int64]

    def __init__(self, kinds: Kinds, states: Sequence[State] = ()) -> None:
        self.kinds = kinds
        self.gpus = kinds.gpus
        self.size = 0
        self.reserve(max(64, len(states)))
        self.size = len(states)
        self.count[: self.size] = 1
        for row, state in enumerate(states):
            self.write(row, state)

    def reserve(self, rows: int) -> None:
        """Makes the arrays `rows` long; the first `size` rows are kept."""
        for name, each, kind in (
            ("count", (), np.int64),
            ("kind", (), np.int64),
            ("share", (self.gpus,), np.int64),
            ("cpu", (), np.float64),
            ("memory", (), np.float64),
            ("disk", (), np.float64),
            ("gpu_memory", (self.gpus,), np.float64),
            ("gpu_usable", (self.gpus,), np.int64),
        ):
            array = np.zeros((rows, *each), dtype=kind)
            if self.size:
                array[: self.size] = getattr(self, name)[: self.size]
            setattr(self, name, array)

    def write(self, row: int, state: State) -> None:
        """Row `row` is in `state` from now on."""
        self.cpu[row], _, self.memory[row], self.disk[row], self.kind[row], gpus = state
        # The GPUs that a smaller node does not have are GPUs with nothing free.
        none = [0] * (self.gpus - len(gpus))
        self.share[row] = [share for share, _, _ in gpus] + none
        self.gpu_memory[row] = [memory for _, memory, _ in gpus] + none
        self.gpu_usable[row] = [usable for _, _, usable in gpus] + none


class FleetTable(StateTable):
    """A fleet with one row for each distinct state of a node, updated one node at a time.

    `changed` lists rows in the order they were written since `epoch` last grew.
    """

    def __init__(self, nodes: Iterable[Node]) -> None:
        self.nodes = {node.name: node for node in nodes}
        super().__init__(Kinds(self.nodes.values()))
        self._kind_of = {name: self.kinds.number(node) for name, node in self.nodes.items()}
        self.states: list[State] = []
        self.epoch = 0
        self.changed: list[int] = []
        self._order = {name: order_of(node) for name, node in self.nodes.items()}
        self._in_row: list[list[Order]] = []
        self._row_of: dict[State, int] = {}
        self._row_of_node: dict[str, int] = {}
        self._vacant: list[int] = []
        for name in self.nodes:
            self._enter(name)

    def kind_number(self, name: str) -> int:
        """The kind of a node, by its name."""
        return self._kind_of[name]

    def first(self, row: int) -> str:
        """The first in order of the nodes in the state of `row`; between interchangeable ones names decide."""
        return self._in_row[row][0][-1]

    def order(self, name: str) -> Order:
        """Where a node comes among those in its state."""
        return self._order[name]

    def names(self, row: int) -> list[str]:
        """The nodes in the state of `row`, in no order."""
        return [order[-1] for order in self._in_row[row]]

    def names_like(self, name: str) -> list[str]:
        """The nodes in the state of this one, with itself."""
        return self.names(self._row_of_node[name])

    def put(self, node: Node) -> None:
        """Replaces the node of that name by one that differs in what is given away."""
        if len(self.changed) > 8 * self.size + 10_000:
            self.changed.clear()
            self.epoch += 1
        self._leave(node.name)
        self.nodes[node.name] = node
        self._enter(node.name)

    def _leave(self, name: str) -> None:
        row = self._row_of_node.pop(name)
        nodes = self._in_row[row]
        if nodes[0][-1] == name:
            heapq.heappop(nodes)
        else:
            nodes.remove(self._order[name])
            heapq.heapify(nodes)
        self.count[row] -= 1
        if not nodes:
            del self._row_of[self.states[row]]
            self._vacant.append(row)
            self.changed.append(row)

    def _enter(self, name: str) -> None:
        state = self.kinds.state(self._kind_of[name], self.nodes[name])
        row = self._row_of.get(state)
        if row is None:
            row = self._fresh_row(state)
        heapq.heappush(self._in_row[row], self._order[name])
        self._row_of_node[name] = row
        self.count[row] += 1

    def _fresh_row(self, state: State) -> int:
        if self._vacant:
            row = self._vacant.pop()
            self.states[row] = state
        else:
            row = self.size
            if row == len(self.count):
                self.reserve(2 * row)
            self.size += 1
            self.states.append(state)
            self._in_row.append([])
        self._row_of[state] = row
        self.write(row, state)
        self.changed.append(row)
        return row
