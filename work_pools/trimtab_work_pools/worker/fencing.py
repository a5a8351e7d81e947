"""Has the runs of a worker that the server does not hear of stand still, and go on, as `rules.fence` says.

Also renews the worker's advertisement by itself: while it drains, nobody else does. That a run stands still is written
beside the host's claims, so that a worker that is started meanwhile knows it; and when the server has last heard of
this worker, so that the guard of the host knows it if this worker dies (`host.guard`).
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from uuid import UUID

import anyio
import anyio.to_thread
import httpx
from prefect.client.orchestration import PrefectClient
from prefect.exceptions import ObjectNotFound
from prefect.logging import get_logger

from trimtab_blocks.settings import read as read_settings
from trimtab_work_pools.host.clock import SYSTEM, Clock
from trimtab_work_pools.host.fence_files import Frozen, Heard, heard
from trimtab_work_pools.host.guard import is_guarded, start_guard
from trimtab_work_pools.host.process import find
from trimtab_work_pools.rules.fence import Step, fence, fence_after_s, renew_after_s
from trimtab_work_pools.server.access import server_access
from trimtab_work_pools.worker.control_plane import retries_in_process
from trimtab_work_pools.worker.host_claims import HostClaim
from trimtab_work_pools.worker.pace import RENEW_S
from trimtab_work_pools.worker.stopping import Send

__all__ = ["Fencing"]

_LOOK_S, _AGAIN_S = 1.0, 5.0
_GUARD_S = 30.0
"""How often it is seen to that the host has a guard."""


class Fencing:
    """For the runs of the worker `worker` of `pool` on `server`.

    `mine`: their claims; `sender` of the signals of one; `end` ends one that is somebody else's; `renew` tells the
    server that this worker is there; `now_s` is the server's time; marks are kept in `folder`.
    """

    def __init__(
        self,
        client: PrefectClient,
        worker: str,
        pool: str,
        server: str,
        folder: Path,
        mine: Callable[[], list[HostClaim]],
        sender: Callable[[HostClaim], Send],
        end: Callable[[str, str], None],
        renew: Callable[[], Awaitable[None]],
        now_s: Callable[[], float],
        clock: Clock = SYSTEM,
    ) -> None:
        self._client, self._worker, self._pool, self._server = client, worker, pool, server
        self._folder, self._mine, self._clock = folder, mine, clock
        self._frozen = Frozen(folder)
        self._sender, self._end, self._renew, self._now_s = sender, end, renew, now_s
        self._lost_s = read_settings().host_lost_seconds
        self._renew_s = renew_after_s(self._lost_s, RENEW_S)
        self._heard_s = self._since_s = clock.boot_s()
        self._frozen_at_s: dict[str, float] = {}
        self._told_s: dict[str, float] = {}
        self._said = self._unguarded = ""
        self._logger = get_logger("trimtab.worker")

    def heard(self, sent_s: float) -> None:
        """The server has taken a renewal that was sent at `sent_s` (`Clock.boot_s`)."""
        if self._since_s == math.inf or sent_s - self._heard_s >= fence_after_s(self._lost_s):
            self._since_s = sent_s
        self._heard_s = sent_s
        self._leave_word()

    def earlier_s(self) -> float:
        """When (`Clock.boot_s`) the server last heard of the workers whose runs this one is to take over. Known until
        they are taken over.
        """
        return min((one.heard_s for one in heard(self._folder) if self._is_earlier(one)), default=math.inf)

    def take_over(self, earlier_s: float) -> None:
        """Runs that an earlier worker, or the guard, had stand still are asked for before they go on. What is taken
        over has not been heard of since `earlier_s`.
        """
        mine = self._mine()
        for claim in mine:
            frozen_at_s = self._frozen.since_s(claim.claim_id)
            if frozen_at_s is not None:
                self._frozen_at_s[claim.claim_id] = frozen_at_s
        if mine:
            self._heard_s = min(self._heard_s, earlier_s)
            self._since_s = math.inf
        self._leave_word()

    def _is_earlier(self, word: Heard) -> bool:
        same = (word.boot_id, word.server, word.pool) == (self._clock.boot_id, self._server, self._pool)
        return same and not word.process.alive

    def _leave_word(self) -> None:
        self._try("When the server has last heard of this worker", lambda: self._word().write(self._folder))

    def _word(self) -> Heard:
        own = find(os.getpid())
        server_s = self._now_s() - (self._clock.boot_s() - self._heard_s)
        who = (self._worker, self._pool, self._server, own.pid, own.ticks, self._clock.boot_id)
        return Heard(*who, self._heard_s, server_s, self._lost_s)

    def _try(self, what: str, write: Callable[[], None]) -> bool:
        """Whether it was written. What fails again and again is said once."""
        try:
            write()
        except OSError as error:
            if what != self._said:
                self._logger.warning("%s cannot be written down: %s", what, error)
            self._said = what
            return False
        self._said = ""
        return True

    def close(self) -> None:
        """This worker ends. What it leaves running is looked after by the guard until the next one comes."""
        with contextlib.suppress(OSError):
            if not self._mine():
                self._word().path(self._folder).unlink(missing_ok=True)

    async def watch(self) -> None:
        """For as long as the worker runs."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._renewing)
            tasks.start_soon(self._guarding)
            while True:
                await anyio.sleep(_LOOK_S)
                if self._frozen_at_s or self._clock.boot_s() - self._heard_s >= fence_after_s(self._lost_s):
                    try:
                        await self._look()
                    except Exception:
                        self._logger.exception("Whether runs have to stand still could not be looked at")

    async def _look(self) -> None:
        claims = [claim for claim in self._mine() if claim.running]
        for claim_id in self._frozen_at_s.keys() - {claim.claim_id for claim in claims}:
            self._forget(claim_id)  # it has ended
        for claim in claims:
            await self._judge(claim)

    async def _renewing(self) -> None:
        while True:
            await anyio.sleep(self._renew_s / 2)
            if self._clock.boot_s() - self._heard_s > self._renew_s:
                try:
                    await self._renew()
                except Exception as error:  # noqa: BLE001 - whatever it is, it is tried again
                    self._logger.debug("The advertisement could not be renewed: %s", error)

    async def _guarding(self) -> None:
        """Somebody fences the runs if this worker dies: a process that outlives it, and may be killed itself."""
        while True:
            try:
                self._word().write(self._folder)  # or it would see no worker here, and end
                if not await anyio.to_thread.run_sync(is_guarded, self._folder):
                    await anyio.to_thread.run_sync(start_guard, self._folder, server_access())
            except (OSError, subprocess.SubprocessError) as error:
                if self._unguarded != str(error):
                    self._logger.warning("Nobody fences the runs of this host if this worker is killed: %s", error)
                self._unguarded = str(error)
            await anyio.sleep(_GUARD_S)

    async def _judge(self, claim: HostClaim) -> None:
        frozen_at_s = self._frozen_at_s.get(claim.claim_id)
        unheard_s, heard_for_s = self._clock.boot_s() - self._heard_s, self._clock.boot_s() - self._since_s
        verdict = fence(unheard_s, heard_for_s, self._lost_s, frozen_at_s, "", 0.0)
        if frozen_at_s is not None and unheard_s < fence_after_s(self._lost_s):
            state, changed_s = await self._state(claim)
            verdict = fence(unheard_s, heard_for_s, self._lost_s, frozen_at_s, state, changed_s)
        run_id = claim.holding.run_id
        if verdict.step is Step.FREEZE:
            self._logger.warning(
                "Run %s stands still: %s. It goes on when it is known to be still here", run_id, verdict.why
            )
            self._frozen_at_s[claim.claim_id] = self._now_s()
            self._mark(claim)
            self._stop(claim)
        elif verdict.step is Step.THAW:
            self._logger.info("Run %s goes on: %s", run_id, verdict.why)
            self._sender(claim)(signal.SIGCONT)
            self._forget(claim.claim_id)
        elif verdict.step is Step.END:
            self._logger.warning("Run %s is ended here: %s", run_id, verdict.why)
            self._end(run_id, verdict.why)
            self._forget(claim.claim_id)
        elif frozen_at_s is not None and self._clock.boot_s() - self._told_s.get(claim.claim_id, 0.0) > _AGAIN_S:
            self._stop(claim)  # a process that it was just starting may have been missed

    async def _state(self, claim: HostClaim) -> tuple[str, float]:
        """Type of the run's state on the server, and since when; ("", 0) if it does not say."""
        try:
            run = await self._client.read_flow_run(UUID(claim.holding.run_id))
        except ObjectNotFound:
            return "DELETED", 0.0
        except httpx.HTTPError:
            return "", 0.0
        if run.state is None:
            return "", 0.0
        kind = "RUNNING" if retries_in_process(run) else run.state.type.value
        return kind, run.state.timestamp.timestamp()

    def _stop(self, claim: HostClaim) -> None:
        self._told_s[claim.claim_id] = self._clock.boot_s()
        self._sender(claim)(signal.SIGSTOP)

    def _mark(self, claim: HostClaim) -> None:
        at_s = self._frozen_at_s[claim.claim_id]
        self._try(f"That run {claim.holding.run_id} stands still", lambda: self._frozen.mark(claim.claim_id, at_s))

    def _forget(self, claim_id: str) -> None:
        self._frozen_at_s.pop(claim_id, None)
        self._told_s.pop(claim_id, None)
        try:
            self._frozen.clear(claim_id)
        except OSError as error:
            self._logger.warning("The mark of claim %s cannot be taken away: %s", claim_id, error)
