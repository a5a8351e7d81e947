"""Decides which nodes of a fleet a demand goes to, one demand after the other, and keeps count of what is given away."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from trimtab_work_pools.rank.filter import Question
from trimtab_work_pools.fit import Fit, Refused, fit, options
from trimtab_work_pools.rank.table import FleetTable
from trimtab_work_pools.rank.mix import Mix
from trimtab_work_pools.rank.outlook import Aims
from trimtab_work_pools.rank.stranding import NOT_HERE, Floats, Ranking, StrandingRank
from trimtab_work_pools.resources import Demand, Inventory, Placement

__all__ = ["Placer", "Unplaced", "place"]

_EQUAL = 1e-9  # scores (in GPUs) closer than this are a tie: far above the rounding of sums, far below any meaning
_KEPT = 512  # demands whose scores are kept


@dataclass(frozen=True, slots=True)
class Unplaced:
    """No room: `found` of `needed` nodes fit; `refusals` of all other nodes, the nearest to fitting first."""

    needed: int
    found: int
    refusals: tuple[Refused, ...]


def place(
    inventory: Inventory, demand: Demand, mix: Mix | None = None, aims: Aims | None = None
) -> tuple[Placement, ...] | Unplaced:
    """Where `demand` goes now: one placement for each of its nodes, all of them or none. A pure function.

    The same for any order of the nodes; under a renaming the same up to which of two nodes in one state is taken.
    `mix` is what is known of the demands to come; nothing known: as if all were like this one.
    """
    placer = Placer(inventory, lambda table: StrandingRank(table, aims, mix), (aims or Aims()).apart)
    return placer.place(demand) or placer.unplaced(demand)


@dataclass(slots=True)
class _Answer:
    """Scores of one demand for every row; they were right when the table and the ranking were at these counts."""

    question: Question
    version: int
    epoch: int
    changes: int
    scores: Floats


class Placer:
    """Places demands one at a time on a fleet that starts as `inventory`.

    Without `ranking` it is StrandingRank, which learns the mix from what it places. `apart` is what it is worth, on the
    scale of the ranking, that a node of a gang is in a failure domain of its own.
    """

    def __init__(
        self, inventory: Inventory, ranking: Callable[[FleetTable], Ranking] | None = None, apart: float = Aims().apart
    ) -> None:
        self.table = FleetTable(inventory.nodes)
        self.ranking: Ranking = ranking(self.table) if ranking else StrandingRank(self.table)
        self._as_of_s = inventory.as_of_s
        self._apart = apart
        self._answers: dict[Demand, _Answer] = {}

    @property
    def inventory(self) -> Inventory:
        """The fleet as it is now."""
        return Inventory(tuple(self.table.nodes.values()), self._as_of_s)

    def place(self, demand: Demand) -> tuple[Placement, ...]:
        """Gives `demand` the best room there is: one placement for each of its nodes, or none at all if they do not fit."""
        self.ranking.see(demand)
        scores = self._scores(demand)
        placements = self._one(scores, demand) if demand.nodes == 1 else self._gang(scores.copy(), demand)
        for placement in placements:
            self.table.put(self.table.nodes[placement.node].take(placement))
        return placements

    def release(self, placement: Placement) -> None:
        """Takes back what a run held. Raises CapacityError if it was not given, KeyError if there is no such node."""
        self.table.put(self.table.nodes[placement.node].give_back(placement))

    def unplaced(self, demand: Demand) -> Unplaced:
        """Why `demand` finds no room now, node by node."""
        verdicts = [fit(node, demand) for node in self.table.nodes.values()]
        refusals = [verdict for verdict in verdicts if isinstance(verdict, Refused)]
        refusals.sort(key=lambda refused: (-_stage(refused), refused.short, refused.node))
        return Unplaced(demand.nodes, sum(isinstance(verdict, Fit) for verdict in verdicts), tuple(refusals))

    def _scores(self, demand: Demand) -> Floats:
        """The scores of all rows, of which only those that changed since the last such demand are reckoned again."""
        key = replace(demand, priority=0, deadline_s=None, preemptible=False, expected_s=None, expected_sigma=0.0)
        table, version = self.table, self.ranking.version
        answer = self._answers.pop(key, None)
        if answer is None or answer.version != version or answer.epoch != table.epoch:
            question = answer.question if answer else Question(table, key)
            rows = np.arange(table.size)
            answer = _Answer(question, version, table.epoch, 0, self.ranking.scores(question, rows))
        elif changed := table.changed[answer.changes :]:
            rows = np.array(list(dict.fromkeys(changed)))
            if table.size > len(answer.scores):
                grown = np.full(len(table.count), NOT_HERE)
                grown[: len(answer.scores)] = answer.scores
                answer.scores = grown
            answer.scores[rows] = self.ranking.scores(answer.question, rows)
        answer.changes = len(table.changed)
        self._answers[key] = answer  # at the end: the first is the one not asked for longest
        if len(self._answers) > _KEPT:
            del self._answers[next(iter(self._answers))]
        return answer.scores

    def _one(self, scores: Floats, demand: Demand) -> tuple[Placement, ...]:
        while (row := self._best(scores)) is not None:
            placement = self._devices(self.table.names(row)[0], demand)
            if placement:
                return (placement,)
            scores[row] = NOT_HERE  # rows count; `fit` has the last word (NVLink)
        return ()

    def _best(self, scores: Floats) -> int | None:
        """The row with the highest score. Of equal ones, that with the least left: an order that no name enters."""
        top = scores.max(initial=NOT_HERE)
        if top == NOT_HERE:
            return None
        rows = np.flatnonzero(scores >= top - _EQUAL)
        if len(rows) == 1:
            return int(rows[0])
        return min((int(row) for row in rows), key=self.table.states.__getitem__)

    def _gang(self, scores: Floats, demand: Demand) -> tuple[Placement, ...]:
        """The nodes of a gang, one after the other, in as many failure domains as the scores are worth."""
        placements: list[Placement] = []
        used: Counter[int] = Counter()
        domains: set[str] = set()
        while len(placements) < demand.nodes and (row := self._best(scores)) is not None:
            names = self.table.names(row)
            placement = self._devices(names[used[row]], demand)
            if placement:
                placements.append(placement)
                used[row] += 1
                self._spread(scores, row, domains)
            if not placement or used[row] == len(names):
                scores[row] = NOT_HERE
        return tuple(placements) if len(placements) == demand.nodes else ()

    def _spread(self, scores: Floats, row: int, domains: set[str]) -> None:
        """Makes the other nodes of the failure domain of `row` less welcome, once for each domain."""
        domain = self.table.one_of(row).failure_domain
        if not domain or domain in domains:
            return
        domains.add(domain)
        same = np.array([kind.failure_domain == domain for kind in self.table.kinds.nodes])
        scores[: self.table.size][same[self.table.kind[: self.table.size]]] -= self._apart

    def _devices(self, name: str, demand: Demand) -> Placement | None:
        node = self.table.nodes[name]
        found = options(node, demand)
        return None if isinstance(found, Refused) else self.ranking.choose(node, demand, found)


def _stage(refused: Refused) -> int:
    """How far down the list of dimensions a node came before it refused."""
    return list(type(refused.dimension)).index(refused.dimension)
