"""Decides which of the queued runs this worker starts on its own node. Pure.

Every worker makes the same plan for the whole fleet from the same snapshot, and takes only its own share: a run that
fits a peer better is left to the peer. When the peer's advertisement expires, the next plan is made without it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from trimtab_work_pools.advertise import Advertisement, current, fleet_from
from trimtab_work_pools.fit import Refused, fit
from trimtab_work_pools.ledger import Holding, Ledger
from trimtab_work_pools.queue import explain, plan
from trimtab_work_pools.queue.explain import Away, would_fit
from trimtab_work_pools.queue.gpu_rooms import run_of
from trimtab_work_pools.queue.verdicts import Code, Plan
from trimtab_work_pools.queue.workload import Fleet, Limit, Policy, Run
from trimtab_work_pools.resources import Demand, Placement

__all__ = [
    "AWAITING",
    "BAD_DEMAND",
    "GANG",
    "NEVER",
    "NODE",
    "Picked",
    "Queued",
    "concerned",
    "members_to_come",
    "pick",
]

NEVER = "NoNodeFits"
"""Name of the state of a run that no advertised node could ever hold."""
AWAITING, BAD_DEMAND = "AwaitingResources", "BadResources"
"""Of one that waits for its turn; and of one whose demand cannot be read."""


GANG, NODE = "trimtab.gang", "trimtab.node"
"""Labels of a member of a gang: the id of rank 0, and the node that it is for."""


@dataclass(frozen=True, slots=True)
class Queued:
    """A scheduled run: what it asks for, since when, and the priority of its work queue (1 is the highest).

    `node`: it is for this node only, and has precedence there: the rest of its `gang` (the id of rank 0) holds others.
    `limits` are names of the concurrency limits that it counts against.
    """

    run_id: str
    demand: Demand
    submitted_s: float
    queue_priority: int = 1
    node: str = ""
    gang: str = ""
    limits: tuple[str, ...] = ()

    def run(self) -> Run:
        """As the planner sees it. One step of queue priority counts as one step of the run's own."""
        demand = replace(self.demand, priority=self.demand.priority - (self.queue_priority - 1))
        return run_of(self.run_id, demand, self.submitted_s, limits=self.limits)


@dataclass(frozen=True, slots=True)
class Picked:
    """`starts`: run id and where, on this node, best first. `stops`: run ids of this node that make way for others.
    `gangs`: run id -> the other nodes of a start that takes several. `pinned`: reasons of those that are for one node.
    """

    starts: tuple[tuple[str, Placement], ...]
    stops: tuple[tuple[str, str], ...]
    plan: Plan
    fleet: Fleet
    runs: tuple[Run, ...]
    gangs: tuple[tuple[str, tuple[str, ...]], ...] = ()
    pinned: tuple[tuple[str, str], ...] = ()

    def reasons(self, away: Sequence[Away] = ()) -> dict[str, tuple[str, str]]:
        """(name of the state, sentence) of each run that waits. `away` are nodes that the plan does not count on."""
        codes = {wait.run_id: wait.code for wait in self.plan.waits}
        waiting = [run for run in self.runs if run.id in codes and codes[run.id] is not Code.NOT_YET]
        planned: dict[str, tuple[str, str]] = {}
        never: dict[tuple[object, int], tuple[str, str]] = {}  # the same for all that ask for the same
        for run in waiting:
            if codes[run.id] is not Code.NEVER_FITS:
                planned[run.id] = (AWAITING, explain(run, self.fleet, self.plan, away))
                continue
            asked = (run.demand, run.nodes)
            if asked not in never:
                state = AWAITING if would_fit(run, self.fleet, away) else NEVER
                never[asked] = (state, explain(run, self.fleet, self.plan, away))
            planned[run.id] = never[asked]
        return planned | {run_id: (AWAITING, why) for run_id, why in self.pinned}


def pick(
    node: str,
    advertisements: Iterable[Advertisement],
    queued: Sequence[Queued],
    policy: Policy,
    now_s: float,
    expected: Sequence[Queued] = (),
    limits: Iterable[Limit] = (),
) -> Picked:
    """The share of `node` in the plan of the fleet that is advertised at `now_s`, within the concurrency `limits`.
    `expected`: members of gangs that are not in the queue yet (`members_to_come`): their place is kept free.
    """
    pinned = [*(one for one in queued if one.node), *expected]
    seated, own, refused = _seat(pinned, current(advertisements, now_s), node, now_s)
    coming = {one.run_id for one in expected}
    own = [(run_id, placement) for run_id, placement in own if run_id not in coming]
    refused = [(run_id, why) for run_id, why in refused if run_id not in coming]
    waiting = Counter(name for one in pinned for name in one.limits)  # the rest of their gang is claimed already
    counted = (replace(one, taken=one.taken + waiting[one.name]) for one in limits)
    fleet = replace(fleet_from(seated), limits=tuple(counted))
    running = {one.run.id for one in fleet.running}
    # What a peer has just claimed may still be in the queue that was read: its advertisement is the later news.
    runs = tuple(one.run() for one in queued if one.run_id not in running and not one.node)
    made = plan(fleet, runs, policy, now_s)
    starts = [(start.run_id, start.parts) for start in made.starts if start.parts[0][0] == node]
    mine = [(run_id, replace(parts[0][1].devices, node=node)) for run_id, parts in starts]
    gangs = [(run_id, tuple(name for name, _ in parts[1:])) for run_id, parts in starts if len(parts) > 1]
    here = {one.run.id for one in fleet.running if any(name == node for name, _ in one.parts)}
    stops = tuple((stop.run_id, stop.for_run_id) for stop in made.stops if stop.run_id in here)
    return Picked((*own, *mine), stops, made, fleet, runs, tuple(gangs), tuple(refused))


def members_to_come(node: str, picked: Picked, queued: Sequence[Queued]) -> list[Queued]:
    """What is to be kept free on `node` from when rank 0 of a gang that is planned on it was claimed elsewhere until
    the run of its member is there: else a run that ranks below it would take its place in between.
    """
    by_id = {one.run_id: one for one in queued}
    found: list[Queued] = []
    for start in picked.plan.starts:
        gang = by_id.get(start.run_id)
        if gang is not None and any(name == node for name, _ in start.parts[1:]):
            demand = replace(gang.demand, nodes=1)
            found.append(
                Queued(f"{gang.run_id} on {node}", demand, gang.submitted_s, 1, node, gang.run_id, gang.limits)
            )
    return found


def concerned(picked: Picked) -> set[str]:
    """Ids of the runs for which something is to be done on this node: they start here, or others make way for them."""
    return {run_id for run_id, _ in picked.starts} | {for_run_id for _, for_run_id in picked.stops}


def _seat(
    pinned: Sequence[Queued], fleet: tuple[Advertisement, ...], node: str, now_s: float
) -> tuple[tuple[Advertisement, ...], list[tuple[str, Placement]], list[tuple[str, str]]]:
    """The fleet with the runs that are for one node holding their part of it; those that start on `node`; and why the
    others do not.
    """
    by_node = {one.node.name: one for one in fleet}
    own: list[tuple[str, Placement]] = []
    refused: list[tuple[str, str]] = []
    for one in pinned:
        seat = by_node.get(one.node)
        if seat is None or seat.draining:
            refused.append((one.run_id, f"it is for node {one.node}, which takes no runs now"))
            continue
        ledger = Ledger(seat.node, seat.holdings)
        if ledger.find(one.run_id):
            continue
        found = fit(ledger.free(), one.demand)
        if isinstance(found, Refused):
            refused.append((one.run_id, f"it is for node {one.node}: {found.text}"))
            continue
        held = Holding(one.run_id, one.demand, found.placement, one.submitted_s, now_s)
        by_node[one.node] = replace(seat, holdings=(*seat.holdings, held))
        if one.node == node:
            own.append((one.run_id, found.placement))
    return tuple(by_node.values()), own, refused
