"""Decides which nodes of a fleet a demand goes to, one demand after the other, and counts what is given away."""

from __future__ import annotations

from collections.abc import Callable, Collection, Set
from dataclasses import dataclass

import numpy as np

from trimtab_work_pools.fit import Fit, Refused, fit, options
from trimtab_work_pools.rank.filter import Question
from trimtab_work_pools.rank.kinds import State
from trimtab_work_pools.rank.mix import Mix, shape
from trimtab_work_pools.rank.outlook import Aims
from trimtab_work_pools.rank.stranding import NOT_HERE, Floats, Ranking, StrandingRank, cached_share
from trimtab_work_pools.rank.table import FleetTable, Order
from trimtab_work_pools.resources import Demand, Inventory, Placement

__all__ = ["Placer", "Unplaced", "place"]

_EQUAL = 1e-9  # scores (in GPUs) closer than this are a tie: far above the rounding of sums, far below any meaning
_Offer = tuple[float, State, Order]  # what a node is worth, and the order of those worth the same
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
    placer = Placer(inventory, lambda table: StrandingRank(table, aims, mix), aims)
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

    Without `ranking` it is StrandingRank, which learns the mix from what it places. Of `aims`, `locality` and
    `apart` are on the scale of the ranking.
    """

    def __init__(
        self,
        inventory: Inventory,
        ranking: Callable[[FleetTable], Ranking] | None = None,
        aims: Aims | None = None,
    ) -> None:
        self._aims = aims or Aims()
        self.table = FleetTable(inventory.nodes)
        self.ranking: Ranking = ranking(self.table) if ranking else StrandingRank(self.table, self._aims)
        self._as_of_s = inventory.as_of_s
        self._answers: dict[Demand, _Answer] = {}

    @property
    def inventory(self) -> Inventory:
        """The fleet as it is now."""
        return Inventory(tuple(self.table.nodes.values()), self._as_of_s)

    def place(self, demand: Demand) -> tuple[Placement, ...]:
        """Gives `demand` the best room there is: one placement for each of its nodes, or none at all."""
        asked = shape(demand)
        self.ranking.see(asked)
        placements = self._parts(self._scores(asked), demand)
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

    def _scores(self, asked: Demand) -> Floats:
        """The scores of all rows, of which only those that changed since the last such demand are reckoned again."""
        table, version = self.table, self.ranking.version
        answer = self._answers.pop(asked, None)
        if answer is None or answer.version != version or answer.epoch != table.epoch:
            question = answer.question if answer else Question(table, asked)
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
        self._answers[asked] = answer  # at the end: the first is the one not asked for longest
        if len(self._answers) > _KEPT:
            del self._answers[next(iter(self._answers))]
        return answer.scores

    def _parts(self, scores: Floats, demand: Demand) -> tuple[Placement, ...]:
        """The nodes of `demand`, one after the other, all or none."""
        placements: dict[str, Placement] = {}
        refused: set[str] = set()
        while len(placements) < demand.nodes:
            name = self._pick(scores, demand, placements, refused)
            if name is None:
                return ()
            placement = self._devices(name, demand)
            if placement:
                placements[name] = placement
            else:  # rows count; `fit` has the last word (NVLink), and it is the same for all of the row
                refused.update(self.table.names_like(name))
        return tuple(placements.values())

    def _pick(self, scores: Floats, demand: Demand, chosen: Collection[str], refused: Set[str]) -> str | None:
        """The best node beside those chosen; of equal ones that with the least left, an order that no name enters."""
        if demand.nodes == 1 and not demand.reads and not refused:
            row = self._best(scores)
            return None if row is None else self.table.first(row)
        offers = self._offers(scores, demand, chosen, refused)
        if not offers:
            return None
        top = max(worth for worth, _, _ in offers)
        return min((state, order) for worth, state, order in offers if worth >= top - _EQUAL)[1][-1]

    def _best(self, scores: Floats) -> int | None:
        top = scores.max(initial=NOT_HERE)
        if top == NOT_HERE:
            return None
        rows = np.flatnonzero(scores >= top - _EQUAL)
        if len(rows) == 1:
            return int(rows[0])
        return min((int(row) for row in rows), key=self.table.states.__getitem__)

    def _offers(self, scores: Floats, demand: Demand, chosen: Collection[str], refused: Set[str]) -> list[_Offer]:
        """What single nodes are worth, with the data that lies on them and the failure domains that a gang is in."""
        domains = {self.table.nodes[name].failure_domain for name in chosen} - {""}
        reach = self._aims.locality * bool(demand.reads) + self._aims.apart * bool(domains)
        offers: list[_Offer] = []
        floor = NOT_HERE
        for row in np.argsort(-scores, kind="stable"):
            if scores[row] == NOT_HERE or scores[row] < floor - reach - _EQUAL:
                break  # the best of what follows, with all the data and in a domain of its own, is worth less
            for name in self.table.names(int(row)):
                if name not in chosen and name not in refused:
                    node = self.table.nodes[name]
                    worth = float(scores[row]) + self._aims.locality * cached_share(node, demand)
                    worth -= self._aims.apart * (node.failure_domain in domains)
                    offers.append((worth, self.table.states[int(row)], self.table.order(name)))
                    floor = max(floor, float(scores[row]))
        return offers

    def _devices(self, name: str, demand: Demand) -> Placement | None:
        node = self.table.nodes[name]
        found = options(node, demand)
        return None if isinstance(found, Refused) else self.ranking.choose(node, found)


def _stage(refused: Refused) -> int:
    """How far down the list of dimensions a node came before it refused."""
    return list(type(refused.dimension)).index(refused.dimension)
