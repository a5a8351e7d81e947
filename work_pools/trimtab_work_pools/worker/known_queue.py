"""The runs of a pool that wait: read whole now and then, and kept as events tell in between.

Reading all of a queue costs the server in proportion to its length, and every worker would do it for every run. An
event names the one run that has changed and its deployment; from that a worker can tell whether the run may be for its
node, and only then asks the server for it. What no event has told is found by reading all again.
"""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import dataclass
from uuid import UUID

from prefect.client.schemas.objects import StateType
from prefect.events import Event
from prefect.settings import PREFECT_WORKER_QUERY_SECONDS

from trimtab_work_pools.wishes import DemandError
from trimtab_work_pools.worker.control_plane import ControlPlane, Queues, Waiting
from trimtab_work_pools.worker.pace import news_s, queues_s, whole_queue_s
from trimtab_work_pools.worker.picking import AWAITING, BAD_DEMAND, NEVER, Queued

__all__ = ["KnownQueue"]

_RUN, _DEPLOYMENT = "prefect.flow-run.", "prefect.deployment."
_ONLY_SAID = {AWAITING, NEVER, BAD_DEMAND, "Late"}
"""Names of states that change nothing but what people see."""
_DEPLOYMENTS_S = 30.0


@dataclass(frozen=True, slots=True)
class _News:
    deployment_id: UUID | None
    heard_s: float


class KnownQueue:
    """What one worker knows of the queue of its pool. Times are seconds since the epoch by the server's clock."""

    def __init__(self, control: ControlPlane, queues: set[str]) -> None:
        self._control, self._queues = control, queues
        self._waiting: dict[UUID, Waiting] = {}
        self._news: dict[UUID, _News] = {}
        self._live = False
        self._read_s = self._cost_s = self._news_read_s = self._queues_read_s = self._deployments_read_s = 0.0
        self._of_pool = Queues({})
        self._jitter = random.uniform(0.9, 1.1)

    # --- events ---

    def connected(self, live: bool) -> None:
        """Whether events arrive now. What was missed before is read."""
        self._live = live
        if live:
            self._read_s = 0.0

    def heard(self, event: Event) -> bool:
        """Whether it is a reason to plan again."""
        subject = event.resource.id
        if subject.startswith(_DEPLOYMENT):
            self._control.forget_deployments()
            self._read_s = 0.0
            return True
        if not subject.startswith(_RUN):
            self._queues_read_s = 0.0  # a work queue was paused, or goes on
            return True
        run_id = UUID(subject.removeprefix(_RUN))
        if event.resource.get("prefect.state-type") == StateType.SCHEDULED.value:
            if event.event.removeprefix(_RUN) in _ONLY_SAID and run_id in self._waiting:
                return False
            self._news[run_id] = _News(_deployment(event), self._control.now_s())
            return True
        self._news.pop(run_id, None)
        self._waiting.pop(run_id, None)
        return event.resource.get("prefect.state-type") not in (StateType.PENDING.value, StateType.RUNNING.value)

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
        if now_s - self._queues_read_s > queues_s(workers) * self._jitter:
            self._queues_read_s = now_s
            self._of_pool = await self._control.queues(self._queues)
        if now_s - self._read_s > self._whole_again_s(workers):
            await self._read_all(now_s, max(prefetch_s, 2 * self._whole_again_s(workers)))
        elif everything or now_s - self._news_read_s >= news_s(workers) * self._jitter:
            await self.read()
        return sorted(
            (one for one in self._waiting.values() if one.due_s <= now_s + prefetch_s),
            key=lambda one: (one.due_s, str(one.flow_run.id)),
        )

    async def _read_all(self, now_s: float, ahead_s: float) -> None:
        self._read_s, self._news_read_s = now_s, now_s
        if not self._live or now_s - self._deployments_read_s > _DEPLOYMENTS_S:
            self._deployments_read_s = now_s
            self._control.forget_deployments()
        self._news.clear()  # what is heard from here on is newer than what is read now
        found = await self._control.waiting(ahead_s, self._of_pool.priorities)
        self._waiting = {one.flow_run.id: one for one in found}
        self._cost_s = self._control.now_s() - now_s

    async def read(self, run_ids: Collection[UUID] | None = None) -> None:
        """Asks the server for these runs, of which only the events are known; for all such runs if none are named."""
        run_ids = list(self._news) if run_ids is None else run_ids
        if not run_ids:
            return
        self._news_read_s = self._control.now_s()
        for run_id in run_ids:
            self._news.pop(run_id, None)
            self._waiting.pop(run_id, None)
        for one in await self._control.waiting_of(run_ids, self._of_pool.priorities):
            self._waiting[one.flow_run.id] = one

    async def presumed(self) -> list[Queued]:
        """Runs that were heard of and not read: with what their deployments ask for, as if they were due since then."""
        found: list[Queued] = []
        unclear: list[UUID] = []
        for run_id, news in list(self._news.items()):
            try:
                demand = await self._control.demand_of(news.deployment_id)
                found.append(Queued(str(run_id), demand, news.heard_s))
            except (LookupError, DemandError):
                unclear.append(run_id)
        await self.read(unclear)
        return found

    def unread(self, run_ids: Collection[str]) -> list[UUID]:
        """Those of them that were heard of and not read."""
        return [run_id for run_id in self._news if str(run_id) in run_ids]

    def next_due_s(self) -> float:
        """When the next run that is known becomes due; infinite if there is none."""
        now_s = self._control.now_s()
        return min((one.due_s for one in self._waiting.values() if one.due_s > now_s), default=float("inf"))

    def _whole_again_s(self, workers: int) -> float:
        often: float = PREFECT_WORKER_QUERY_SECONDS.value() * 0.9
        if not self._live:
            return often
        return max(often, whole_queue_s(workers, self._cost_s, 0.0) * self._jitter)


def _deployment(event: Event) -> UUID | None:
    for related in event.related:
        if related.id.startswith(_DEPLOYMENT):
            return UUID(related.id.removeprefix(_DEPLOYMENT))
    return None
