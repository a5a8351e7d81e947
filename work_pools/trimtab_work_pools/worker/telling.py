"""Tells people: on each waiting run why it waits, in its state and in its log, and the fleet as a table. A run whose
demand makes no sense is ended with the reason. Done by one worker of all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from uuid import UUID

from prefect.client.orchestration import PrefectClient

from trimtab_work_pools.advertise import Advertisement
from trimtab_work_pools.server.run_log import NewReasons, write_run_logs
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
        self._control, self._client = control, client
        self._table = FleetTableArtifact(client, pool)
        self._learning = Learning(client)
        self._said: dict[str, tuple[float, str]] = {}
        self._new = NewReasons()

    async def tell(
        self,
        waiting: Sequence[Waiting],
        reasons: Mapping[str, tuple[str, str]],
        fleet: tuple[Advertisement, ...],
        called_away: Callable[[], bool],
    ) -> None:
        """`reasons`: run id -> (name of its state, sentence). When `called_away`, the rest is told in a later round."""
        now_s = self._control.now_s()
        lines: list[tuple[UUID, str]] = []
        for one in waiting:
            if called_away() or len(lines) >= _AT_ONCE:
                break
            name, message = (BAD_DEMAND, one.problem) if one.problem else reasons.get(str(one.flow_run.id), ("", ""))
            said_s, said = self._said.get(str(one.flow_run.id), (0.0, ""))
            if name and said != message and now_s - said_s >= _AGAIN_S:
                lines.append((one.flow_run.id, await self._say(one, name, message)))
                self._said[str(one.flow_run.id)] = (now_s, message)
        new = [(run_id, f"Waits: {line}") for run_id, line in lines if line and self._new.new(run_id, line, now_s)]
        await write_run_logs(self._client, new)
        if called_away():
            return
        self._said = {run_id: said for run_id, said in self._said.items() if UUID(run_id) in ids_of(waiting)}
        self._new.keep(ids_of(waiting))
        await self._table.show(fleet, now_s)

    async def _say(self, one: Waiting, name: str, message: str) -> str:
        """Returns what was said; "" if nothing."""
        if one.problem:
            return await self._control.refuse(one, name)
        told = await self._in_full(one, message)
        return told if await self._control.say(one.flow_run, name, told) else ""

    async def _in_full(self, one: Waiting, message: str) -> str:
        """With all that it asks for and who said so, and what would do if that is much less."""
        less = await self._learning.suggestion(one.flow_run, one.queued.demand) if one.queued else ""
        asks = f". It asks for {one.asks}" if one.asks else ""
        return f"{message}{asks}" + (f". It {less}" if less else "")


def ids_of(waiting: Sequence[Waiting]) -> set[UUID]:
    """Of their runs."""
    return {one.flow_run.id for one in waiting}
