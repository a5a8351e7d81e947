"""The thin shell around `picking`: reads the fleet and the queue, claims devices, tells peers and people.

Facts live elsewhere: devices in the host's claims, runs and their states on the Prefect server. What is kept here is
only how to reach them, what has been said already, and which runs have been told to stop.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from functools import partial
from uuid import UUID

import anyio
import anyio.to_thread
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.logging import get_logger

from trimtab_work_pools.advertise import Advertisement, current
from trimtab_work_pools.devices_env import run_environment
from trimtab_work_pools.diagnosis import Cause
from trimtab_work_pools.ledger import Holding, Ledger
from trimtab_work_pools.lost import superseded
from trimtab_work_pools.resources import CapacityError, Node, Placement
from trimtab_work_pools.worker.admission import NotAdmitted, admit
from trimtab_work_pools.worker.affinity import bind, own_cpus
from trimtab_work_pools.worker.aftermath import Aftermath, largest_of
from trimtab_work_pools.worker.announce import announce
from trimtab_work_pools.worker.control_plane import ControlPlane, Waiting, persistently
from trimtab_work_pools.worker.gang import Gangs
from trimtab_work_pools.worker.host_claims import HostClaim, HostClaims, created_s
from trimtab_work_pools.worker.lives import Lives, Processes
from trimtab_work_pools.worker.lost_hosts import LostHosts
from trimtab_work_pools.worker.pace import ADVERTISED_S, RENEW_S
from trimtab_work_pools.worker.picking import Picked, Queued
from trimtab_work_pools.worker.planning import Planning
from trimtab_work_pools.worker.stopping import SUPERSEDED, Stopping
from trimtab_work_pools.worker.telling import Telling
from trimtab_work_pools.worker.this_node import ThisNode
from trimtab_work_pools.worker.usage import Usage

__all__ = ["Dispatcher"]

_LAST_ROUND_S = 5.0
_USAGE_S = 2.0
"""What runs use is looked at this often."""


class Dispatcher:
    """What one worker knows and does. All times are seconds since the epoch by the server's clock."""

    def __init__(
        self,
        worker: str,
        pool: str,
        client: PrefectClient,
        queues: set[str],
        lives: Lives | None = None,
    ) -> None:
        self._lives: Lives = lives or Processes()
        self.stopping = Stopping()
        self._worker, self._pool = worker, pool
        self._server = str(client.api_url)
        self._client = client
        self._control = ControlPlane(client, pool)
        self._telling = Telling(self._control, client, pool)
        self._planning = Planning(worker, pool, self._control, queues)
        self._aftermath, self._usage = Aftermath(client, self._control), Usage(self._lives.memory_mib)
        self._lost_hosts = LostHosts(client, pool, self._aftermath)
        self.gangs = Gangs(client, self._control, self.claim_of, self._stop_now)
        self._gangs: dict[str, tuple[str, ...]] = {}
        self._claims = HostClaims()
        self._this_node = ThisNode.from_environment(self.pids)
        self._node = self._this_node.read()
        self._largest = largest_of([self._node])
        self._said: set[str] = set()
        self._mine: dict[str, HostClaim] = {}
        self._lock = anyio.Lock()
        self._wake = anyio.Event()
        self._draining = self._gone = False
        self._left = anyio.Event()
        self._announced, self._published_s = "", 0.0
        self._logger = get_logger("trimtab.worker")

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

    async def take_over(self) -> None:
        """Adopts runs that an earlier worker on this host left running, and sends back those that have gone."""
        known = {claim.claim_id for claim in self._claims.all()}
        for claim in await self._lives.unknown(self._server, self._pool, known):
            self._claims.acquire(claim)
        for claim in self._claims.orphans(self._server, self._pool):
            run_id = claim.holding.run_id
            now = await self._lives.look(claim)
            if now is not None:
                adopted = self._claims.adopt(claim, self._worker, now)
                if adopted:
                    self._mine[run_id] = adopted
                    self._logger.info("Run %s of an earlier worker goes on as %s", run_id, self._lives.name(now))
            else:
                self._claims.release(run_id, claim.claim_id)
                self._logger.warning("Run %s was lost while no worker was here; it goes back", run_id)
                back = partial(
                    self._control.back_to_queue,
                    UUID(run_id),
                    "Rescheduled",
                    f"its process on {self._node.name} has gone",
                )
                await persistently(back, f"run {run_id} goes back")

    def adopted(self) -> list[HostClaim]:
        """Claims that this worker took over when it began."""
        return list(self._mine.values())

    async def withdraw(self) -> None:
        """No advertisement any more; peers plan without this node at once. A round that is being planned ends before,
        or it would advertise once more.
        """
        self._gone = True
        with anyio.move_on_after(_LAST_ROUND_S):
            async with self._lock:
                pass
        announce(await self._control.pool_resource(), self._pool, self._worker)
        await self._control.withdraw(self._worker)

    async def drain(self) -> None:
        """Nothing new is started here from now on; peers are told."""
        self._draining = True
        await self._advertise(await self._ledger(), force=True)

    # --- picking ---

    async def pick(self, prefetch_s: float, pool_limit: int | None, room: int | None) -> list[FlowRun]:
        """The runs to start here now, with their devices claimed; and the housekeeping of one round."""
        async with self._lock:
            if self._gone:
                return []
            ledger = await self._ledger()
            await self._advertise(ledger)
            alive = {claim.holding.run_id for claim in self._claims.all() if claim.running}
            running = [claim.holding for run_id, claim in self._mine.items() if run_id in alive]
            began_s = time.monotonic()
            peers = await self._planning.with_peers(self._advertisement(ledger))
            waiting, picked = await self._planning.plan(prefetch_s, ledger.node.name)
            self._give_up(running, peers, [one for one in waiting if one.asked_s >= began_s])
            fleet = self._planning.fleet
            self._largest = largest_of(one.node for one in fleet)
            queued = [one.queued for one in waiting if one.queued is not None]
            if pool_limit is not None and picked.starts:
                left = max(0, pool_limit - await self._control.active())
                room = left if room is None else min(room, left)
            self._gangs = dict(picked.gangs) | {
                run_id: nodes for run_id, nodes in self._gangs.items() if run_id in self._mine
            }
            runs = self._claim(ledger, picked, queued, room)
            found = [one.flow_run for run_id in runs for one in waiting if str(one.flow_run.id) == run_id]
            self._make_way(picked)
            self.stopping.press()
            if runs:
                self.wake()  # what was picked starts first; peers and people are told in the round after
            elif self._planning.leads:
                await self._lost_hosts.look(fleet, self._now_s())
                await self._telling.tell(waiting, picked.reasons(), fleet, lambda: self._wake.is_set())
            return found

    def _claim(self, ledger: Ledger, picked: Picked, queued: list[Queued], room: int | None) -> list[str]:
        """Claims the devices of what is to start; what another worker on this host has taken meanwhile is left."""
        by_id = {one.run_id: one for one in queued}
        runs: list[str] = []
        for run_id, placement in picked.starts if not self._draining else ():
            if room is not None and len(runs) >= room:
                break
            claim = self._claim_of(ledger.node, by_id[run_id], placement)
            try:
                ledger = ledger.reserve(claim.holding)
            except CapacityError as error:
                self._logger.info("Run %s does not fit any more: %s", run_id, error)
                continue
            if self._claims.acquire(claim):
                self._mine[run_id] = claim
                runs.append(run_id)
        return runs

    def _claim_of(self, node: Node, queued: Queued, placement: Placement) -> HostClaim:
        uuids = {gpu.index: gpu.uuid for gpu in node.gpus}
        now_s = self._now_s()
        claim_id = uuid.uuid4().hex
        demand = replace(queued.demand, nodes=1)  # of a gang, this is the part of one node
        holding = Holding(queued.run_id, demand, placement, queued.submitted_s, now_s, claim_id)
        devices = tuple((uuids[grant.index], grant.share_milli) for grant in placement.grants)
        pid = os.getpid()
        born_s = created_s(pid)
        made = HostClaim(
            claim_id, self._worker, pid, self._pool, holding, devices, time.time(), born_s, server=self._server
        )
        return replace(made, in_container=self._lives.in_containers)

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

    # --- what happens to a claim ---

    def environment(self, run_id: UUID, own: Mapping[str, str]) -> dict[str, str]:
        """What the run is told of its devices, over its `own` variables.

        Raises LookupError if it holds none (it was not picked here), DeviceError (a LookupError) if one has gone.
        """
        claim = self.claim(run_id)
        told = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "TRIMTAB_NODE": self._node.name, "TRIMTAB_CLAIM": claim.claim_id}
        return told | run_environment(claim.holding.placement, self._node, own=own)

    def claim(self, run_id: UUID) -> HostClaim:
        """By which the run is here. Raises LookupError if it is not."""
        claim = self._mine.get(str(run_id))
        if claim is None:
            raise LookupError(f"run {run_id} was not picked by this worker: it holds no devices of this host")
        return claim

    def own_cpus(self, run_id: UUID) -> tuple[int, ...]:
        """Ids of the CPUs that the run is to be bound to; none if it is not to be bound. Raises LookupError."""
        return own_cpus(self.claim(run_id).holding.placement, self._node, self._this_node.host, self.pids())

    def claim_of(self, run_id: str) -> str:
        """Id of the claim by which the run is here; "" if it is not."""
        return self._mine[run_id].claim_id if run_id in self._mine else ""

    def gpus(self, run_id: UUID) -> int:
        """How many the run holds here."""
        claim = self._mine.get(str(run_id))
        return len(claim.devices) if claim else 0

    def other_nodes(self, run_id: UUID) -> tuple[str, ...]:
        """Of a gang whose rank 0 is here."""
        return self._gangs.get(str(run_id), ())

    def started(self, run_id: UUID, pid: int, container: str = "") -> None:
        """The run has a process, which is bound to its CPUs, or a container, which is already. One that was told to
        stop before that is told again.
        """
        claim = self._mine.get(str(run_id))
        if claim is not None:
            if not container:
                bind(pid, self.own_cpus(run_id))
            self._usage.began(str(run_id))
        self._claims.started(str(run_id), pid, container)
        on_file = self._on_file(str(run_id))
        if on_file is not None:
            self.stopping.has_started(str(run_id), self._lives.sender(on_file))

    def lost(self, run_id: UUID) -> None:
        """Another worker has claimed the run, or it is not to run any more."""
        claim = self._mine.pop(str(run_id), None)
        if claim is not None:
            self._claims.release(str(run_id), claim.claim_id)
        self.wake()

    async def ended(self, run_id: UUID, exit_code: int | None = None, oom_killed: bool = False) -> None:
        """The process has gone: the devices are free. Only now may a run that was told to stop, or that something else
        than its own code has ended, wait again. `oom_killed`: the kernel has ended a process of its container.
        """
        told = self.stopping.ended(str(run_id))
        peak, oom_kills = self._usage.ended(str(run_id))
        claim = self._mine.get(str(run_id))
        alone = self._lives.in_containers
        oom_kills = int(oom_killed) if alone else oom_kills
        try:
            if told is not None and told[0] != SUPERSEDED:
                await persistently(lambda: self._control.back_to_queue(run_id, *told), f"run {run_id} goes back")
            elif told is None and claim is not None:
                lost, largest = await self._lost_devices(claim), self._largest
                if exit_code == 0:
                    self.lost(run_id)  # the server knows its end: its devices need not wait until that is read
                await persistently(
                    lambda: self._aftermath.ended(claim.holding, exit_code, peak, oom_kills, lost, largest, alone),
                    f"run {run_id} has ended",
                )
        finally:
            self.lost(run_id)
            self._left.set()
            self._left = anyio.Event()

    async def _lost_devices(self, claim: HostClaim) -> tuple[str, ...]:
        """Devices the run held that are not healthy now."""
        await self._ledger()
        well = {gpu.uuid for gpu in self._node.gpus if gpu.healthy}
        return tuple(f"{uuid} of {self._node.name}" for uuid, _ in claim.devices if uuid not in well)

    async def watch_usage(self) -> None:
        """Looks at what the runs use, for as long as it runs."""
        while True:
            await anyio.sleep(_USAGE_S)
            mine = [claim for claim in self._claims.all() if claim.holding.run_id in self._mine]
            if mine:
                await anyio.to_thread.run_sync(self._usage.sample, mine, self._this_node.gpu_used_mib())

    async def gone(self) -> None:
        """Returns when the next run has ended."""
        await self._left.wait()

    async def await_adopted(self, claim: HostClaim) -> None:
        """Waits for a run that another worker started; what it was doing decides what becomes of it."""
        run_id = UUID(claim.holding.run_id)
        end = await self._lives.end(claim)
        if not self.stopping.told(str(run_id)):
            silent = "its process ended without a word"
            if end.exit_code is None:
                await persistently(
                    lambda: self._control.back_to_queue(run_id, "Rescheduled", silent), f"run {run_id} goes back"
                )
            elif end.exit_code:
                why = f"its container ended with exit code {end.exit_code}"
                await persistently(lambda: self._control.crashed(run_id, why), f"run {run_id} has crashed")
        await self.ended(run_id, end.exit_code, end.oom_killed)

    def running(self) -> list[str]:
        """Ids of the runs that hold something of this host through this worker."""
        return list(self._mine)

    def stop(self, run_id: str, name: str, why: str, grace_s: float) -> None:
        """Tells a run to stop: a signal, time to write its state, and then the end."""
        if not self.stopping.told(run_id):
            claim = self._on_file(run_id)
            started = claim is not None and (claim.pid or claim.container)
            send = self._lives.sender(claim) if claim is not None and started else None
            self.stopping.tell(run_id, send, name, why, grace_s)

    def _stop_now(self, run_id: str, name: str, why: str) -> None:
        self.stop(run_id, name, why, self._planning.policy.checkpoint_s)

    def pids(self) -> set[int]:
        """Of the processes of all runs on this host, through whichever worker; what they have started is not named."""
        return {claim.pid for claim in self._claims.all() if claim.pid and claim.running}

    def preemptible(self, run_id: str) -> bool:
        return run_id in self._mine and self._mine[run_id].holding.demand.preemptible

    def _on_file(self, run_id: str) -> HostClaim | None:
        return next((claim for claim in self._claims.all() if claim.holding.run_id == run_id), None)

    # --- peers and people ---

    def wake(self) -> None:
        """Plan again soon."""
        self._wake.set()

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
        advertisement = self._advertisement(ledger)
        said = repr((advertisement.node, advertisement.holdings, advertisement.draining))
        if force or said != self._announced:
            self._announced = said
            announce(await self._control.pool_resource(), self._pool, self._worker, advertisement.to_text())
        if force or self._now_s() - self._published_s >= RENEW_S:
            await self._control.publish(advertisement)
            self._published_s = self._now_s()  # only now: one that was not written is tried again in the next round

    def _advertisement(self, ledger: Ledger) -> Advertisement:
        expires_s = self._now_s() + ADVERTISED_S
        return Advertisement(self._worker, ledger.node, ledger.holdings, expires_s, self._draining, self._claims.host)

    # --- this host ---

    async def _ledger(self) -> Ledger:
        """This node as it is now, and all that holds a part of it, through whichever worker of this host."""
        self._node = await anyio.to_thread.run_sync(self._this_node.read)
        for problem in set(self._this_node.problems) - self._said:
            self._logger.warning("%s", problem)
        self._said = set(self._this_node.problems)
        claims = [claim for claim in self._claims.all() if claim.counts(time.time())]
        ledger = Ledger(self._node, tuple(claim.holding for claim in claims))
        for run_id, until_s in self.stopping.times().items():
            ledger = ledger.stopping(run_id, until_s)
        return ledger

    def close(self) -> None:
        """Lets the driver of the GPUs go, and the name of the worker."""
        self._this_node.close()
        self._claims.leave_name()

    def _now_s(self) -> float:
        return self._control.now_s()
