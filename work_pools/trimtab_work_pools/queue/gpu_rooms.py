"""The room of a real node, and the fleet and the runs of the queue planner made of nodes and demands.

`fit` decides on exact devices, `rank` on which node is best; this joins them to the planner, which knows neither.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from trimtab_work_pools.fit import Dimension, Refused, fit
from trimtab_work_pools.planning.advice import advise
from trimtab_work_pools.queue.rooms import Claim, Flags, Refusal, Scores
from trimtab_work_pools.queue.workload import Fleet, Member, Run, Running
from trimtab_work_pools.rank.filter import Question
from trimtab_work_pools.rank.kinds import Kinds, State
from trimtab_work_pools.rank.mix import Mix
from trimtab_work_pools.rank.outlook import Aims
from trimtab_work_pools.rank.stranding import StrandingRank, cached_share
from trimtab_work_pools.rank.table import StateTable, order_of
from trimtab_work_pools.resources import WHOLE, Demand, Gpu, Inventory, Node, Placement

__all__ = ["NodeRoom", "NodeRooms", "Occupant", "fleet_of", "run_of", "width_of"]

_CPUS_PER_GPU = 16.0
"""So many CPUs count as much as one GPU when fair shares and costs are reckoned: what a GPU node has beside each."""
_GUESS_S, _GUESS_SIGMA = 3600.0, 1.5
_STAGE = {dimension: place for place, dimension in enumerate(Dimension)}


@dataclass(frozen=True, slots=True)
class NodeRoom:
    """What of a node is free. `node` has no name: the planner knows that, and a room must not depend on it."""

    node: Node
    kind: int
    kinds: Kinds = field(compare=False, repr=False)
    _answers: dict[Demand, Claim | Refusal] = field(default_factory=dict, compare=False, repr=False)

    @property
    def state(self) -> State:
        return self.kinds.state(self.kind, self.node)

    @property
    def key(self) -> Hashable:
        """Least left first."""
        return (self.state, order_of(self.node))

    def fits(self, demand: Demand) -> Claim | Refusal:
        """The exact devices, best fit (least CPU and GPU share left), or the dimension that refuses."""
        if demand not in self._answers:
            self._answers[demand] = self._answer(demand)
        return self._answers[demand]

    def _answer(self, demand: Demand) -> Claim | Refusal:
        found = fit(self.node, demand)
        if isinstance(found, Refused):
            return Refusal(found.dimension.value, found.text, (-_STAGE[found.dimension], found.short))
        return Claim(_left(self.node, demand), found.placement)

    def take(self, claim: Claim) -> NodeRoom:
        return NodeRoom(self.node.take(claim.devices), self.kind, self.kinds)

    def give_back(self, claim: Claim) -> NodeRoom:
        return NodeRoom(self.node.give_back(claim.devices), self.kind, self.kinds)

    def meet(self, other: NodeRoom) -> NodeRoom:
        """What is free at both instants, on every dimension and device by itself."""
        if self is other:
            return self
        mine, theirs = self.node, other.node
        gpus = tuple(_meet(one, two) for one, two in zip(mine.gpus, theirs.gpus, strict=True))
        node = replace(
            mine,
            gpus=gpus,
            cpu_given_milli=max(mine.cpu_given_milli, theirs.cpu_given_milli),
            memory_given_mib=max(mine.memory_given_mib, theirs.memory_given_mib),
            disk_given_mib=max(mine.disk_given_mib, theirs.disk_given_mib),
        )
        return NodeRoom(node, self.kind, self.kinds)

    @staticmethod
    def advice(rooms: Sequence[NodeRoom], demand: Demand, nodes: int) -> str:
        return advise([room.node for room in rooms], replace(demand, nodes=nodes))

    @staticmethod
    def together(rooms: Sequence[NodeRoom], demands: Iterable[Demand]) -> NodeRooms:
        return NodeRooms(rooms, demands)


@dataclass(slots=True)
class _Answer:
    question: Question
    scores: Scores
    changes: int


class NodeRooms:
    """`Rooms` of real nodes: scores are expected stranding (`rank`), under the mix of all demands that are known."""

    def __init__(self, rooms: Sequence[NodeRoom], demands: Iterable[Demand], aims: Aims | None = None) -> None:
        self._rooms = list(rooms)
        self._aims = aims or Aims()
        self._states = [room.state for room in rooms]
        self._table = StateTable(rooms[0].kinds, self._states)
        self._links: dict[Demand, dict[State, bool]] = {}
        self._rank = StrandingRank(self._table, self._aims, Mix.of(demands))
        self._domains = np.array([room.node.failure_domain for room in rooms])
        self._changed: list[int] = []
        self._answers: dict[Demand, _Answer] = {}

    def has_room(self, demand: Demand) -> Flags:
        """Where `fit` accepts."""
        roomy = Question(self._table, demand).fits(np.arange(self._table.size))
        if demand.gpu_nvlink:
            roomy[roomy] = [self._linked(int(row), demand) for row in np.flatnonzero(roomy)]
        return roomy

    def scores(self, demand: Demand) -> Scores:
        """Of rows asked before, only those that have changed since are reckoned again."""
        answer = self._answers.get(demand)
        if answer is None:
            answer = _Answer(Question(self._table, demand), np.empty(self._table.size), 0)
            self._answers[demand] = answer
            rows = np.arange(self._table.size)
        else:
            rows = np.array(list(dict.fromkeys(self._changed[answer.changes :])), dtype=np.int64)
        if len(rows):
            answer.scores[rows] = -self._rank.scores(answer.question, rows)
            if demand.reads:
                near = [cached_share(self._rooms[row].node, demand) for row in rows]
                answer.scores[rows] -= self._aims.locality * np.array(near)
            if demand.gpu_nvlink:  # links are not counted on arrays
                for row in rows[answer.scores[rows] < np.inf]:
                    if not self._linked(row, demand):
                        answer.scores[row] = np.inf
        answer.changes = len(self._changed)
        return answer.scores

    def _linked(self, position: int, demand: Demand) -> bool:
        """Whether the links are there too. GPUs with other links are not alike, so nodes in one state answer alike."""
        state = self._states[position]
        known = self._links.setdefault(demand, {})
        if state not in known:
            known[state] = isinstance(self._rooms[position].fits(demand), Claim)
        return known[state]

    def put(self, position: int, room: NodeRoom) -> None:
        self._rooms[position] = room
        self._states[position] = room.state
        self._table.write(position, self._states[position])
        self._changed.append(position)

    def spread(self, scores: Scores, position: int) -> None:
        """`Aims.apart` GPUs less for the other nodes of the same failure domain."""
        domain = self._rooms[position].node.failure_domain
        if domain:
            scores[self._domains == domain] += self._aims.apart


@dataclass(frozen=True, slots=True)
class Occupant:
    """A run that holds `placements` since `started_s`; the rest as in `workload.Running`."""

    run: Run
    placements: tuple[Placement, ...]
    started_s: float
    overhead_s: float = 0.0
    unsaved_s: float = 0.0
    stopping_until_s: float | None = None


def fleet_of(inventory: Inventory, occupants: Iterable[Occupant] = ()) -> Fleet:
    """The planner's fleet: `inventory` is what is free now, so what the occupants hold is given away in it.

    Raises WorkloadError if an occupant holds a node that is not there. Planning raises CapacityError if an occupant
    holds more than was given away.
    """
    bare = {node.name: _bare(node) for node in inventory.nodes}
    kinds = Kinds(bare.values())
    rooms: dict[Node, NodeRoom] = {}
    members = []
    for name, node in bare.items():
        room = rooms.get(node)
        if room is None:  # equal nodes share one room, and its answers
            room = rooms[node] = NodeRoom(node, kinds.number(node), kinds)
        members.append(Member(name, room, max(len(node.gpus), node.cpu_total_milli / 1000 / _CPUS_PER_GPU)))
    return Fleet(tuple(members), tuple(_running(one) for one in occupants))


def _bare(node: Node) -> Node:
    return replace(node, name="", advertised_at_s=0.0, gpus=tuple(replace(gpu, uuid="") for gpu in node.gpus))


def _running(one: Occupant) -> Running:
    parts = tuple((p.node, Claim(0.0, replace(p, node=""))) for p in one.placements)
    return Running(one.run, parts, one.started_s, one.overhead_s, one.unsaved_s, one.stopping_until_s)


def run_of(run_id: str, demand: Demand, submitted_s: float, **facts: object) -> Run:
    """The planner's view of a queued run. `facts` are further fields of Run (attained_s, not_before_s).

    Without an expected run time the planner takes an hour, with a sigma of 1.5: it may well be ten minutes, or half a
    day.
    """
    known = demand.expected_s is not None
    return Run(
        run_id,
        demand.placing(),
        submitted_s,
        demand.expected_s if demand.expected_s is not None else _GUESS_S,
        nodes=demand.nodes,
        width=width_of(demand),
        sigma=demand.expected_sigma if known else _GUESS_SIGMA,
        priority=demand.priority,
        deadline_s=demand.deadline_s,
        preemptible=demand.preemptible,
        team=demand.team,
        **facts,  # type: ignore[arg-type]
    )


def width_of(demand: Demand) -> float:
    """How much of a fleet `demand` takes on all its nodes, in GPUs; the CPUs count if they are the larger part."""
    return demand.nodes * max(demand.gpu_milli / WHOLE, demand.cpu_milli / 1000 / _CPUS_PER_GPU, 0.001)


def _meet(one: Gpu, two: Gpu) -> Gpu:
    share = max(one.share_given_milli, two.share_given_milli)
    memory = max(one.memory_given_mib, two.memory_given_mib)
    if share == one.share_given_milli and memory == one.memory_given_mib:
        return one
    return replace(one, share_given_milli=share, memory_given_mib=memory)


def _left(node: Node, demand: Demand) -> float:
    """BestFit: the parts of the node's GPU share and CPUs that would be left, 0..2."""
    gpus = len(node.gpus) * WHOLE
    share = sum(gpu.share_free_milli for gpu in node.gpus) - demand.gpu_milli
    cpu = node.cpu_free_milli - demand.cpu_milli
    return (share / gpus if gpus else 0.0) + (cpu / node.cpu_total_milli if node.cpu_total_milli else 0.0)
