"""Tells people: on each waiting run why it waits, and the fleet as a table. Done by one worker of all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from prefect.client.orchestration import PrefectClient

from trimtab_work_pools.advertise import Advertisement
from trimtab_work_pools.worker.control_plane import ControlPlane, Waiting
from trimtab_work_pools.worker.fleet_table import FleetTableArtifact
from trimtab_work_pools.worker.learning import Learning
from trimtab_work_pools.worker.picking import BAD_DEMAND

__all__ = ["Telling"]

_AT_ONCE = 100
"""Runs that are told why they wait in one round: each costs two calls."""
_AGAIN_S = 20.0


class Telling:
    """What has been said already, so that only what is new is said, and not too often."""

    def __init__(self, control: ControlPlane, client: PrefectClient, pool: str) -> None:
        self._control = control
        self._table = FleetTableArtifact(client, pool)
        self._learning = Learning(client)
        self._said: dict[str, tuple[float, str]] = {}

    async def tell(
        self,
        waiting: Sequence[Waiting],
        reasons: Mapping[str, tuple[str, str]],
        fleet: tuple[Advertisement, ...],
        called_away: Callable[[], bool],
    ) -> None:
        """`reasons`: run id -> (name of its state, sentence). When `called_away`, the rest is told in a later round."""
        now_s = self._control.now_s()
        left = _AT_ONCE
        for one in waiting:
            if called_away():
                return
            run_id = str(one.flow_run.id)
            name, message = (BAD_DEMAND, one.problem) if one.problem else reasons.get(run_id, ("", ""))
            said_s, said = self._said.get(run_id, (0.0, ""))
            if left and name and said != message and now_s - said_s >= _AGAIN_S:
                await self._control.say(one.flow_run, name, await self._with_suggestion(one, message))
                self._said[run_id] = (now_s, message)
                left -= 1
        ids = {str(one.flow_run.id) for one in waiting}
        self._said = {run_id: said for run_id, said in self._said.items() if run_id in ids}
        await self._table.show(fleet, now_s)

    async def _with_suggestion(self, one: Waiting, message: str) -> str:
        less = await self._learning.suggestion(one.flow_run, one.queued.demand) if one.queued else ""
        return f"{message}. It {less}" if less else message
