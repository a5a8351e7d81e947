"""What the other workers of a pool advertise: as they announced it last, and now and then as it is on the server."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from prefect.logging import get_logger

from trimtab_work_pools.advertise import Advertisement, AdvertisementError, later
from trimtab_work_pools.worker.control_plane import ControlPlane

__all__ = ["Peers"]

_READ_AGAIN_S = 5.0


class Peers:
    """The peers of one worker."""

    def __init__(self, worker: str, pool: str, control: ControlPlane) -> None:
        self._worker, self._pool, self._control = worker, pool, control
        self._known: dict[str, Advertisement] = {}
        self._read_s = 0.0

    async def now(self) -> list[Advertisement]:
        """All that is known of them; some of it may have expired."""
        if self._control.now_s() - self._read_s > _READ_AGAIN_S:
            self._read_s = self._control.now_s()
            advertised, problems = await self._control.advertisements()
            for problem in problems:
                get_logger("trimtab.worker").warning("%s; it is ignored", problem)
            self._known = later({one.worker: one for one in advertised}, self._known)
        return [one for worker, one in self._known.items() if worker != self._worker]

    def heard(self, payload: Mapping[str, Any]) -> bool:
        """Whether an announcement was of a peer of this pool, who is like that now, or goes."""
        if payload.get("work_pool") != self._pool or payload.get("worker") == self._worker:
            return False
        worker, text = str(payload.get("worker")), str(payload.get("advertisement") or "")
        self._known.pop(worker, None)
        if text:
            with contextlib.suppress(AdvertisementError):  # what is on the server is read soon
                self._known[worker] = Advertisement.from_text(text, f"the announcement of {worker}")
        return True
