"""What the other workers of a pool advertise: as they announced it last, and now and then as it is on the server.

That a worker is still there is seen from its advertisement, which it renews on the server. One of them (the leader)
reads all and calls the roll; the others read when somebody is called whom they do not know, or when no roll is called.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from prefect.logging import get_logger

from trimtab_work_pools.advertise import Advertisement, AdvertisementError, later, roll_from_text
from trimtab_work_pools.rules.parts import Sign
from trimtab_work_pools.server.freshness import Freshness
from trimtab_work_pools.worker.announce import call_roll
from trimtab_work_pools.worker.control_plane import ControlPlane
from trimtab_work_pools.worker.pace import ROLL_S

__all__ = ["Peers"]

_NO_ROLL_S, _SPREAD_S = 12.0, 8.0
"""Without a roll for so long, all is read; not by everybody at once."""


class Peers:
    """The peers of one worker."""

    def __init__(self, worker: str, pool: str, control: ControlPlane) -> None:
        self._worker, self._pool, self._control = worker, pool, control
        self._known: dict[str, Advertisement] = {}
        self.silent: tuple[Sign, ...] = ()
        self._said: set[str] = set()
        self._read = Freshness()
        self._no_roll_s = _NO_ROLL_S + random.uniform(0.0, _SPREAD_S)

    async def now(self, leads: bool) -> list[Advertisement]:
        """All that is known of them; some of it may have expired. `leads`: this worker reads for all."""
        now_s = self._control.now_s()
        if self._read.due(now_s, ROLL_S if leads else self._no_roll_s):
            asked = self._read.asked
            board = await self._control.board()
            for problem in set(board.problems) - self._said:
                get_logger("trimtab.worker").warning("%s; what was known of it before still holds", problem)
            self._said = set(board.problems)
            self._known, self.silent = later(board, self._known), board.silent
            self._read.answered(asked, now_s)
            if leads:
                expires_s = {one.worker: one.expires_s for one in board.silent}
                expires_s |= {one.worker: one.expires_s for one in board.advertisements}
                call_roll(await self._control.pool_resource(), self._pool, self._worker, expires_s)
                await self._control.prune(board)
        return [one for worker, one in self._known.items() if worker != self._worker]

    def heard(self, payload: Mapping[str, Any]) -> bool:
        """Whether an announcement was of a peer of this pool, who is like that now, or goes."""
        if payload.get("work_pool") != self._pool or payload.get("worker") == self._worker:
            return False
        worker, text = str(payload.get("worker")), str(payload.get("advertisement") or "")
        if text:
            try:
                self._known[worker] = Advertisement.from_text(text, f"the announcement of {worker}")
            except AdvertisementError:  # too long for an event, or of a newer version
                self._read.spoil()
        else:
            self._known.pop(worker, None)
        return True

    def roll_called(self, payload: Mapping[str, Any]) -> bool:
        """Until when each worker's advertisement is good; whether there are some that are not known here yet."""
        if payload.get("work_pool") != self._pool or payload.get("worker") == self._worker:
            return False
        try:
            expires_s = roll_from_text(str(payload.get("roll") or ""))
        except AdvertisementError:
            return False  # what is on the server is read soon
        for worker, one in self._known.items():
            self._known[worker] = replace(one, expires_s=max(one.expires_s, expires_s.get(worker, 0.0)))
        now_s = self._control.now_s()
        there = {worker for worker, until_s in expires_s.items() if until_s > now_s}
        unknown = bool(there - self._known.keys() - {self._worker, *(sign.worker for sign in self.silent)})
        if unknown:
            self._read.spoil()
        else:
            self._read.answered(self._read.asked, now_s)
        return unknown
