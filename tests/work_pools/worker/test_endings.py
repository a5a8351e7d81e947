"""What becomes of a run whose process has gone, from what the server says of it."""

from __future__ import annotations

import uuid

import pytest
from prefect.client.orchestration import get_client
from prefect.states import Completed, Crashed, Pending, Running

from trimtab_work_pools.worker import GpuProcessWorker
from trimtab_work_pools.worker.control_plane import ControlPlane

from .conftest import Pool


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("reported", "left"),
    [
        ([Running(), Completed(message="done"), Crashed()], "Completed"),
        ([Running(), Crashed()], "Preempted"),
        ([Running(), Completed(), Running(), Crashed()], "Preempted"),  # a second stretch, which did not complete
        ([Running(), Completed()], "Completed"),
    ],
)
async def test_a_run_that_had_completed_when_the_signal_came_stays_so(pool: Pool, reported, left: str) -> None:
    run_id = uuid.UUID(pool.run(pool.deploy("any", cpus=1)))
    async with get_client() as client:
        for state in reported:
            await client.set_flow_run_state(run_id, state, force=True)
        await ControlPlane(client, pool.name).back_to_queue(run_id, "Preempted", "made way")
        state = (await client.read_flow_run(run_id)).state
        assert state.name == left
        if len(reported) == 3:
            assert state.message == "done"


@pytest.mark.anyio
async def test_only_a_run_that_still_waits_is_claimed(pool: Pool) -> None:
    """The server would let a run that has completed be Pending again."""
    run_id = uuid.UUID(pool.run(pool.deploy("any", cpus=1)))
    worker = GpuProcessWorker(work_pool_name=pool.name)
    async with get_client() as client:
        worker._client = client
        run = await client.read_flow_run(run_id)
        assert await worker._still_waits(run)
        for state in (Pending(), Running(), Completed()):
            await client.set_flow_run_state(run_id, state, force=True)
            assert not await worker._still_waits(run), state.name
        await client.delete_flow_run(run_id)
        assert not await worker._still_waits(run)
