"""The time by the Prefect server's clock, which all workers of a pool share."""

from __future__ import annotations

import time
from collections.abc import Callable

from trimtab_work_pools.host.clock import SYSTEM, Clock

__all__ = ["ServerClock"]

_SAME_CLOCK_S = 3.0
"""The server's answers tell the second only, and take a while: what is as near as this is the same."""


class ServerClock:
    """Goes on with the host's own clock, so a step of this host's wall clock changes nothing; what the server says is
    followed. A host whose clock is wrong must not expire all others.
    """

    def __init__(self, clock: Clock = SYSTEM, wall_s: Callable[[], float] = time.time) -> None:
        """`wall_s` is asked once: until the server has answered, its clock is taken to be as this host's."""
        self._clock = clock
        self._began_s = wall_s() - clock.boot_s()

    def now_s(self) -> float:
        """Seconds since the epoch."""
        return self._began_s + self._clock.boot_s()

    def heard(self, server_s: float) -> None:
        """What the server has said, just now."""
        apart_s = server_s - self.now_s()
        if abs(apart_s) > _SAME_CLOCK_S:
            self._began_s += apart_s
