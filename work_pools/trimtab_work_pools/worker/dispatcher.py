"""The thin shell around `picking`: reads the fleet and the queue, claims devices, tells peers and people.

Facts live elsewhere: devices in the host's claims, runs and their states on the Prefect server. What is kept here is
only how to reach them, and what has been said already.
"""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import AsyncIterator, Collection
from dataclasses import replace
from uuid import UUID

import anyio
import anyio.to_thread
import httpx
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun

from trimtab_blocks.settings import read as read_settings
from trimtab_work_pools.advertise import Advertisement, current
from trimtab_work_pools.diagnosis import Cause
from trimtab_work_pools.host.clock import SYSTEM
from trimtab_work_pools.host.directory import HostDirError
from trimtab_work_pools.host.process import find
from trimtab_work_pools.ledger import Holding, Ledger
from trimtab_work_pools.lost import superseded
from trimtab_work_pools.resources import CapacityError, Node, Placement
from trimtab_work_pools.rules.fence import renew_after_s
from trimtab_work_pools.rules.waiting_rules import paused_pool
from trimtab_work_pools.worker.admission import NotAdmitted, admit
from trimtab_work_pools.worker.aftermath import largest_of
from trimtab_work_pools.worker.announce import announce
from trimtab_work_pools.worker.claiming import Claiming
from trimtab_work_pools.worker.control_plane import Waiting, persistently, refused
from trimtab_work_pools.worker.fencing import Fencing
from trimtab_work_pools.worker.gang import Gangs
from trimtab_work_pools.worker.held_runs import HeldRuns
from trimtab_work_pools.worker.host_claims import HostClaim
from trimtab_work_pools.worker.lives import Lives
from trimtab_work_pools.worker.lost_hosts import LostHosts
from trimtab_work_pools.worker.pace import ADVERTISED_S, RENEW_S
from trimtab_work_pools.worker.picking import AWAITING, Picked, Queued
from trimtab_work_pools.worker.planning import Planning
from trimtab_work_pools.worker.stopping import SUPERSEDED
from trimtab_work_pools.worker.telling import Telling

__all__ = ["Dispatcher"]

_LAST_ROUND_S = 5.0


class Dispatcher(HeldRuns):
    """What one worker knows and does. All times are seconds since the epoch by the server's clock."""

    def __init__(
        self,
        worker: str,
        pool: str,
        client: PrefectClient,
        queues: set[str],
        lives: Lives | None = None,
    ) -> None:
        super().__init__(worker, pool, client, lives)
        self._telling = Telling(self._control, client, pool)
        self._planning = Planning(worker, pool, self._control, queues)
        self._lost_hosts = LostHosts(client, pool, self._aftermath)
        self.gangs = Gangs(client, self._control, self.claim_of, self._stop_now, self.stopping.told, self.lost)
        self.claiming = Claiming(client, self._control, self.lost)
        self.fencing = Fencing(
            client,
            worker,
            pool,
            self._server,
            self._claims.directory,
            lambda: [claim for claim in self._claims.all() if claim.holding.run_id in self._mine],
            self._lives.sender,
            lambda run_id, why: self.stop(run_id, SUPERSEDED, why, 0.0),
            self.renew,
            self._now_s,
        )
        self._renew_s = renew_after_s(read_settings().host_lost_seconds, RENEW_S)
        self._gangs: dict[str, tuple[str, ...]] = {}
        self._lock = anyio.Lock()
        self._draining = self._gone = False
        self._advertised: Advertisement | None = None
        self._closed = ""
        self._announced, self._published_s, self._refused = "", 0.0, ""

    # --- starting and stopping ---

    async def join(self, worker_type: str) -> None:
        """Returns when the server has answered, however long that is away, as Prefect's own worker waits for it.

        Raises NotAdmitted if this worker cannot join the pool.
        """
        if not self._claims.take_name(self._worker, self._pool, self._server):
            raise NotAdmitted(
                f"a worker named {self._worker!r} of this pool runs on this host already: give this one another --name"
            )
        own = self._advertisement(await self._ledger())
        await persistently(
            lambda: admit(self._client, self._control, self._pool, worker_type, own),
            f"worker {self._worker} joins pool {self._pool}",
            refused_is_raised=True,
        )

    async def withdraw(self) -> None:
        """No advertisement any more; peers plan without this node at once. A round that is being planned ends before,
        or it would advertise once more.
        """
        self._gone = True
        with anyio.move_on_after(_LAST_ROUND_S):
            async with self._lock:
                pass
        announce(await self._control.pool_resource(), self._pool, self._worker)
        if self._advertised is None:
            await self._control.withdraw(self._worker)
        else:  # what this node was like is remembered: nobody is to ask for less because it is away
            await self._control.leave(replace(self._advertised, expires_s=self._now_s() + ADVERTISED_S))

    def now_s(self) -> float:
        """Seconds since the epoch by the server's clock."""
        return self._control.now_s()

    async def drain(self) -> None:
        """Nothing new is started here from now on; peers are told."""
        self._draining = True
        await self._advertise(await self._ledger(), force=True)

    async def take_over(self) -> None:
        """Peers hear at once of what is taken over: they may be counting it as lost."""
        earlier_s = self.fencing.earlier_s()
        await super().take_over()
        self.fencing.take_over(earlier_s)
        if self._mine:
            with contextlib.suppress(Exception):  # whatever it is, it is tried again
                await self.renew()

    def close(self) -> None:
        self.fencing.close()
        super().close()

    async def renew(self) -> None:
        """Tells the server that this worker is there, and what it holds."""
        async with self._lock:
            if not self._gone:
                await self._advertise(await self._ledger())

    # --- picking ---

    async def pick(
        self,
        prefetch_s: float,
        pool_limited: bool,
        room: int | None,
        busy: Collection[str] = (),
        paused: bool = False,
    ) -> list[FlowRun]:
        """The runs to start here now, with their devices claimed; and the housekeeping of one round.

        `pool_limited`: the pool has a concurrency limit; `room`: how many more this worker may start by its own limit;
        `busy`: ids of runs that are still being submitted, or given back. While its pool is `paused` a worker starts
        and stops nothing, but is there.
        """
        async with self._lock:
            if self._gone:
                return []
            await self._look_at_lives()
            ledger = await self._ledger()
            await self._advertise(ledger)
            alive = {claim.holding.run_id for claim in self._all() if claim.running}
            running = [claim.holding for run_id, claim in self._mine.items() if run_id in alive]
            began_s = time.monotonic()
            peers = await self._planning.with_peers(self._advertisement(ledger))
            if paused:
                waiting = await self._planning.waiting(prefetch_s)
                self._give_up(running, peers, [one for one in waiting if one.asked_s >= began_s])
                self.stopping.press()
                await self._tell_paused(waiting)
                return []
            waiting, picked = await self._planning.plan(prefetch_s, ledger.node.name, pool_limited)
            self._give_up(running, peers, [one for one in waiting if one.asked_s >= began_s])
            fleet = self._planning.fleet
            self._largest = largest_of(one.node for one in fleet)
            queued = [one.queued for one in waiting if one.queued is not None]
            self._gangs = dict(picked.gangs) | {
                run_id: nodes for run_id, nodes in self._gangs.items() if run_id in self._mine
            }
            runs = self._claim(ledger, picked, queued, room, busy)
            found = [one.flow_run for run_id in runs for one in waiting if str(one.flow_run.id) == run_id]
            self._make_way(picked)
            if runs:
                self.wake()  # what was picked starts first; peers and people are told in the round after
            elif self._planning.leads:
                await self._lost_hosts.look(fleet, self._planning.silent, self._now_s())
                await self._telling.tell(
                    waiting, picked.reasons(await self._planning.away()), fleet, lambda: self._wake.is_set()
                )
            return found

    async def _tell_paused(self, waiting: list[Waiting]) -> None:
        if not self._planning.leads:
            return
        fleet = self._planning.fleet
        await self._lost_hosts.look(fleet, self._planning.silent, self._now_s())
        reasons = {str(one.flow_run.id): (AWAITING, paused_pool(self._pool)) for one in waiting}
        await self._telling.tell(waiting, reasons, fleet, lambda: self._wake.is_set())

    async def _look_at_lives(self) -> None:
        """While what runs live in (an engine) does not answer nothing is started here; what runs goes on."""
        before, self._closed = self._closed, await self._lives.problem()
        if self._closed and not before:
            self._logger.warning("Nothing is started here for now: %s", self._closed)
        elif before and not self._closed:
            self._logger.info("Runs are started here again")

    def _claim(
        self, ledger: Ledger, picked: Picked, queued: list[Queued], room: int | None, busy: Collection[str]
    ) -> list[str]:
        """Claims the devices of what is to start; what another worker on this host has taken meanwhile is left."""
        by_id = {one.run_id: one for one in queued}
        runs: list[str] = []
        for run_id, placement in picked.starts if not (self._draining or self._withdrawn or self._closed) else ():
            if room is not None and len(runs) >= room:
                break
            if run_id in busy:
                continue
            claim = self._claim_of(ledger.node, by_id[run_id], placement)
            try:
                ledger = ledger.reserve(claim.holding)
            except CapacityError as error:
                self._logger.info("Run %s does not fit any more: %s", run_id, error)
                continue
            try:
                acquired = self._claims.acquire(claim)
            except HostDirError as error:
                self._withdraw(str(error))
                break
            if acquired:
                self._mine[run_id] = claim
                self._planning.limits.picked(run_id, by_id[run_id].limits)
                runs.append(run_id)
        return runs

    def _claim_of(self, node: Node, queued: Queued, placement: Placement) -> HostClaim:
        uuids = {gpu.index: gpu.uuid for gpu in node.gpus}
        now_s = self._now_s()
        claim_id = uuid.uuid4().hex
        demand = replace(queued.demand, nodes=1)  # of a gang, this is the part of one node
        holding = Holding(queued.run_id, demand, placement, queued.submitted_s, now_s, claim_id)
        devices = tuple((uuids[grant.index], grant.share_milli) for grant in placement.grants)
        own = find(os.getpid())
        made = HostClaim(claim_id, self._worker, own.pid, own.ticks, self._pool, holding, devices)
        contained = self._lives.in_containers
        return replace(made, boot_id=self._clock.boot_id, server=self._server, in_container=contained)

    def _give_up(self, running: list[Holding], peers: list[Advertisement], waiting: list[Waiting]) -> None:
        """Ends runs at once that were given to others while this worker was away. `running` are as they were before
        `waiting` was read: what has started since is no longer as the queue says.
        """
        sent_back = {str(one.flow_run.id) for one in waiting if one.flow_run.state_name == Cause.LOST_HOST}
        for run_id in superseded(running, current(peers, self._now_s()), sent_back):
            if not self.stopping.told(run_id):
                self._logger.warning("Run %s was given to another host while this was away; it is ended here", run_id)
                self.stop(run_id, SUPERSEDED, "given to another host", 0.0)

    def _make_way(self, picked: Picked) -> None:
        for run_id, for_run_id in picked.stops:
            claim = self._mine.get(run_id)
            if claim is not None and not self.stopping.told(run_id):
                self._logger.info("Run %s is told to stop: run %s needs its place", run_id, for_run_id)
                self.stop(run_id, "Preempted", f"made way for run {for_run_id}", self._planning.policy.checkpoint_s)

    def lost(self, run_id: UUID) -> None:
        self._planning.limits.settled(str(run_id))
        super().lost(run_id)

    async def one_too_many(self, run: FlowRun) -> bool:
        """Whether a limit does not let a run that was claimed just now run; then it waits again."""
        self._planning.limits.settled(str(run.id))
        limit = await self._planning.limits.exceeded_by(run)
        if limit is None:
            return False
        why = f"the limit of {limit.name} ({limit.most}) was reached while it was claimed"
        await persistently(lambda: self._control.waits_again(run, AWAITING, why), f"run {run.id} waits again")
        return True

    def mark(self, run_id: UUID) -> str:
        """Of the claim of a run, by which it is told from that of another worker."""
        return f"Claimed by worker {self._worker} for node {self._node.name} ({self.claim_of(str(run_id))})"

    def other_nodes(self, run_id: UUID) -> tuple[str, ...]:
        """Of a gang whose rank 0 is here."""
        return self._gangs.get(str(run_id), ())

    def _stop_now(self, run_id: str, name: str, why: str) -> None:
        self.stop(run_id, name, why, self._planning.policy.checkpoint_s)

    # --- peers and people ---

    async def wakes(self) -> AsyncIterator[None]:
        """Each time that something has happened, or a run becomes due; several things at once are one."""
        while True:
            with anyio.move_on_after(self._planning.due_in_s()):
                await self._wake.wait()
            self._wake = anyio.Event()
            yield

    async def listen(self) -> None:
        """Wakes the planner on news of runs and of nodes, for as long as it runs."""
        async for _ in self._planning.news():
            self.wake()

    async def _advertise(self, ledger: Ledger, force: bool = False) -> None:
        """Announces what has changed at once. Writes it down three times in its life, not at every change: a write
        beside those of the run that starts would make SQLite refuse one of them."""
        advertisement = self._advertised = self._advertisement(ledger)
        said = repr((advertisement.node, advertisement.holdings, advertisement.draining, advertisement.closed))
        if force or said != self._announced:
            announce(await self._control.pool_resource(), self._pool, self._worker, advertisement.to_text())
            self._announced = said
        if force or self._now_s() - self._published_s >= self._renew_s:
            sent_s = SYSTEM.boot_s()
            try:
                await self._control.publish(advertisement)
            except httpx.HTTPStatusError as error:
                if not refused(error):
                    raise
                why = f"{error}: {error.response.text[:500]}"
                if why != self._refused:  # peers hear of this node by its announcements
                    self._logger.error("The Prefect server refuses what this worker advertises: %s", why)
                self._refused = why
                return
            self._refused = ""
            self.fencing.heard(sent_s)
            self._published_s = self._now_s()  # only now: one that was not written is tried again in the next round

    def _advertisement(self, ledger: Ledger) -> Advertisement:
        expires_s = self._now_s() + ADVERTISED_S
        closed = "" if self._draining else self._withdrawn or self._closed
        draining = self._draining or bool(closed)
        return Advertisement(self._worker, ledger.node, ledger.holdings, expires_s, draining, self._claims.host, closed)
