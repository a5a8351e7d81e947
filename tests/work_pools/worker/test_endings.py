"""What becomes of a run whose process has gone, from what the server says of it."""

from __future__ import annotations

import uuid

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolUpdate
from prefect.states import Completed, Crashed, Pending, Running, Scheduled

from trimtab_work_pools.worker.claiming import Claiming
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
    let_go: list[uuid.UUID] = []
    async with get_client() as client:
        claiming = Claiming(client, ControlPlane(client, pool.name), let_go.append)
        for state in (Pending(), Running(), Completed()):
            await client.set_flow_run_state(run_id, state, force=True)
            assert not await claiming.won(run_id, "mark"), state.name
        await client.set_flow_run_state(run_id, Scheduled(), force=True)
        await client.update_work_pool(pool.name, WorkPoolUpdate(is_paused=True))
        assert not await claiming.won(run_id, "mark"), "the pool was paused a moment ago"
        await client.update_work_pool(pool.name, WorkPoolUpdate(is_paused=False))
        assert await claiming.won(run_id, "mark")
        assert not await claiming.won(run_id, "of another"), "it is claimed"
        await client.delete_flow_run(run_id)
        assert not await claiming.won(run_id, "mark")
    assert let_go == []
