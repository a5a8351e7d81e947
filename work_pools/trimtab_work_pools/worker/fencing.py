"""Has the runs of a worker that the server does not hear of stand still, and go on, as `rules.fence` says.

Also renews the worker's advertisement by itself: while it drains, nobody else does. That a run stands still is written
beside the host's claims, so that a worker that is started meanwhile knows it.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from uuid import UUID

import anyio
import httpx
from prefect.client.orchestration import PrefectClient
from prefect.exceptions import ObjectNotFound
from prefect.logging import get_logger

from trimtab_blocks.settings import read as read_settings
from trimtab_work_pools.rules.fence import Step, fence, fence_after_s, renew_after_s
from trimtab_work_pools.worker.control_plane import retries_in_process
from trimtab_work_pools.worker.host_claims import HostClaim
from trimtab_work_pools.worker.pace import RENEW_S
from trimtab_work_pools.worker.stopping import Send

__all__ = ["Fencing", "boot_s"]

_LOOK_S, _AGAIN_S = 1.0, 5.0


def boot_s() -> float:
    """Seconds since the host started, also while it sleeps; never stepped."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class Fencing:
    """For the runs of one worker.

    `mine`: their claims; `sender` of the signals of one; `end` ends one that is somebody else's; `renew` tells the
    server that this worker is there; `now_s` is the server's time; marks are kept in `folder`.
    """

    def __init__(
        self,
        client: PrefectClient,
        folder: Path,
        mine: Callable[[], list[HostClaim]],
        sender: Callable[[HostClaim], Send],
        end: Callable[[str, str], None],
        renew: Callable[[], Awaitable[None]],
        now_s: Callable[[], float],
    ) -> None:
        self._client, self._folder, self._mine = client, folder, mine
        self._sender, self._end, self._renew, self._now_s = sender, end, renew, now_s
        self._lost_s = read_settings().host_lost_seconds
        self._renew_s = renew_after_s(self._lost_s, RENEW_S)
        self._heard_s = self._since_s = boot_s()
        self._frozen_at_s: dict[str, float] = {}
        self._told_s: dict[str, float] = {}
        self._logger = get_logger("trimtab.worker")

    def heard(self, sent_s: float) -> None:
        """The server has taken a renewal that was sent at `sent_s` (`boot_s`)."""
        if sent_s - self._heard_s >= fence_after_s(self._lost_s):
            self._since_s = sent_s
        self._heard_s = sent_s

    def take_over(self) -> None:
        """Runs that an earlier worker had stand still are asked for before they go on."""
        for claim in self._mine():
            try:
                self._frozen_at_s[claim.claim_id] = float(self._mark(claim.claim_id).read_text())
            except (OSError, ValueError):
                continue
        if self._frozen_at_s:
            self._since_s = boot_s()

    async def watch(self) -> None:
        """For as long as the worker runs."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._renewing)
            while True:
                await anyio.sleep(_LOOK_S)
                if self._frozen_at_s or boot_s() - self._heard_s >= fence_after_s(self._lost_s):
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
            if boot_s() - self._heard_s > self._renew_s:
                try:
                    await self._renew()
                except Exception as error:  # noqa: BLE001 - whatever it is, it is tried again
                    self._logger.debug("The advertisement could not be renewed: %s", error)

    async def _judge(self, claim: HostClaim) -> None:
        frozen_at_s = self._frozen_at_s.get(claim.claim_id)
        unheard_s, heard_for_s = boot_s() - self._heard_s, boot_s() - self._since_s
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
            self._write(claim)
            self._stop(claim)
        elif verdict.step is Step.THAW:
            self._logger.info("Run %s goes on: %s", run_id, verdict.why)
            self._sender(claim)(signal.SIGCONT)
            self._forget(claim.claim_id)
        elif verdict.step is Step.END:
            self._logger.warning("Run %s is ended here: %s", run_id, verdict.why)
            self._end(run_id, verdict.why)
            self._forget(claim.claim_id)
        elif frozen_at_s is not None and boot_s() - self._told_s.get(claim.claim_id, 0.0) > _AGAIN_S:
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
        self._told_s[claim.claim_id] = boot_s()
        self._sender(claim)(signal.SIGSTOP)

    def _mark(self, claim_id: str) -> Path:
        return self._folder / f"{claim_id}.frozen"

    def _write(self, claim: HostClaim) -> None:
        try:
            self._mark(claim.claim_id).write_text(repr(self._frozen_at_s[claim.claim_id]))
        except OSError as error:
            self._logger.warning("That run %s stands still cannot be written down: %s", claim.holding.run_id, error)

    def _forget(self, claim_id: str) -> None:
        self._frozen_at_s.pop(claim_id, None)
        self._told_s.pop(claim_id, None)
        try:
            self._mark(claim_id).unlink(missing_ok=True)
        except OSError as error:
            self._logger.warning("The mark of claim %s cannot be taken away: %s", claim_id, error)
