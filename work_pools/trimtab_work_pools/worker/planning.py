"""What a worker plans with (peers, queue, policy of the pool), kept as events tell, and the plan it makes."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence

import httpx
from prefect.events import Event
from prefect.logging import get_logger

from trimtab_work_pools.advertise import Advertisement, current
from trimtab_work_pools.queue.explain import Away
from trimtab_work_pools.queue.workload import Policy
from trimtab_work_pools.rules.known_nodes import away_from
from trimtab_work_pools.rules.parts import Sign
from trimtab_work_pools.server.freshness import Freshness
from trimtab_work_pools.worker.announce import NODE_CHANGED, ROLL_CALLED, subscribed
from trimtab_work_pools.worker.control_plane import ControlPlane, Waiting
from trimtab_work_pools.worker.known_queue import KnownQueue
from trimtab_work_pools.worker.limits import Limits
from trimtab_work_pools.worker.pace import ADVERTISED_S, news_s, policy_s
from trimtab_work_pools.worker.peers import Peers
from trimtab_work_pools.worker.picking import Picked, Queued, concerned, members_to_come, pick
from trimtab_work_pools.worker.pool_policy import PolicyError

__all__ = ["Planning"]

_GONE_S = 60.0

_COMES_WITHIN_S = 10.0
"""From the claim of rank 0 until the run of a member is in the queue."""


class Planning:
    """Of one worker. All times are seconds since the epoch by the server's clock."""

    def __init__(self, worker: str, pool: str, control: ControlPlane, queues: set[str]) -> None:
        self.policy, self.fleet = Policy(), tuple[Advertisement, ...]()
        self._worker, self._control = worker, control
        self._queue = KnownQueue(control, queues)
        self._peers = Peers(worker, pool, control)
        self.limits = Limits(control)
        self._policy_read_s = 0.0
        self._gone, self._expired = tuple[Advertisement, ...](), tuple[Advertisement, ...]()
        self._gone_read = Freshness()
        self._to_come: dict[str, tuple[Queued, float]] = {}

    @property
    def leads(self) -> bool:
        """Whether this worker is the one of all that does what is to be done once: one that stays."""
        leader = next((one for one in self.fleet if one.closed or not one.draining), None)
        return leader is not None and leader.worker == self._worker

    @property
    def silent(self) -> tuple[Sign, ...]:
        """Of workers that renew what cannot be read."""
        return self._peers.silent

    async def with_peers(self, own: Advertisement) -> list[Advertisement]:
        """The peers, expired or not; `fleet` is then what may be planned with."""
        peers = await self._peers.now(self.leads)
        self.fleet = current([*peers, own], self._control.now_s())
        self._expired = tuple(one for one in peers if one.expires_s <= self._control.now_s())
        return peers

    async def waiting(self, prefetch_s: float) -> list[Waiting]:
        """The runs that wait, for whom no plan is made."""
        return await self._queue.now(prefetch_s, len(self.fleet), everything=self.leads)

    async def away(self) -> tuple[Away, ...]:
        """Nodes that take no runs now and might again, to be told of; nobody plans with them. What can't be read now is
        as it was."""
        now_s = self._control.now_s()
        if self._gone_read.due(now_s, _GONE_S):
            asked = self._gone_read.asked
            try:
                self._gone = await self._control.gone()
                self._gone_read.answered(asked, now_s)
            except httpx.HTTPError as error:
                get_logger("trimtab.worker").info("Nodes that have left are not read: %s", error)
        return away_from(self.fleet, [*self._expired, *self._gone], now_s, ADVERTISED_S)

    async def plan(self, prefetch_s: float, node: str, pool_limited: bool) -> tuple[list[Waiting], Picked]:
        """The runs that wait, and the plan. Runs that only events have told of are read if something is to be done here
        for them, by what their deployments ask for. `pool_limited`: the pool has a concurrency limit.
        """
        await self._read_policy()
        while True:
            waiting = await self._queue.now(prefetch_s, len(self.fleet), everything=self.leads)
            queued = [one.queued for one in waiting if one.queued is not None]
            presumed = await self._queue.presumed()
            all_queued = _each_once([*queued, *presumed])  # of one that was read, more may have been heard meanwhile
            expected = self._still_to_come(all_queued)
            limited = bool(all_queued) and (pool_limited or self._queue.limited)
            limits = await self.limits.now(limited, news_s(len(self.fleet)))
            picked = pick(node, self.fleet, all_queued, self.policy, self._control.now_s(), expected, limits)
            unread = self._queue.unread(concerned(picked))
            if not unread:
                until_s = time.monotonic() + _COMES_WITHIN_S
                self._to_come |= {one.gang: (one, until_s) for one in members_to_come(node, picked, all_queued)}
                return waiting, picked
            await self._queue.read(unread)

    def _still_to_come(self, queued: Sequence[Queued]) -> list[Queued]:
        """Of gangs that have left the queue, and whose member for this node is not in it yet."""
        seen, now_s = {one.gang or one.run_id for one in queued}, time.monotonic()
        self._to_come = {
            gang: (one, until_s)
            for gang, (one, until_s) in self._to_come.items()
            if gang not in seen and now_s < until_s
        }
        return [one for one, _ in self._to_come.values()]

    async def news(self) -> AsyncIterator[None]:
        """Each time that an event is a reason to plan again, for ever."""
        async for event in subscribed(self._control.pool_resource, self._queue.connected):
            if self._hears(event):
                yield

    def due_in_s(self) -> float:
        """Until the next run that is known becomes due."""
        return max(0.0, self._queue.next_due_s() - self._control.now_s())

    def _hears(self, event: Event) -> bool:
        if event.event == ROLL_CALLED:
            return self._peers.roll_called(event.payload)
        if event.event == NODE_CHANGED:
            return self._peers.heard(event.payload)
        return self._queue.heard(event)

    async def _read_policy(self) -> None:
        if self._control.now_s() - self._policy_read_s > policy_s(len(self.fleet)):
            try:
                self.policy = await self._control.policy()
            except PolicyError as error:
                get_logger("trimtab.worker").error("%s. The policy of before is kept.", error)
            self._policy_read_s = self._control.now_s()


def _each_once(queued: Sequence[Queued]) -> list[Queued]:
    """Of two of one run the first."""
    found: dict[str, Queued] = {}
    for one in queued:
        found.setdefault(one.run_id, one)
    return list(found.values())
