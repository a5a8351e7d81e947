"""Cancels runs that an earlier worker started: what Prefect does for a run of its own ended with that worker."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from uuid import UUID

import anyio
import httpx
from prefect.client.schemas.objects import FlowRun

from trimtab_work_pools.worker.control_plane import ControlPlane
from trimtab_work_pools.worker.prefect_hooks import run_cancellation_hooks

__all__ = ["CANCELLED", "CANCEL_GRACE_S", "watch_cancelling"]

CANCELLED = "Cancelled"
"""Why a run is ended that is to be cancelled."""
CANCEL_GRACE_S = 30.0
"""Between SIGTERM and SIGKILL, as Prefect has it."""
_LOOK_S = 2.0


@contextlib.asynccontextmanager
async def watch_cancelling(control: ControlPlane, run_id: UUID, cancel: Callable[[], None]) -> AsyncIterator[None]:
    """While the body waits for the run's end, `cancel` is called once the run is to be cancelled. After the body the
    deployment's hooks for that are run, as Prefect does.
    """
    seen: list[FlowRun] = []

    async def look() -> None:
        while not seen:
            with contextlib.suppress(httpx.HTTPError):  # it is asked again
                seen.extend(await control.cancelling([run_id]))
            if seen:
                cancel()
                return
            await anyio.sleep(_LOOK_S)

    async with anyio.create_task_group() as group:
        group.start_soon(look)
        yield
        group.cancel_scope.cancel()
    for run in seen:
        await run_cancellation_hooks(run)
