"""What a worker reads from the Prefect server and writes to it, beside what Prefect's own worker does.

Advertisements are Prefect variables (a snapshot for late joiners), each announced by an event (live to peers). The
queue is read in pages, beyond the 200 runs that a worker's poll returns. All of it is the public REST API.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar, cast
from uuid import UUID

import anyio
import httpx
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterNextScheduledStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound
from prefect.logging import get_logger
from prefect.settings import PREFECT_API_URL
from prefect.states import Cancelled, Crashed, Failed, Scheduled
from prefect.types._datetime import DateTime, from_timestamp

from trimtab_blocks.paging import PAGE, all_by_offset
from trimtab_work_pools.advertise import Advertisement, Board
from trimtab_work_pools.demand.merge import Source
from trimtab_work_pools.host.clock import SYSTEM, Clock
from trimtab_work_pools.host.outbox import Outcome
from trimtab_work_pools.queue.workload import Limit, Policy
from trimtab_work_pools.resources import Demand
from trimtab_work_pools.rules.known_nodes import KEPT_S
from trimtab_work_pools.server.demands import Demands, UnknownDemand
from trimtab_work_pools.server.notices import Notices
from trimtab_work_pools.server.server_clock import ServerClock
from trimtab_work_pools.wishes import DemandError
from trimtab_work_pools.worker.endings import completed_after_all
from trimtab_work_pools.worker.picking import GANG, NODE, Queued
from trimtab_work_pools.worker.pool_policy import read_policy

__all__ = [
    "RETRIES",
    "ControlPlane",
    "Queues",
    "Waiting",
    "persistently",
    "refused",
    "retries_in_process",
    "server_answers",
]

_T = TypeVar("_T")
_NEXT: Mapping[str, Any] = {"GangEnded": Cancelled, "GangFailed": Failed}
"""What becomes of runs that are stopped for such a reason; of all others: they are scheduled."""
RETRIES = "AwaitingRetry"
"""Name of the state of a run between two tries of its flow."""
_TRY_AGAIN_S, _TRY_AGAIN_AT_MOST_S = 1.0, 30.0
_AWAY = (
    httpx.codes.UNAUTHORIZED,
    httpx.codes.FORBIDDEN,
    httpx.codes.REQUEST_TIMEOUT,
    httpx.codes.TOO_MANY_REQUESTS,
)
"""What a server answers that takes the same at another time, or from somebody whose credentials it knows."""
_PAGE = 200
_MOST = 5000
"""Runs read at most: beyond them, what waits is too far behind to start now."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A scheduled run: to be planned, or (`problem`) with a demand that cannot be read, said by whom is `at_fault`; or
    (`unknown`) with one that is not known yet. `asked_s`: when the server was asked for it (`time.monotonic`).
    """

    flow_run: FlowRun
    queued: Queued | None
    due_s: float
    asked_s: float
    problem: str = ""
    at_fault: frozenset[str] = frozenset()
    asks: str = ""
    unknown: bool = False
    queue_priority: int = 1


@dataclass(frozen=True, slots=True)
class Queues:
    """Work queues that runs are taken from: priority by name (1 is the first), and whether one of them is limited."""

    priorities: Mapping[str, int]
    limited: bool = False


class ControlPlane:
    """One work pool on one server."""

    def __init__(self, client: PrefectClient, pool: str, clock: Clock = SYSTEM) -> None:
        self._client, self._pool = client, pool
        self.notices, self._gone = Notices(self._call, pool), Notices(self._call, pool, "gone")
        self.demands = Demands(client, pool)
        self._clock = ServerClock(clock)
        self._pool_resource = ""

    def now_s(self) -> float:
        """Seconds since the epoch by the server's clock."""
        return self._clock.now_s()

    async def pool_resource(self) -> str:
        """By which events name the pool. Raises ObjectNotFound while there is none."""
        if not self._pool_resource:
            self._pool_resource = f"prefect.work-pool.{(await self._client.read_work_pool(self._pool)).id}"
        return self._pool_resource

    # --- advertisements ---

    async def publish(self, advertisement: Advertisement) -> None:
        """Writes what this worker advertises. Raises httpx.HTTPError."""
        await self.notices.publish(advertisement)

    async def withdraw(self, worker: str) -> None:
        """Takes it away."""
        await self.notices.withdraw(worker)

    async def leave(self, last: Advertisement) -> None:
        """Takes this worker's advertisement away, and leaves word of what its node was like."""
        await self.notices.withdraw(last.worker)
        await self._gone.publish(replace(last, holdings=()))

    async def gone(self) -> tuple[Advertisement, ...]:
        """What workers that have left said of their nodes. One that is too old is taken away."""
        kept: list[Advertisement] = []
        for one in (await self._gone.board()).advertisements:
            if self.now_s() - one.expires_s < KEPT_S:
                kept.append(one)
            else:
                await self._gone.withdraw(one.worker)
        return tuple(kept)

    async def prune(self, board: Board) -> None:
        """Takes away what workers that fell silent long ago had said."""
        for one in board.advertisements:
            if self.now_s() - one.expires_s > KEPT_S:
                await self.notices.withdraw(one.worker)

    async def board(self) -> Board:
        """What all advertise."""
        return await self.notices.board()

    # --- what the planner aims at ---

    async def policy(self) -> Policy:
        """The policy of the pool: a variable with fields of `Policy`, the same for all workers; or the defaults.

        Raises PolicyError if it is wrong.
        """
        name = "trimtab-policy-" + re.sub(r"[^a-z0-9]+", "-", self._pool.lower()).strip("-")
        response = await self._call("GET", f"/variables/name/{name}", None, missing_is_fine=True)
        if response is None:
            return Policy()
        return read_policy(response.json()["value"], f"variable {name}")

    # --- the queue ---

    async def waiting(self, prefetch_s: float, queues: Mapping[str, int]) -> list[Waiting]:
        """Scheduled runs that are due, of the named queues (name -> priority), however many stand before them."""
        asked_s, runs = time.monotonic(), list[FlowRun]()
        soon = cast(DateTime, from_timestamp(self.now_s() + prefetch_s, tz="UTC"))
        due = FlowRunFilter(
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])),
            next_scheduled_start_time=FlowRunFilterNextScheduledStartTime(before_=soon),
        )
        pool = WorkPoolFilter(name=WorkPoolFilterName(any_=[self._pool]))
        while len(runs) < _MOST:
            page = await self._client.read_flow_runs(
                flow_run_filter=due,
                work_pool_filter=pool,
                sort=FlowRunSort.NEXT_SCHEDULED_START_TIME_ASC,
                limit=_PAGE,
                offset=len(runs),
            )
            runs += page
            if len(page) < _PAGE:
                break
        return await self._planned(runs, queues, asked_s)

    async def waiting_of(self, run_ids: Collection[UUID], queues: Mapping[str, int]) -> list[Waiting]:
        """Those of these runs that are scheduled, due or not."""
        scheduled = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED]))
        pool = WorkPoolFilter(name=WorkPoolFilterName(any_=[self._pool]))
        asked_s, ids, runs = time.monotonic(), list(run_ids), list[FlowRun]()
        for start in range(0, len(ids), _PAGE):
            wanted = FlowRunFilter(id=FlowRunFilterId(any_=ids[start : start + _PAGE]), state=scheduled)
            runs += await self._client.read_flow_runs(flow_run_filter=wanted, work_pool_filter=pool, limit=_PAGE)
        return await self._planned(runs, queues, asked_s)

    async def _planned(self, runs: list[FlowRun], queues: Mapping[str, int], asked_s: float) -> list[Waiting]:
        runs = [run for run in runs if run.work_queue_name in queues and not retries_in_process(run)]
        await self.demands.know({run.deployment_id for run in runs if run.deployment_id})
        return [self._waiting(run, queues[run.work_queue_name or ""], asked_s) for run in runs]

    async def planned_again(self, waiting: Collection[Waiting]) -> list[Waiting]:
        """The same runs, with what they ask for since a deployment or the pool's template has changed."""
        await self.demands.know({one.flow_run.deployment_id for one in waiting if one.flow_run.deployment_id})
        return [self._waiting(one.flow_run, one.queue_priority, one.asked_s) for one in waiting]

    async def demand_of(self, deployment_id: UUID | None) -> Demand:
        """What runs of a deployment ask for if they say nothing themselves. Raises LookupError if there is none,
        DemandError if it is wrong.
        """
        if deployment_id is None:
            raise LookupError("no deployment")
        await self.demands.know({deployment_id})
        return self.demands.asked_by_deployment(deployment_id).demand

    async def job_variables(self, run: FlowRun) -> dict[str, Any]:
        """Of its deployment, with the run's over them; resources as they result. Raises DemandError, LookupError."""
        await self.demands.know([run.deployment_id] if run.deployment_id else [])
        return self.demands.job_variables(run)

    def _waiting(self, run: FlowRun, queue_priority: int, asked_s: float) -> Waiting:
        due = run.next_scheduled_start_time or run.expected_start_time or run.created
        due_s = due.timestamp() if due else 0.0
        try:
            asked = self.demands.asked(run)
        except UnknownDemand:
            return Waiting(run, None, due_s, asked_s, unknown=True, queue_priority=queue_priority)
        except DemandError as error:
            return Waiting(run, None, due_s, asked_s, str(error), error.sources, queue_priority=queue_priority)
        node = str(run.labels.get(NODE, ""))
        gang = str(run.labels.get(GANG, ""))
        queued = Queued(str(run.id), asked.demand, due_s, queue_priority, node, gang, self.limits_of(run))
        return Waiting(run, queued, due_s, asked_s, asks=str(asked), queue_priority=queue_priority)

    async def limits(self) -> tuple[Limit, ...]:
        """The concurrency limits that are set for the pool and its queues, and how many runs are claimed or running
        under each, as the server counts them.
        """
        found: list[Limit] = []
        page = pages = 1
        while page <= pages:
            body = {"page": page, "limit": _PAGE, "flow_run_limit": 0}
            response = await self._call("POST", f"/work_pools/{self._pool}/concurrency_status", body)
            status = response.json() if response is not None else {}
            if page == 1 and status["concurrency_limit"] is not None:
                found.append(Limit(self._pool_limit(), status["concurrency_limit"], status["active_slots"]))
            found += [
                Limit(_queue_limit(one["queue_name"]), one["concurrency_limit"], one["active_slots"])
                for one in status["queues"]
                if one["concurrency_limit"] is not None
            ]
            page, pages = page + 1, status["pages"]
        return tuple(found)

    def limits_of(self, run: FlowRun) -> tuple[str, ...]:
        """Names of the limits that a run counts against, where they are set."""
        return self._pool_limit(), _queue_limit(run.work_queue_name or "")

    def _pool_limit(self) -> str:
        return f"work pool {self._pool!r}"

    async def paused(self) -> bool:
        """Whether the pool is, now."""
        return (await self._client.read_work_pool(self._pool)).is_paused

    async def queues(self, names: set[str]) -> Queues:
        """The pool's queues that are not paused; of those named only, if any are named."""
        found = await all_by_offset(
            lambda offset: self._client.read_work_queues(work_pool_name=self._pool, limit=PAGE, offset=offset)
        )
        wanted = [queue for queue in found if not queue.is_paused and (not names or queue.name in names)]
        limited = any(queue.concurrency_limit is not None for queue in wanted)
        return Queues({queue.name: queue.priority or 1 for queue in wanted}, limited)

    # --- telling people ---

    async def say(self, run: FlowRun, name: str, message: str) -> bool:
        """Shows in the UI why a scheduled run waits, and returns whether it does. Its time stays; one that was claimed
        or deleted since is left alone.
        """
        due = run.next_scheduled_start_time or run.expected_start_time
        return await self._while_it_waits(run.id, Scheduled(name=name, message=message, scheduled_time=due))

    async def refuse(self, one: Waiting, name: str) -> str:
        """Ends a run whose demand cannot be met as it is written, if that is still so: nobody but its owner can change
        it, and whoever waits for it is to know. What the work pool says wrong is its owner's to mend: the run waits.
        Returns what was said.
        """
        self.demands.forget(one.flow_run.deployment_id)
        try:
            run = await self._client.read_flow_run(one.flow_run.id)
        except ObjectNotFound:
            return ""
        (again,) = await self.planned_again([replace(one, flow_run=run)])
        if again.unknown:  # as Prefect's own worker does with a run whose deployment was deleted
            state: Any = Cancelled(message=one.problem)
            return one.problem if await self._while_it_waits(run.id, state) else ""
        if not again.problem:
            return ""
        if Source.POOL in again.at_fault or Source.FIXED in again.at_fault:
            return again.problem if await self.say(run, name, again.problem) else ""
        state = Failed(name=name, message=f"It was not started: {again.problem}")
        return again.problem if await self._while_it_waits(run.id, state) else ""

    async def _while_it_waits(self, run_id: UUID, state: Any) -> bool:
        try:
            current = (await self._client.read_flow_run(run_id)).state
            if current is None or not current.is_scheduled():
                return False
            await self._client.set_flow_run_state(run_id, state)
        except ObjectNotFound:
            return False
        return True

    async def deliver(self, outcome: Outcome) -> str:
        """Tells how a run ended that could not be told then; what has become of it, in words. One that somebody has
        started again since stays as it is.
        """
        run_id = UUID(outcome.run_id)
        try:
            run = await self._client.read_flow_run(run_id)
        except ObjectNotFound:
            return "it was deleted"
        if run.state and run.state.is_final() and not run.state.is_crashed():
            return f"it had ended already ({run.state.name})"
        if run.run_count > outcome.run_count:
            return "it was started again meanwhile"
        body = {"state": outcome.state, "force": True}
        await self._client.request("POST", "/flow_runs/{id}/set_state", path_params={"id": run_id}, json=body)
        return f"it has ended as {outcome.state.get('name')}"

    async def back_to_queue(self, run_id: UUID, name: str, message: str) -> str:
        """A run whose process has gone waits again; a member of a gang that has ended does not. One that is being
        cancelled is Cancelled now. A run that has ended of itself, or was cancelled, stays so.

        Returns what has become of it, in words.
        """
        try:
            run = await self._client.read_flow_run(run_id)
        except ObjectNotFound:
            return "it was deleted"
        if await completed_after_all(self._client, run):
            return "it had completed"
        state: Any = run.state
        if state is None or (state.is_final() and not state.is_crashed()):
            return f"it had ended already ({state.name if state else 'without a state'})"
        if state.is_cancelling():
            return await self._cancelled(run_id)
        if _waits(run):
            return f"it waits already ({state.name})"
        make: Any = _NEXT.get(name, Scheduled)
        await self._client.set_flow_run_state(run_id, make(name=name, message=message), force=True)
        return "it goes back to the queue" if make is Scheduled else f"it is {name}"

    async def cancelled(self, run_id: UUID) -> None:
        """For a run that was to be cancelled and has no process any more: Prefect's engine may have called that a
        crash. One that has ended in another way stays so.
        """
        try:
            run = await self._client.read_flow_run(run_id)
        except ObjectNotFound:
            return
        if run.state and (run.state.is_cancelling() or run.state.is_crashed() or not run.state.is_final()):
            await self._cancelled(run_id)

    async def _cancelled(self, run_id: UUID) -> str:
        state: Any = Cancelled(message="Flow run was cancelled successfully.")
        await self._client.set_flow_run_state(run_id, state, force=True)
        return "it was being cancelled, and is Cancelled now"

    async def cancelling(self, run_ids: Collection[UUID]) -> list[FlowRun]:
        """Those of these runs that are to be cancelled."""
        to_cancel = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.CANCELLING]))
        ids, found = list(run_ids), list[FlowRun]()
        for start in range(0, len(ids), _PAGE):
            wanted = FlowRunFilter(id=FlowRunFilterId(any_=ids[start : start + _PAGE]), state=to_cancel)
            found += await self._client.read_flow_runs(flow_run_filter=wanted, limit=_PAGE)
        return found

    async def waits_again(self, run: FlowRun, name: str, message: str) -> None:
        """A claim that is given back before anything was started: the run keeps its place, as `run` was before."""
        due = run.next_scheduled_start_time or run.expected_start_time
        state: Any = Scheduled(name=name, message=message, scheduled_time=due)
        current = (await self._client.read_flow_run(run.id)).state
        if current is not None and current.is_pending():
            await self._client.set_flow_run_state(run.id, state, force=True)

    async def crashed(self, run_id: UUID, message: str) -> None:
        """For a run that has ended without saying how. One that has, or that waits again, stays so."""
        try:
            run = await self._client.read_flow_run(run_id)
        except ObjectNotFound:
            return
        state: Any = run.state
        if state is not None and state.is_cancelling():
            await self._cancelled(run_id)
        elif state is None or not (state.is_final() or _waits(run)):
            crashed: Any = Crashed(message=message)
            await self._client.set_flow_run_state(run_id, crashed, force=True)

    async def _call(
        self, method: str, path: str, body: dict[str, Any] | None, missing_is_fine: bool = False
    ) -> httpx.Response | None:
        try:
            response = await self._client._client.request(method, path, json=body)  # the client has no method for these
        except httpx.HTTPStatusError as error:
            if missing_is_fine and error.response.status_code == httpx.codes.NOT_FOUND:
                return None
            raise
        with contextlib.suppress(KeyError, ValueError, TypeError):
            self._clock.heard(parsedate_to_datetime(response.headers["date"]).timestamp())
        return response


def _queue_limit(queue: str) -> str:
    return f"work queue {queue!r}"


def retries_in_process(run: FlowRun) -> bool:
    """It is scheduled, but not for a worker: its own process waits until it is due, and runs it again."""
    return run.state_name == RETRIES and run.empirical_policy.retry_type == "in_process"


def _waits(run: FlowRun) -> bool:
    """It waits for a worker."""
    return run.state is not None and run.state.is_scheduled() and not retries_in_process(run)


async def server_answers() -> None:
    """Returns when it does. Prefect's worker waits for a server too, but gives up if what is there in its place closes
    the connection, or answers 502, as a proxy does whose servers are not up yet.
    """
    if not PREFECT_API_URL.value():
        return  # Prefect says that a worker needs a server
    async with get_client() as client:

        async def ask() -> None:
            await client.read_work_pools(limit=1)

        await persistently(ask, "the Prefect server answers", refused_is_raised=True)


def refused(error: httpx.HTTPError) -> bool:
    """Whether the server does not want what it was asked for; else it is away, and can be asked again."""
    status = _status(error)
    return 400 <= status < 500 and status not in _AWAY


def _status(error: httpx.HTTPError) -> int:
    return error.response.status_code if isinstance(error, httpx.HTTPStatusError) else 0


async def persistently(write: Callable[[], Awaitable[_T]], what: str, refused_is_raised: bool = False) -> _T | None:
    """Writes to the server, however long that is away. What the server refuses is logged and given up, or raised."""
    logger, pause_s = get_logger("trimtab.worker"), _TRY_AGAIN_S
    while True:
        try:
            return await write()
        except ObjectNotFound as error:
            if refused_is_raised:
                raise
            logger.info("%s is not there any more (%s): nothing to do", what, error)
            return None
        except httpx.HTTPError as error:
            not_known = _status(error) in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN)
            if refused_is_raised and not_known:
                raise
            if refused(error):
                if refused_is_raised:
                    raise
                logger.error("The Prefect server refuses this (%s): %s", what, error)
                return None
            why = str(error) or type(error).__name__
            say = logger.debug if not_known else logger.warning  # credentials that are refused are said once, elsewhere
            say("Not yet (%s): %s. Tried again in %g s.", what, why, pause_s)
        await anyio.sleep(pause_s)
        pause_s = min(2 * pause_s, _TRY_AGAIN_AT_MOST_S)
