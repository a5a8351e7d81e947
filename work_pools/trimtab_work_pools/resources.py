"""What nodes have, what runs ask for, and what a run is given: frozen values, units in their names.

GPU shares and CPUs are counted in thousandths (`_milli`), so that sums are exact. A node is what it has and what of it
has been given away; `take` and `give_back` return new nodes and never let more be given than there is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

__all__ = ["WHOLE", "CapacityError", "Demand", "Gpu", "Grant", "Inventory", "Node", "Placement", "brief", "labels_of"]

WHOLE = 1000
"""All of one GPU, in thousandths."""

Labels = tuple[tuple[str, str], ...]
_HEXADECIMAL = frozenset("0123456789abcdef")


class CapacityError(ValueError):
    """More was to be given, or taken back, than there is; the text names the node and the dimension."""


def labels_of(mapping: Mapping[str, str]) -> Labels:
    """Node labels in one order, whatever the order they were written in."""
    return tuple(sorted(mapping.items()))


def brief(digest: str) -> str:
    """A digest as nodes and demands name it: 16 characters, for each advertisement names a hundred.

    What is no SHA-256 stays as it is.
    """
    return digest[:16] if len(digest) == 64 and set(digest) <= _HEXADECIMAL else digest


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU or a MIG slice of one.

    `memory_used_mib` is in use by processes that are not our runs; `memory_given_mib` and `share_given_milli` are
    promised to our runs. `nvlink_peers` are indices on the same node. `compute_capability` is (major, minor).
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
    def memory_for_runs_mib(self) -> int:
        """What others leave to our runs, given to them or free."""
        return max(0, self.memory_total_mib - self.memory_used_mib)

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
        gpus = self.gpus
        if placement.grants:
            gpus = self._regrant(placement.grants, sign)
        cpu_milli = self.cpu_given_milli + sign * placement.cpu_milli
        memory_mib = self.memory_given_mib + sign * placement.memory_mib
        disk_mib = self.disk_given_mib + sign * placement.disk_mib
        for what, given, total in (
            ("cpu_given_milli", cpu_milli, self.cpu_total_milli),
            ("memory_given_mib", memory_mib, self.memory_total_mib),
            ("disk_given_mib", disk_mib, self.disk_total_mib),
        ):
            if not 0 <= given <= total:
                raise CapacityError(f"node {self.name}: {what} would be {given} of {total}")
        # Field by field: dataclasses.replace takes three times as long, and planners do this a thousand times a second.
        return Node(
            self.name,
            self.cpu_total_milli,
            self.memory_total_mib,
            gpus,
            self.disk_total_mib,
            cpu_milli,
            memory_mib,
            disk_mib,
            self.labels,
            self.failure_domain,
            self.cached_digests,
            self.advertised_at_s,
        )

    def _regrant(self, grants: tuple[Grant, ...], sign: int) -> tuple[Gpu, ...]:
        by_index = {grant.index: grant for grant in grants}
        if len(by_index) != len(grants):
            raise CapacityError(f"node {self.name}: one GPU twice in {tuple(grant.index for grant in grants)}")
        gpus = tuple(
            _regrant(self.name, g, by_index.pop(g.index), sign) if g.index in by_index else g for g in self.gpus
        )
        if by_index:
            raise CapacityError(f"node {self.name} has no GPU with index {min(by_index)}")
        return gpus


def _regrant(node: str, gpu: Gpu, grant: Grant, sign: int) -> Gpu:
    if grant.share_milli < 0 or grant.memory_mib < 0:
        raise CapacityError(f"node {node}: a grant of GPU {gpu.index} must not be negative, and is {grant}")
    share = gpu.share_given_milli + sign * grant.share_milli
    memory = gpu.memory_given_mib + sign * grant.memory_mib
    if not 0 <= share <= WHOLE or (sign > 0 and not gpu.healthy):
        raise CapacityError(f"node {node}: share_given_milli of GPU {gpu.index} would be {share} of {WHOLE}")
    if memory < 0 or (sign > 0 and grant.memory_mib > gpu.memory_free_mib):
        raise CapacityError(
            f"node {node}: memory_given_mib of GPU {gpu.index} would be {memory} of {gpu.memory_total_mib}"
        )
    return Gpu(
        gpu.uuid,
        gpu.index,
        gpu.model,
        gpu.memory_total_mib,
        gpu.memory_used_mib,
        memory,
        share,
        gpu.compute_capability,
        gpu.mig_profile,
        gpu.nvlink_peers,
        gpu.numa_node,
        gpu.healthy,
    )


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
        """This inventory with `placements` given away. Raises CapacityError as `Node.take`, or for a stray name."""
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
    memory of each GPU (for a share: what it will use; 0: as large a part of the memory that others leave as of its
    time). Empty sets and zeros ask for nothing. `node_labels` maps a label to the values allowed. `team` is whose fair
    share it counts to. `expected_s` is the median of the run time, `expected_sigma` the standard deviation of its
    logarithm; `deadline_s` is seconds since the epoch.
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
    team: str = ""

    @property
    def shared(self) -> bool:
        """It wants a part of one GPU."""
        return self.gpus == 1 and self.gpu_share_milli < WHOLE

    @property
    def gpu_milli(self) -> int:
        """GPUs it takes on one node, in thousandths."""
        return self.gpus * self.gpu_share_milli

    def placing(self) -> Demand:
        """What of it decides where it fits; when and how urgently it runs is left out."""
        return replace(
            self, priority=0, deadline_s=None, preemptible=False, expected_s=None, expected_sigma=0.0, team=""
        )
