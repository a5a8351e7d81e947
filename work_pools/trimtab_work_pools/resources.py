"""What nodes have, what runs ask for, and what a run is given: frozen values, units in their names.

GPU shares and CPUs are counted in thousandths (`_milli`), so that sums are exact. A node is what it has and what of it
has been given away; `take` and `give_back` return new nodes and never let more be given than there is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

__all__ = ["WHOLE", "CapacityError", "Demand", "Gpu", "Grant", "Inventory", "Node", "Placement", "labels_of"]

WHOLE = 1000
"""All of one GPU, in thousandths."""

Labels = tuple[tuple[str, str], ...]


class CapacityError(ValueError):
    """More was to be given, or taken back, than there is; the text names the node and the dimension."""


def labels_of(mapping: Mapping[str, str]) -> Labels:
    """Node labels in one order, whatever the order they were written in."""
    return tuple(sorted(mapping.items()))


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU or a MIG slice of one.

    `memory_used_mib` is in use by processes that are not our runs; `memory_given_mib` and `share_given_milli` are promised
    to our runs. `nvlink_peers` are indices on the same node. `compute_capability` is (major, minor).
    """

    uuid: str
    index: int
    model: str = ""
    memory_total_mib: int = 0
    memory_used_mib: int = 0
    memory_given_mib: int = 0
    share_given_milli: int = 0
    compute_capability: tuple[int, int] = (0, 0)
    mig_profile: str = ""
    nvlink_peers: frozenset[int] = frozenset()
    numa_node: int | None = None
    healthy: bool = True

    @property
    def share_free_milli(self) -> int:
        """What is free of a healthy GPU; an unhealthy one has nothing to give."""
        return WHOLE - self.share_given_milli if self.healthy else 0

    @property
    def memory_free_mib(self) -> int:
        return max(0, self.memory_total_mib - self.memory_used_mib - self.memory_given_mib)

    @property
    def idle(self) -> bool:
        """Healthy, and no part of it is given away: it can be given as a whole."""
        return self.healthy and self.share_given_milli == 0


@dataclass(frozen=True, slots=True)
class Grant:
    """A GPU given to a run: so much of its share, so much of its memory."""

    index: int
    share_milli: int = WHOLE
    memory_mib: int = 0


@dataclass(frozen=True, slots=True)
class Placement:
    """What one run holds on one node. A gang has one of these for each of its nodes."""

    node: str
    grants: tuple[Grant, ...] = ()
    cpu_milli: int = 0
    memory_mib: int = 0
    disk_mib: int = 0

    @property
    def gpus(self) -> tuple[int, ...]:
        """Indices of the GPUs, ascending."""
        return tuple(grant.index for grant in self.grants)


@dataclass(frozen=True, slots=True)
class Node:
    """A host: what it has, and what of that is given to runs. `advertised_at_s` is seconds since the epoch."""

    name: str
    cpu_total_milli: int
    memory_total_mib: int
    gpus: tuple[Gpu, ...] = ()
    disk_total_mib: int = 0
    cpu_given_milli: int = 0
    memory_given_mib: int = 0
    disk_given_mib: int = 0
    labels: Labels = ()
    failure_domain: str = ""
    cached_digests: frozenset[str] = frozenset()
    advertised_at_s: float = 0.0

    @property
    def cpu_free_milli(self) -> int:
        return self.cpu_total_milli - self.cpu_given_milli

    @property
    def memory_free_mib(self) -> int:
        return self.memory_total_mib - self.memory_given_mib

    @property
    def disk_free_mib(self) -> int:
        return self.disk_total_mib - self.disk_given_mib

    def take(self, placement: Placement) -> Node:
        """This node with `placement` given away. Raises CapacityError if there is not that much."""
        return self._give(placement, 1)

    def give_back(self, placement: Placement) -> Node:
        """This node with `placement` free again. Raises CapacityError if that much was not given."""
        return self._give(placement, -1)

    def _give(self, placement: Placement, sign: int) -> Node:
        grants = {grant.index: grant for grant in placement.grants}
        if len(grants) != len(placement.grants):
            raise CapacityError(f"node {self.name}: one GPU twice in {placement.gpus}")
        if unknown := grants.keys() - {gpu.index for gpu in self.gpus}:
            raise CapacityError(f"node {self.name} has no GPU with index {sorted(unknown)[0]}")
        gpus = tuple(_regrant(self.name, g, grants[g.index], sign) if g.index in grants else g for g in self.gpus)
        given = {}
        for name in ("cpu_given_milli", "memory_given_mib", "disk_given_mib"):
            given[name] = getattr(self, name) + sign * getattr(placement, name.replace("_given", ""))
            total = getattr(self, name.replace("_given", "_total"))
            if not 0 <= given[name] <= total:
                raise CapacityError(f"node {self.name}: {name} would be {given[name]} of {total}")
        return replace(self, gpus=gpus, **given)


def _regrant(node: str, gpu: Gpu, grant: Grant, sign: int) -> Gpu:
    share = gpu.share_given_milli + sign * grant.share_milli
    memory = gpu.memory_given_mib + sign * grant.memory_mib
    if not 0 <= share <= WHOLE or (sign > 0 and not gpu.healthy):
        raise CapacityError(f"node {node}: share_given_milli of GPU {gpu.index} would be {share} of {WHOLE}")
    if memory < 0 or (sign > 0 and grant.memory_mib > gpu.memory_free_mib):
        raise CapacityError(
            f"node {node}: memory_given_mib of GPU {gpu.index} would be {memory} of {gpu.memory_total_mib}"
        )
    return replace(gpu, share_given_milli=share, memory_given_mib=memory)


@dataclass(frozen=True, slots=True)
class Inventory:
    """The nodes of a fleet at one time; their order carries no meaning. Raises CapacityError if two have one name."""

    nodes: tuple[Node, ...]
    as_of_s: float = 0.0

    def __post_init__(self) -> None:
        twice = [name for name, count in Counter(node.name for node in self.nodes).items() if count > 1]
        if twice:
            raise CapacityError(f"two nodes are called {twice[0]!r}; names of nodes must be unique")

    def take(self, placements: Iterable[Placement]) -> Inventory:
        """This inventory with `placements` given away. Raises CapacityError as `Node.take` does, or for a stray name."""
        nodes = {node.name: node for node in self.nodes}
        for placement in placements:
            if placement.node not in nodes:
                raise CapacityError(f"node {placement.node!r} is not in the inventory")
            nodes[placement.node] = nodes[placement.node].take(placement)
        return replace(self, nodes=tuple(nodes.values()))


@dataclass(frozen=True, slots=True)
class Demand:
    """What each node of a run must give, and what the planner must know of the run.

    `gpus` whole GPUs, or with `gpus=1` and `gpu_share_milli` below 1000 a share of one. `gpu_memory_mib` is the least
    memory of each GPU (for a share: what it will use). Empty sets and zeros ask for nothing. `node_labels` maps a label to
    the values allowed. `expected_s` is the median of the run time, `expected_sigma` the standard deviation of its logarithm;
    `deadline_s` is seconds since the epoch.
    """

    gpus: int = 0
    gpu_share_milli: int = WHOLE
    gpu_memory_mib: int = 0
    gpu_compute_capability: tuple[int, int] = (0, 0)
    gpu_models: frozenset[str] = frozenset()
    gpu_mig_profile: str = ""
    gpu_nvlink: bool = False
    cpu_milli: int = 0
    memory_mib: int = 0
    disk_mib: int = 0
    node_labels: tuple[tuple[str, frozenset[str]], ...] = ()
    nodes: int = 1
    reads: frozenset[str] = frozenset()
    priority: int = 0
    deadline_s: float | None = None
    preemptible: bool = False
    expected_s: float | None = None
    expected_sigma: float = 0.0

    @property
    def shared(self) -> bool:
        """It wants a part of one GPU."""
        return self.gpus == 1 and self.gpu_share_milli < WHOLE

    @property
    def gpu_milli(self) -> int:
        """GPUs it takes on one node, in thousandths."""
        return self.gpus * self.gpu_share_milli
