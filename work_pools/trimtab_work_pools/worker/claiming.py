"""The claim of a run on the server, and what follows until its process is started: nothing is held while the server is
away.

A run that is claimed holds devices, and its process is only started when the server has told all that it needs. Each
step has a time; what is over it, or is refused by a server that is not well, lets the devices go at once, and the run
goes back to the queue as soon as the server takes that. An answer that was lost leaves open who has the claim: the
claim carries a mark, by which it is found.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from uuid import UUID

import anyio
import httpx
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import State
from prefect.exceptions import ObjectNotFound
from prefect.logging import get_logger
from prefect.states import Pending

from trimtab_work_pools.worker.control_plane import ControlPlane, persistently, refused
from trimtab_work_pools.worker.prefect_hooks import Abort, propose_state

__all__ = ["PREPARES_WITHIN_S", "Claiming", "Preparation", "server_was_away"]

_CLAIMS_WITHIN_S = 20.0
PREPARES_WITHIN_S = 30.0
"""From the claim until all is read that the start needs; without a server that is well it would be minutes."""
_REST_S = 5.0
"""Until a run that could not be claimed or prepared is tried here again."""
_BACK = "Rescheduled"


class Claiming:
    """For one worker. `let_go` frees what a run holds on this host."""

    def __init__(self, client: PrefectClient, control: ControlPlane, let_go: Callable[[UUID], None]) -> None:
        self._client, self._control, self._let_go = client, control, let_go
        self._until_s: dict[str, float] = {}
        self._logger = get_logger("trimtab.worker")

    def rest(self, run_id: UUID) -> None:
        """It is not tried again at once."""
        self._until_s[str(run_id)] = time.monotonic() + _REST_S

    def resting(self) -> set[str]:
        """Ids of the runs that are not tried now."""
        now_s = time.monotonic()
        self._until_s = {run_id: until_s for run_id, until_s in self._until_s.items() if now_s < until_s}
        return set(self._until_s)

    async def won(self, run_id: UUID, mark: str) -> bool:
        """Whether the run was Scheduled, and is Pending with this `mark` now. If not, it holds nothing here."""
        won = False
        try:
            with anyio.fail_after(_CLAIMS_WITHIN_S):
                won = await self._waits(run_id) and await self._propose(run_id, mark)
        except ObjectNotFound:
            self._logger.info("Run %s was deleted before it could be claimed", run_id)
        except (httpx.HTTPError, TimeoutError) as error:
            why = str(error) or type(error).__name__
            self._logger.warning(
                "Run %s: the server did not say whether it is claimed (%s); it is given back", run_id, why
            )
            self.rest(run_id)
            self._let_go(run_id)
            await persistently(lambda: self._unclaim(run_id, mark), f"run {run_id} goes back if it was claimed")
        return won

    async def give_back(self, run_id: UUID, why: str) -> None:
        """A run that is claimed here and cannot be started now: its devices are free, and it waits again."""
        self._logger.warning("Run %s is not started now (%s); it goes back to the queue", run_id, why)
        self.rest(run_id)
        self._let_go(run_id)
        await persistently(lambda: self._control.back_to_queue(run_id, _BACK, why), f"run {run_id} goes back")

    async def _waits(self, run_id: UUID) -> bool:
        """The server lets a run that has completed be Pending again, and runs of a paused pool be claimed; this worker
        may not have heard of either yet.
        """
        if await self._control.paused():
            self.rest(run_id)
            return False
        state = (await self._client.read_flow_run(run_id)).state
        return state is not None and state.is_scheduled()

    async def _propose(self, run_id: UUID, mark: str) -> bool:
        try:
            state: State = await propose_state(self._client, Pending(message=mark), flow_run_id=run_id)
        except Abort as lost:
            # Or an answer was lost, and what is refused now is what was granted then.
            won = await self._marked(run_id, mark)
            if not won:
                self._logger.info("Run %s was claimed by another worker: %s", run_id, lost)
            return won
        if not state.is_pending():
            self._logger.info("Run %s may not start now: %s %s", run_id, state.name, state.message or "")
        return state.is_pending()

    async def _marked(self, run_id: UUID, mark: str) -> bool:
        state = (await self._client.read_flow_run(run_id)).state
        return state is not None and state.is_pending() and state.message == mark

    async def _unclaim(self, run_id: UUID, mark: str) -> None:
        try:
            if await self._marked(run_id, mark):
                await self._control.back_to_queue(run_id, _BACK, "the server did not answer when it was claimed")
        except ObjectNotFound:
            return


class Preparation:
    """The time in which a claimed run must come to its start; `begins` when nothing more is asked of the server."""

    def __init__(self) -> None:
        self.scope = anyio.CancelScope(deadline=anyio.current_time() + PREPARES_WITHIN_S)
        self.over = False
        self.crash = ""
        """What Prefect would say of the run that did not come to its start."""

    def begins(self) -> None:
        self.over, self.scope.deadline = True, math.inf


def server_was_away(error: BaseException | None) -> bool:
    """Whether it failed, or what led to it did, because the server is away or not well: later it may go."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, httpx.HTTPError):
            return not refused(error)
        error = error.__cause__ or error.__context__
    return False
