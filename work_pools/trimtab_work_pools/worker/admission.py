"""Whether a worker may join its pool: refused before it picks anything, with what to do."""

from __future__ import annotations

import os
import sys

from prefect.client.orchestration import PrefectClient
from prefect.exceptions import ObjectNotFound

from trimtab_work_pools.advertise import Advertisement, clash, current
from trimtab_work_pools.worker.control_plane import ControlPlane

__all__ = ["NotAdmitted", "admit", "not_started"]


class NotAdmitted(ValueError):
    """The worker would take what it cannot run, or cannot be told from another; the text says what to do."""


async def admit(client: PrefectClient, control: ControlPlane, pool: str, worker_type: str, own: Advertisement) -> None:
    """Raises NotAdmitted. Also the first that is asked of the server, so its clock is known from here on."""
    try:
        found = await client.read_work_pool(pool)
    except ObjectNotFound:
        found = None  # Prefect makes it, of the right type
    if found is not None and found.type != worker_type:
        raise NotAdmitted(
            f"work pool {pool!r} is of type {found.type!r}, and this worker is of type {worker_type!r}: start it with"
            f" --type {found.type}, or make a pool for it: prefect work-pool create NAME --type {worker_type}"
        )
    board = await control.board()
    why = clash(own, current(board.advertisements, control.now_s()))
    if why:
        raise NotAdmitted(why)


def not_started(why: str) -> None:
    """Ends `prefect worker start` with one sentence: Prefect would wrap an exception into groups, and print them all.

    Nothing was started yet that would have to be ended. Under any other program it returns, and the caller raises.
    """
    if sys.argv[1:3] == ["worker", "start"]:
        sys.stderr.write(f"This worker does not start: {why}.\n")
        sys.stderr.flush()
        os._exit(1)
