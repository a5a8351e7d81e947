"""The runs that one worker holds: what they are told, how they are stopped, and what is done when they have ended.

Which run holds what is in the host's claims; kept here is only which of these came through this worker.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from uuid import UUID

import anyio
import anyio.to_thread
import httpx
from prefect.client.orchestration import PrefectClient
from prefect.logging import get_logger

from trimtab_work_pools.devices_env import VISIBLE, port_environment, run_environment
from trimtab_work_pools.host.clock import SYSTEM, Clock
from trimtab_work_pools.host.directory import HostDirError
from trimtab_work_pools.host.outbox import Outbox
from trimtab_work_pools.host.process import find
from trimtab_work_pools.host.process_tree import ProcessTree
from trimtab_work_pools.host.run_groups import RunGroup
from trimtab_work_pools.ledger import Ledger
from trimtab_work_pools.worker.affinity import bind, own_cpus
from trimtab_work_pools.worker.aftermath import Aftermath, largest_of
from trimtab_work_pools.worker.cancelling import CANCEL_GRACE_S, CANCELLED, watch_cancelling
from trimtab_work_pools.worker.control_plane import ControlPlane, persistently
from trimtab_work_pools.worker.host_claims import HostClaim, HostClaims, tree_of
from trimtab_work_pools.worker.lives import Lives, Processes
from trimtab_work_pools.worker.stopping import SUPERSEDED, Stopping
from trimtab_work_pools.worker.this_node import ThisNode
from trimtab_work_pools.worker.usage import Usage

__all__ = ["HeldRuns"]

_OF_ONE_RUN = frozenset({VISIBLE, "MASTER_ADDR", "MASTER_PORT", "PET_MASTER_PORT"})
_USAGE_S = 2.0
"""What runs use is looked at this often, and whether the time of those that are to stop is over."""
_NEGLECTED_S, _LOOKS = 60.0, 3
"""A run that is to be cancelled for so long is cancelled by us."""
_LEFT_BEHIND_S = 5.0
"""Between SIGTERM and SIGKILL for what a run leaves behind when its first process has gone."""


class HeldRuns:
    """Of one worker in one pool of one server. All times are seconds since the epoch by the server's clock."""

    def __init__(
        self, worker: str, pool: str, client: PrefectClient, lives: Lives | None = None, clock: Clock = SYSTEM
    ) -> None:
        self._clock = clock
        self._lives: Lives = lives or Processes(clock)
        self.stopping = Stopping(clock)
        self._worker, self._pool = worker, pool
        self._server = str(client.api_url)
        self._client = client
        self._control = ControlPlane(client, pool, clock)
        self._aftermath, self._usage = Aftermath(client, self._control), Usage(self._lives.memory_mib)
        self._claims = HostClaims()
        self._mine: dict[str, HostClaim] = {}
        self._others: list[HostClaim] = []
        self._withdrawn = ""
        self._outbox = Outbox(self._claims.directory)
        self._this_node = ThisNode.from_environment(self.pids)
        self._node = self._this_node.read()
        self._largest = largest_of([self._node])
        self._said: set[str] = set()
        self._wake = anyio.Event()
        self._left = anyio.Event()
        self._logger = get_logger("trimtab.worker")

    async def take_over(self) -> None:
        """Adopts runs that an earlier worker on this host left running, and sends back those that have gone."""
        known = {claim.claim_id for claim in self._claims.all()}
        for claim in await self._lives.unknown(self._server, self._pool, known):
            self._claims.acquire(claim)
        for outcome in self._outbox.all(self._server):
            await self._deliver(outcome.run_id)
        for claim in self._claims.orphans(self._server, self._pool):
            run_id = claim.holding.run_id
            now = await self._lives.look(claim)
            if now is not None:
                adopted = self._adopt(claim, now)
                if adopted:
                    self._mine[run_id] = adopted
                    self._logger.info("Run %s of an earlier worker goes on as %s", run_id, self._lives.name(now))
            else:
                await self._clear(claim)
                await self._deliver(run_id)
                with contextlib.suppress(HostDirError):  # it counts no more: nothing of it is there
                    self._claims.release(run_id, claim.claim_id)
                gone = f"its process on {self._node.name} has gone"
                back = partial(self._control.back_to_queue, UUID(run_id), "Rescheduled", gone)
                became = await persistently(back, f"run {run_id}, whose process has gone")
                self._logger.info("Run %s ended while no worker was here: %s", run_id, became)

    def _adopt(self, claim: HostClaim, now: HostClaim) -> HostClaim | None:
        try:
            return self._claims.adopt(claim, self._worker, now)
        except HostDirError as error:
            self._withdraw(str(error))
            own = find(os.getpid())
            return replace(now, worker=self._worker, worker_pid=own.pid, worker_ticks=own.ticks)

    def adopted(self) -> list[HostClaim]:
        """Claims that this worker took over when it began."""
        return list(self._mine.values())

    async def await_adopted(self, claim: HostClaim) -> None:
        """Waits for a run that another worker started; what it was doing decides what becomes of it."""
        run_id = UUID(claim.holding.run_id)
        if not self._lives.in_containers:  # in a container Prefect's own runner does that
            async with watch_cancelling(self._control, run_id, partial(self._cancel, run_id)):
                end = await self._lives.end(claim)
        else:
            end = await self._lives.end(claim)
        await self._clear(claim)  # before anything is said of the run: what it has left may still speak for it
        if not self.stopping.told(str(run_id)) and self._outbox.of(self._server, str(run_id)) is None:
            silent = "its process ended without a word"
            if end.exit_code is None:
                await persistently(
                    lambda: self._control.back_to_queue(run_id, "Rescheduled", silent), f"run {run_id} goes back"
                )
            elif end.exit_code:
                why = f"its container ended with exit code {end.exit_code}"
                await persistently(lambda: self._control.crashed(run_id, why), f"run {run_id} has crashed")
        await self.ended(run_id, end.exit_code, end.oom_killed)

    def environment(self, run_id: UUID, own: Mapping[str, str], device_ids: str) -> dict[str, str]:
        """What the run is told of its devices, by `device_ids`, over its `own` variables, and the port where its
        processes meet.

        Raises LookupError if it holds none (it was not picked here), DeviceError (a LookupError) if one has gone or its
        own variables name others.
        """
        claim = self.claim(run_id)
        told = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "TRIMTAB_NODE": self._node.name, "TRIMTAB_CLAIM": claim.claim_id}
        alone = self._lives.in_containers
        if not alone:
            told["TRIMTAB_HOST_DIR"] = str(self._claims.directory.absolute())
        if not alone:  # Prefect mixes the worker's own environment in: nobody has set that for this run
            own = {
                name: value for name, value in own.items() if name not in _OF_ONE_RUN or os.environ.get(name) != value
            }
        told |= run_environment(claim.holding.placement, self._node, own=own, device_ids=device_ids, in_container=alone)
        try:
            self._mine[str(run_id)] = claim = self._claims.take_port(str(run_id))
        except HostDirError as error:  # filled since the claim was written: the run starts without a port
            self._withdraw(str(error))
            return told
        return told | port_environment(claim.port, own)

    def claim(self, run_id: UUID) -> HostClaim:
        """By which the run is here. Raises LookupError if it is not."""
        claim = self._mine.get(str(run_id))
        if claim is None:
            raise LookupError(f"run {run_id} was not picked by this worker: it holds no devices of this host")
        return claim

    def claim_of(self, run_id: str) -> str:
        """Id of the claim by which the run is here; "" if it is not."""
        return self._mine[run_id].claim_id if run_id in self._mine else ""

    def own_cpus(self, run_id: UUID) -> tuple[int, ...]:
        """Ids of the CPUs that the run is to be bound to; none if it is not to be bound. Raises LookupError."""
        return own_cpus(self.claim(run_id).holding.placement, self._node, self._this_node.host, self.pids())

    def gpus(self, run_id: UUID) -> int:
        """How many the run holds here."""
        claim = self._mine.get(str(run_id))
        return len(claim.devices) if claim else 0

    def running(self) -> list[str]:
        """Ids of the runs that hold something of this host through this worker."""
        return list(self._mine)

    def preemptible(self, run_id: str) -> bool:
        return run_id in self._mine and self._mine[run_id].holding.demand.preemptible

    def pids(self) -> set[int]:
        """Of the processes of all runs on this host, through whichever worker; what they have started is not named."""
        claims = [claim for claim in self._all() if claim.running]
        grouped = (RunGroup(Path(claim.group)).pids() for claim in claims if claim.group)
        return {claim.pid for claim in claims if claim.pid}.union(*grouped)

    def process(self, run_id: UUID) -> ProcessTree:
        """For the processes of the run, none of which is there yet. Raises LookupError."""
        claim = self.claim(run_id)
        group = RunGroup.make(claim.claim_id)
        if group is not None:
            claim = self._mine[str(run_id)] = replace(claim, group=str(group.folder))
        return self._lives.tree(claim) if isinstance(self._lives, Processes) else tree_of(claim)

    def started(self, run_id: UUID, pid: int, container: str = "") -> None:
        """The run has a process, which is bound to its CPUs, or a container, which is already. One that was told to
        stop before that is told again.
        """
        claim = self._mine.get(str(run_id))
        if claim is not None:
            if not container:
                bind(pid, self.own_cpus(run_id))
            self._usage.began(str(run_id))
            claim = replace(claim, pid=pid, pid_ticks=find(pid).ticks, container=container)
            self._mine[str(run_id)] = claim
            with contextlib.suppress(HostDirError):  # it is written down when that is possible again
                self._claims.started(claim)
            self.stopping.has_started(str(run_id), self._lives.sender(claim))

    def lost(self, run_id: UUID) -> None:
        """Another worker has claimed the run, or it is not to run any more."""
        claim = self._mine.pop(str(run_id), None)
        self.stopping.ended(str(run_id))  # what was told to a run that never began is not for its next start
        if claim is not None:
            with contextlib.suppress(HostDirError):  # it is taken away when that is possible again
                self._claims.release(str(run_id), claim.claim_id)
            if claim.group:
                RunGroup(Path(claim.group)).remove()
        self.wake()

    async def ended(self, run_id: UUID, exit_code: int | None = None, oom_killed: bool = False) -> None:
        """The first process has gone: the rest is ended, then the devices are free. Only now may a run that was told to
        stop, or that something else than its own code has ended, wait again. `oom_killed`: the kernel has ended a
        process of its container.
        """
        claim = self._mine.get(str(run_id))
        if claim is not None:
            await self._clear(claim)
        told = self.stopping.ended(str(run_id))
        peak, oom_kills = self._usage.ended(str(run_id))
        alone = self._lives.in_containers
        oom_kills = int(oom_killed) if alone else oom_kills
        try:
            if await self._deliver(str(run_id)):
                return
            if told is not None and told[0] == CANCELLED:
                await persistently(lambda: self._control.cancelled(run_id), f"run {run_id} is cancelled")
            elif told is not None and told[0] != SUPERSEDED:
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

    async def _deliver(self, run_id: str) -> bool:
        """Whether the run's own process has left word how it ended, for it could not tell the server. Returns when the
        server knows, however long that takes.
        """
        outcome = self._outbox.of(self._server, run_id)
        if outcome is None:
            return False
        became = await persistently(lambda: self._control.deliver(outcome), f"the end of run {run_id}")
        self._outbox.delivered(run_id)
        self._logger.info("The end of run %s could not be told when it came: %s", run_id, became)
        return True

    async def gone(self) -> None:
        """Returns when the next run has ended."""
        await self._left.wait()

    def stop(self, run_id: str, name: str, why: str, grace_s: float) -> None:
        """Tells a run to stop: a signal, time to write its state, and then the end."""
        if not self.stopping.told(run_id):
            claim = self._mine.get(run_id)
            started = claim is not None and (claim.pid or claim.container)
            send = self._lives.sender(claim) if claim is not None and started else None
            self.stopping.tell(run_id, send, name, why, grace_s)

    def _cancel(self, run_id: UUID) -> None:
        self.stop(str(run_id), CANCELLED, "it is to be cancelled", CANCEL_GRACE_S)

    async def watch_usage(self) -> None:
        """Looks at what the runs use, and ends those whose time to stop is over, for as long as it runs."""
        while True:
            await anyio.sleep(_USAGE_S)
            self.stopping.press()
            mine = list(self._mine.values())
            if mine:
                await anyio.to_thread.run_sync(self._lives.glance, mine, abandon_on_cancel=True)
                used_mib = self._this_node.gpu_used_mib()
                await anyio.to_thread.run_sync(self._usage.sample, mine, used_mib, abandon_on_cancel=True)

    async def watch_neglected(self) -> None:
        """Cancels, for as long as it runs, what is to be cancelled for so long that Prefect's own must have missed it:
        its watch ends with its connection to the server.
        """
        seen: dict[str, int] = {}
        while True:
            await anyio.sleep(_NEGLECTED_S / _LOOKS)
            ids = [UUID(run_id) for run_id in self._mine if not self.stopping.told(run_id)]
            with contextlib.suppress(httpx.HTTPError):
                found = [str(run.id) for run in await self._control.cancelling(ids)] if ids else []
                seen = {run_id: seen.get(run_id, 0) + 1 for run_id in found}
            for run_id in [run_id for run_id, times in seen.items() if times > _LOOKS]:
                self._cancel(UUID(run_id))

    def wake(self) -> None:
        """Plan again soon."""
        self._wake.set()

    def close(self) -> None:
        """Lets the driver of the GPUs go, and the name of the worker."""
        self._this_node.close()
        self._claims.leave_name()

    async def _lost_devices(self, claim: HostClaim) -> tuple[str, ...]:
        """Devices the run held that are not healthy now."""
        await self._ledger()
        well = {gpu.uuid for gpu in self._node.gpus if gpu.healthy}
        return tuple(f"{uuid} of {self._node.name}" for uuid, _ in claim.devices if uuid not in well)

    def _all(self) -> list[HostClaim]:
        """All claims on this host; where they cannot be read, as they were read last."""
        with contextlib.suppress(HostDirError):
            self._others = self._claims.all()
        mine = {claim.claim_id: claim for claim in list(self._mine.values())}
        return [*mine.values(), *(one for one in self._others if one.claim_id not in mine)]

    def _settle(self) -> None:
        """What is on file is what is held; while that cannot be, this node takes nothing new, and its runs go on."""
        try:
            self._claims.settle(self._worker, self._pool, self._server, list(self._mine.values()))
        except HostDirError as error:
            self._withdraw(str(error))
        else:
            self._withdraw("")

    def _withdraw(self, why: str) -> None:
        if why and why != self._withdrawn:
            self._logger.error("This node takes no new runs until that is put right: %s. What runs goes on.", why)
        elif self._withdrawn and not why:
            self._logger.info("This node takes runs again; it had taken none because of this: %s", self._withdrawn)
        self._withdrawn = why

    async def _clear(self, claim: HostClaim) -> None:
        """Returns when nothing of the run is left on this host: until then its devices stay its own."""
        run_id = claim.holding.run_id

        def stuck(what: str) -> None:
            self._logger.error(
                "Run %s has ended, but not even SIGKILL ends %s; its devices stay held until that has gone",
                run_id,
                what,
            )

        await self._lives.clear(claim, _LEFT_BEHIND_S, stuck)

    async def _ledger(self) -> Ledger:
        """This node as it is now, and all that holds a part of it, through whichever worker of this host."""
        self._node = await anyio.to_thread.run_sync(self._this_node.read)
        for problem in set(self._this_node.problems) - self._said:
            self._logger.warning("%s", problem)
        self._said = set(self._this_node.problems)
        self._settle()
        claims = [claim for claim in await anyio.to_thread.run_sync(self._all) if claim.counts]
        ledger = Ledger(self._node, tuple(claim.held_on(self._node) for claim in claims))
        for run_id, left_s in self.stopping.left_s().items():
            ledger = ledger.stopping(run_id, self._now_s() + left_s)
        return ledger

    def _now_s(self) -> float:
        return self._control.now_s()
