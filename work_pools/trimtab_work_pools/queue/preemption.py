"""Which running runs make way for one that ranks above them: those whose stop loses the least work.

A plan never thrashes: a victim ranks strictly below (`priority.outranks`, a strict order, so no chain of preemptions
closes), has run for `Policy.min_run_s` since it last started, and so overheads are at most
(checkpoint_s + restart_s) / (min_run_s + checkpoint_s + restart_s) of what preempted stretches hold.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from trimtab_work_pools.queue.priority import Key, Ranked, outranks, running_key
from trimtab_work_pools.queue.rooms import Claim
from trimtab_work_pools.queue.timeline import Slot, Timeline
from trimtab_work_pools.queue.workload import Policy, Running

__all__ = ["Eviction", "Victims", "lost_s"]


_LOOKS = 64


@dataclass(frozen=True, slots=True)
class Eviction:
    """Stop `victims`, then start in `slot`."""

    victims: tuple[Running, ...]
    slot: Slot


@dataclass(frozen=True, slots=True)
class _Option:
    lost_s: float
    rank: int
    position: int
    claim: Claim
    victims: tuple[Running, ...]


def lost_s(running: Running, policy: Policy) -> float:
    """GPU-seconds that stopping a run loses: unsaved work, checkpoint and restart, on all it holds."""
    return (running.unsaved_s + policy.checkpoint_s + policy.restart_s) * running.run.width


class Victims:
    """The running runs that may be stopped, as one plan goes on using them up."""

    def __init__(self, running: Sequence[Running], fleet_width: float, policy: Policy, now_s: float) -> None:
        self._policy, self._now_s = policy, now_s
        self._entitlement = dict(policy.shares)
        self._held: dict[str, float] = defaultdict(float)
        self._keys: dict[str, Key] = {}
        self._left: dict[str, Running] = {}
        for one in running if policy.preempt else ():
            if one.stopping_until_s is not None:
                continue
            self._held[one.run.team] += one.run.width
            if one.run.preemptible and now_s - one.started_s - one.overhead_s >= policy.min_run_s:
                self._left[one.run.id] = one
                self._keys[one.run.id] = running_key(one, fleet_width, policy, now_s)

    def any(self) -> bool:
        return bool(self._left)

    def started(self, ranked: Ranked) -> None:
        self._held[ranked.run.team] += ranked.run.width

    def choose(self, ranked: Ranked, timeline: Timeline, left_s: float) -> Eviction | None:
        """The cheapest eviction that lets the run start once its victims are gone, or None."""
        lower = [one for one in self._left.values() if self._may_stop(ranked, one)]
        if not lower:
            return None
        by_node: dict[int, list[Running]] = defaultdict(list)
        for one in sorted(lower, key=self._cheapest_first):
            for position, _ in timeline.positions(one):
                by_node[position].append(one)
        slot_s = self._now_s + self._policy.checkpoint_s
        best = self._options(ranked, timeline, by_node, slot_s, left_s)
        if len(best) < ranked.run.nodes:
            return None
        victims = {one.run.id: one for option in best for one in option.victims}
        parts = tuple((option.position, option.claim) for option in best)
        return Eviction(tuple(victims[run_id] for run_id in sorted(victims)), Slot(slot_s, parts))

    def _options(
        self, ranked: Ranked, timeline: Timeline, by_node: dict[int, list[Running]], slot_s: float, left_s: float
    ) -> list[_Option]:
        """The nodes that lose least. Nodes are asked in order of their cheapest victim, so most need not be asked.

        Once there are enough, at most `_LOOKS` more are asked: in a large fleet the next is hardly ever much cheaper.
        """
        nodes = ranked.run.nodes
        if nodes > 1:  # a gang may also stand on nodes that need no victim
            asked = list(range(len(timeline.lanes)))
        else:
            asked = sorted(by_node, key=lambda position: (*self._cheapest_first(by_node[position][0])[:-1], position))
        could_host = timeline.could_host(ranked.run.demand)
        best: list[_Option] = []
        looks = 0
        for rank, position in enumerate(asked):
            if not could_host[position]:
                continue
            lower = by_node.get(position, [])
            if len(best) == nodes and lower and best[-1].lost_s <= lost_s(lower[0], self._policy):
                if nodes == 1:
                    break
                continue
            looks += len(best) == nodes
            if looks > _LOOKS:
                break
            found = self._on_node(ranked, timeline, position, lower, slot_s, left_s)
            if found is not None:
                lost = sum(lost_s(one, self._policy) for one in found[1])
                best.append(_Option(lost, rank, position, *found))
                best = sorted(best, key=lambda option: (option.lost_s, option.rank))[:nodes]
        return best

    def stopped(self, eviction: Eviction) -> None:
        for one in eviction.victims:
            del self._left[one.run.id]
            self._held[one.run.team] -= one.run.width

    def _on_node(
        self, ranked: Ranked, timeline: Timeline, position: int, lower: list[Running], slot_s: float, left_s: float
    ) -> tuple[Claim, tuple[Running, ...]] | None:
        """The claim on one node once its victims are gone, and a set of them of which none is needless."""
        window, demand = timeline.window(position, slot_s, left_s), ranked.run.demand
        for one in lower:
            window.remove(one.run.id)
        found = window.claim(demand)
        if found is None:  # most nodes are settled by this
            return None
        chosen: list[Running] = []
        for one in reversed(lower):  # the dearest first: it stays if the cheaper ones are enough
            window.restore(one.run.id)
            without = window.claim(demand)
            if without is None:
                window.remove(one.run.id)
                chosen.append(one)
            else:
                found = without
        return found, tuple(chosen)

    def _may_stop(self, ranked: Ranked, victim: Running) -> bool:
        key, other = ranked.key, self._keys[victim.run.id]
        if ranked.run.team == victim.run.team or key[:2] != other[:2]:
            return outranks(key, other, self._policy.preempt_factor)
        # Between teams only an entitlement is reclaimed: what the victim's team keeps must not be less than what the
        # claimant's team then has, so the difference between teams only ever shrinks.
        mine = self._entitlement.get(ranked.run.team, 1.0)
        theirs = self._entitlement.get(victim.run.team, 1.0)
        kept = (self._held[victim.run.team] - victim.run.width) / theirs
        return key[1] == 1 and kept >= (self._held[ranked.run.team] + ranked.run.width) / mine

    def _cheapest_first(self, one: Running) -> tuple[float, int, int, float, float, str]:
        key = self._keys[one.run.id]
        return (lost_s(one, self._policy), -key[0], -key[1], -key[2], -key[3], one.run.id)
