"""What came from what: immutable edges between snapshots and models, to be followed both ways.

A node is the digest of a snapshot or ``model:NAME/VERSION``. Each edge is stored under its output and under each of its
inputs, so that both directions are one listing a node.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import deque
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Literal
from urllib.parse import quote

from trimtab_blocks.stores import Store

__all__ = ["Direction", "Edge", "Graph", "InvalidNode", "Lineage", "render", "short"]

Direction = Literal["ancestors", "descendants"]

_NODE = re.compile(r"[0-9a-f]{64}|model:.+/[^/]+")


class InvalidNode(ValueError):
    """A text that names no node of the lineage."""


@dataclass(frozen=True)
class Edge:
    """One stage made ``output`` from ``inputs``.

    Attributes:
        output: node that was made.
        inputs: nodes it was made from, in the order they were used; none for what came from outside.
        stage: what made it: ``build``, ``train``, ``score`` ...
        subject: the recipe's name.
        window: of data it speaks of, as text.
        run_id: the Prefect flow run, if there was one.
    """

    output: str
    inputs: tuple[str, ...]
    stage: str
    subject: str
    window: str
    run_id: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "inputs", tuple(self.inputs))
        for node in (self.output, *self.inputs):
            _check_node(node)
        if self.output in self.inputs:
            raise InvalidNode(f"{short(self.output)} cannot come from itself (stage {self.stage!r}, {self.window})")

    def to_json(self) -> bytes:
        """The edge as canonical JSON."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Edge:
        """Read what ``to_json`` wrote."""
        return cls(**json.loads(text))


@dataclass(frozen=True)
class Graph:
    """The edges that ``root`` can be reached by, in one direction, in the order they were found."""

    root: str
    direction: Direction
    edges: tuple[Edge, ...] = ()

    @property
    def nodes(self) -> tuple[str, ...]:
        """Every node once; the root is first."""
        found = dict.fromkeys([self.root])
        for edge in self.edges:
            found.update(dict.fromkeys((edge.output, *edge.inputs)))
        return tuple(found)

    def next_to(self, node: str) -> tuple[str, ...]:
        """The nodes one edge away from this one, in the graph's direction."""
        if self.direction == "ancestors":
            found = [each for edge in self._by_output.get(node, ()) for each in edge.inputs]
        else:
            found = [edge.output for edge in self._by_input.get(node, ())]
        return tuple(dict.fromkeys(found))

    def made_by(self, node: str) -> tuple[str, ...]:
        """Stage and window of each edge of the graph that made this node, as text."""
        return tuple(dict.fromkeys(f"{edge.stage} {edge.window}" for edge in self._by_output.get(node, ())))

    @cached_property
    def _by_output(self) -> dict[str, list[Edge]]:
        found: dict[str, list[Edge]] = {}
        for edge in self.edges:
            found.setdefault(edge.output, []).append(edge)
        return found

    @cached_property
    def _by_input(self) -> dict[str, list[Edge]]:
        found: dict[str, list[Edge]] = {}
        for edge in self.edges:
            for node in dict.fromkeys(edge.inputs):
                found.setdefault(node, []).append(edge)
        return found


class Lineage:
    """Edges in a store."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def record(self, edge: Edge) -> None:
        """Store an edge. Recording it again changes nothing, and completes what a crash left half done."""
        text = edge.to_json()
        name = hashlib.sha256(text).hexdigest()[:32]
        self.store.write_once(f"{_prefix('by-output', edge.output)}{name}.json", text)
        for node in dict.fromkeys(edge.inputs):
            self.store.write_once(f"{_prefix('by-input', node)}{name}.json", text)

    def ancestors(self, node: str) -> Graph:
        """All that a node came from. A node without any gives a graph without edges.

        Raises:
            InvalidNode: the text names no node.
        """
        return self._follow(node, "ancestors")

    def descendants(self, node: str) -> Graph:
        """All that came from a node. A node without any gives a graph without edges.

        Raises:
            InvalidNode: the text names no node.
        """
        return self._follow(node, "descendants")

    def _follow(self, root: str, direction: Direction) -> Graph:
        """Breadth first; a node is visited once, so even a cycle ends."""
        _check_node(root)
        waiting, seen, found = deque([root]), {root}, dict[Edge, None]()
        while waiting:
            node = waiting.popleft()
            for edge in self._edges("by-output" if direction == "ancestors" else "by-input", node):
                found[edge] = None
                for other in edge.inputs if direction == "ancestors" else (edge.output,):
                    if other not in seen:
                        seen.add(other)
                        waiting.append(other)
        return Graph(root, direction, tuple(found))

    def _edges(self, index: str, node: str) -> list[Edge]:
        edges = [Edge.from_json(self.store.read(key)) for key in self.store.keys(_prefix(index, node))]
        return sorted(edges, key=lambda edge: (edge.window, edge.stage, edge.output, edge.inputs, edge.run_id or ""))


def short(node: str) -> str:
    """A node as people see it: twelve characters of a digest, a model's whole name."""
    return node if node.startswith("model:") else node[:12]


def render(graph: Graph) -> str:
    """The graph as a tree for a terminal. A node that is shared is shown once, and referred to after that."""
    lines: list[str] = []
    shown: set[str] = set()
    # A stack of our own: a long history of windows must not end in a RecursionError.
    stack = [(graph.root, "", "")]
    while stack:
        node, own, below = stack.pop()
        children = graph.next_to(node)
        text = "  ".join([short(node), "; ".join(graph.made_by(node))]).rstrip()
        if node in shown and children:
            text, children = f"{short(node)}  (shown above)", ()
        shown.add(node)
        lines.append(own + text)
        for position, child in reversed(list(enumerate(children, 1))):
            last = position == len(children)
            stack.append((child, below + ("└── " if last else "├── "), below + ("    " if last else "│   ")))
    if not graph.edges:
        lines[0] += "  (nothing recorded)"
    return "\n".join(lines)


def _check_node(node: str) -> None:
    if not isinstance(node, str) or not _NODE.fullmatch(node):
        raise InvalidNode(f"{node!r} names no node: write a snapshot's digest (64 characters) or model:NAME/VERSION")


def _prefix(index: str, node: str) -> str:
    return f"lineage/{index}/{quote(node, safe='')}/"
