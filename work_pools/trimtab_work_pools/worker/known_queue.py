"""The runs of a pool that wait: read whole now and then, and kept as events tell in between.

Reading all of a queue costs the server in proportion to its length, and every worker would do it for every run. An
event names the one run that has changed and its deployment; from that a worker can tell whether the run may be for its
node, and only then asks the server for it. What no event has told is found by reading all again.
"""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import dataclass, replace
from uuid import UUID

from prefect.client.schemas.objects import StateType
from prefect.events import Event
from prefect.settings import PREFECT_WORKER_QUERY_SECONDS

from trimtab_work_pools.demand.merge import Source
from trimtab_work_pools.server.freshness import Freshness
from trimtab_work_pools.wishes import DemandError
from trimtab_work_pools.worker.control_plane import ControlPlane, Queues, Waiting
from trimtab_work_pools.worker.pace import news_s, queues_s, whole_queue_s
from trimtab_work_pools.worker.picking import AWAITING, BAD_DEMAND, NEVER, Queued

__all__ = ["KnownQueue"]

_RUN, _DEPLOYMENT, _POOL = "prefect.flow-run.", "prefect.deployment.", "prefect.work-pool."
_ONLY_SAID = {AWAITING, NEVER, BAD_DEMAND, "Late"}
"""Names of states that change nothing but what people see."""
_DEPLOYMENTS_S = 30.0
_DELETED_S = 30.0
"""A deployment that cannot be read for so long has been deleted."""
_SETTLED_S = 2.0
"""An event may be heard before what it tells of can be read: so long after it, that is read once more."""


@dataclass(frozen=True, slots=True)
class _News:
    """Told by event: `heard` is its number, `unread` says that its demand could not be read yet."""

    deployment_id: UUID | None
    heard_s: float
    heard: int


class KnownQueue:
    """What one worker knows of the queue of its pool. Times are seconds since the epoch by the server's clock.

    Nothing that was heard is forgotten before the server has answered: after a call that failed, the next one asks for
    the same again. What is heard while an answer is on its way is newer than the answer.
    """

    def __init__(self, control: ControlPlane, queues: set[str]) -> None:
        self._control, self._queues = control, queues
        self._waiting: dict[UUID, Waiting] = {}
        self._news: dict[UUID, _News] = {}
        self._heard: dict[UUID, int] = {}
        self._events = 0
        self._live = False
        self._whole, self._of_queues, self._asks = Freshness(), Freshness(), Freshness()
        self._changed: set[UUID | None] = set()
        self._unknown_s: dict[UUID, float] = {}
        self._settled_s = self._cost_s = self._news_read_s = self._deployments_read_s = 0.0
        self._of_pool = Queues({})
        self._jitter = random.uniform(0.9, 1.1)

    # --- events ---

    def connected(self, live: bool) -> None:
        """Whether events arrive now. What was missed before is read."""
        self._live = live
        if live:
            self._whole.spoil()

    def heard(self, event: Event) -> bool:
        """Whether it is a reason to plan again."""
        subject = event.resource.id
        if subject.startswith((_DEPLOYMENT, _POOL)):
            self._changed.add(_id(subject, _DEPLOYMENT))
            self._settled_s = self._control.now_s() + _SETTLED_S
            self._asks.spoil()
            return True
        if not subject.startswith(_RUN):
            self._of_queues.spoil()  # a work queue was paused, or goes on
            return True
        return self._heard_of_run(UUID(subject.removeprefix(_RUN)), event)

    def _heard_of_run(self, run_id: UUID, event: Event) -> bool:
        kind = event.resource.get("prefect.state-type")
        if kind == StateType.SCHEDULED.value:
            if event.event.removeprefix(_RUN) in _ONLY_SAID and run_id in self._waiting:
                return False
            self._note(run_id)
            self._news[run_id] = _News(_deployment(event), self._control.now_s(), self._events)
            return True
        self._note(run_id)
        self._news.pop(run_id, None)
        self._waiting.pop(run_id, None)
        return kind not in (StateType.PENDING.value, StateType.RUNNING.value)

    def _note(self, run_id: UUID) -> None:
        self._events += 1
        self._heard[run_id] = self._events

    # --- what is known ---

    @property
    def limited(self) -> bool:
        """Whether one of the queues has a concurrency limit."""
        return self._of_pool.limited

    async def now(self, prefetch_s: float, workers: int, everything: bool) -> list[Waiting]:
        """Runs that are due within `prefetch_s`, in order of their time. `workers`: how many the pool has.
        `everything`: all that was heard of is read.
        """
        now_s = self._control.now_s()
        if self._of_queues.due(now_s, queues_s(workers) * self._jitter):
            asked = self._of_queues.asked
            self._of_pool = await self._control.queues(self._queues)
            self._of_queues.answered(asked, now_s)
        if self._whole.due(now_s, self._whole_again_s(workers)):
            await self._read_all(now_s, max(prefetch_s, 2 * self._whole_again_s(workers)))
        elif everything or now_s - self._news_read_s >= news_s(workers) * self._jitter:
            await self.read()
        await self._read_what_they_ask(now_s)
        return sorted(
            (one for one in self._waiting.values() if one.due_s <= now_s + prefetch_s),
            key=lambda one: (one.due_s, str(one.flow_run.id)),
        )

    async def _read_all(self, now_s: float, ahead_s: float) -> None:
        if not self._live or now_s - self._deployments_read_s > _DEPLOYMENTS_S:
            self._control.demands.forget()
            self._deployments_read_s = now_s
        asked, before = self._whole.asked, self._events
        answer = await self._control.waiting(ahead_s, self._of_pool.priorities)
        self._waiting = {run_id: one for run_id, one in self._waiting.items() if self._heard.get(run_id, 0) > before}
        self._news = {run_id: one for run_id, one in self._news.items() if one.heard > before}
        self._enter(answer, before)
        self._heard = {run_id: number for run_id, number in self._heard.items() if number > before}
        known = self._waiting.keys() | self._news.keys()
        self._unknown_s = {run_id: since_s for run_id, since_s in self._unknown_s.items() if run_id in known}
        self._whole.answered(asked, now_s)
        self._news_read_s = now_s
        self._cost_s = self._control.now_s() - now_s

    async def read(self, run_ids: Collection[UUID] | None = None) -> None:
        """Asks the server for these runs, of which only the events are known; for all such runs if none are named."""
        run_ids = list(self._news) if run_ids is None else list(run_ids)
        if not run_ids:
            return
        before = self._events
        answer = await self._control.waiting_of(run_ids, self._of_pool.priorities)
        for run_id in run_ids:
            if self._heard.get(run_id, 0) <= before:
                self._news.pop(run_id, None)
                self._waiting.pop(run_id, None)
        self._enter(answer, before)
        self._news_read_s = self._control.now_s()

    def _enter(self, answer: Collection[Waiting], before: int) -> None:
        """An answer to what was asked when `before` events had been heard. Of a run whose demand could not be read, no
        more is known than an event would tell: it is asked for again.
        """
        now_s = self._control.now_s()
        for one in answer:
            run_id = one.flow_run.id
            if self._heard.get(run_id, 0) > before:
                continue
            since_s = self._unknown_s.setdefault(run_id, now_s) if one.unknown else now_s
            if not one.unknown:
                self._unknown_s.pop(run_id, None)
                self._waiting[run_id] = one
            elif now_s - since_s < _DELETED_S:
                self._news[run_id] = _News(one.flow_run.deployment_id, now_s, before)
            else:
                said = f"its deployment {one.flow_run.deployment_id} is not there any more"
                self._waiting[run_id] = replace(one, problem=said, at_fault=frozenset({Source.DEPLOYMENT}))

    async def _read_what_they_ask(self, now_s: float) -> None:
        """Again, after a deployment or the pool's template has changed; and once more a little later."""
        settled = bool(self._settled_s) and now_s >= self._settled_s
        if not settled and not self._asks.due(now_s, float("inf")):
            return
        for deployment in self._changed:
            self._control.demands.forget(deployment)
        asked, before, settles_s = self._asks.asked, self._events, self._settled_s
        answer = await self._control.planned_again(list(self._waiting.values()))
        here = [one for one in answer if one.flow_run.id in self._waiting]
        for one in here:
            if one.unknown:
                del self._waiting[one.flow_run.id]
        self._enter(here, before)
        self._asks.answered(asked, now_s)
        if settled and settles_s == self._settled_s:
            self._changed.clear()
            self._settled_s = 0.0

    async def presumed(self) -> list[Queued]:
        """Runs that were heard of and not read: with what their deployments ask for, as if they were due since then."""
        presumed: list[Queued] = []
        unclear: list[UUID] = []
        for run_id, news in list(self._news.items()):
            try:
                demand = await self._control.demand_of(news.deployment_id)
                presumed.append(Queued(str(run_id), demand, news.heard_s))
            except (LookupError, DemandError):
                unclear.append(run_id)
        await self.read(unclear)
        return presumed

    def unread(self, run_ids: Collection[str]) -> list[UUID]:
        """Those of them that were heard of and not read."""
        return [run_id for run_id in self._news if str(run_id) in run_ids]

    def next_due_s(self) -> float:
        """When the next run that is known becomes due; infinite if there is none."""
        now_s = self._control.now_s()
        due_s = min((one.due_s for one in self._waiting.values() if one.due_s > now_s), default=float("inf"))
        return min(due_s, self._settled_s or due_s)

    def _whole_again_s(self, workers: int) -> float:
        often: float = PREFECT_WORKER_QUERY_SECONDS.value() * 0.9
        if not self._live:
            return often
        return max(often, whole_queue_s(workers, self._cost_s, 0.0) * self._jitter)


def _deployment(event: Event) -> UUID | None:
    return next((one for one in (_id(related.id, _DEPLOYMENT) for related in event.related) if one), None)


def _id(resource: str, kind: str) -> UUID | None:
    return UUID(resource.removeprefix(kind)) if resource.startswith(kind) else None
