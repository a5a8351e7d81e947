"""What a worker makes of events: of the queue, of its peers. And how seldom it then asks the server."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from prefect.client.orchestration import get_client
from prefect.events import Event, RelatedResource, Resource
from prefect.settings import PREFECT_WORKER_QUERY_SECONDS, temporary_settings
from prefect.states import Cancelled, Failed, Running

from trimtab_work_pools.advertise import Advertisement, Board, roll_to_text
from trimtab_work_pools.resources import Node
from trimtab_work_pools.worker.control_plane import ControlPlane
from trimtab_work_pools.worker.dispatcher import Dispatcher
from trimtab_work_pools.worker.known_queue import KnownQueue
from trimtab_work_pools.worker.peers import Peers
from trimtab_work_pools.worker.planning import Planning

from .conftest import Pool


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def _no_polls() -> Iterator[None]:
    """What is read again is read because of events, not because time has passed."""
    with temporary_settings({PREFECT_WORKER_QUERY_SECONDS: 600}):
        yield


def state_event(run_id: str, name: str, kind: str, deployment_id: object = None) -> Event:
    of = [] if deployment_id is None else [f"prefect.deployment.{deployment_id}"]
    related = [RelatedResource({"prefect.resource.id": one, "prefect.resource.role": "deployment"}) for one in of]
    resource = Resource({"prefect.resource.id": f"prefect.flow-run.{run_id}", "prefect.state-type": kind})
    return Event(event=f"prefect.flow-run.{name}", resource=resource, related=related)


@pytest.mark.anyio
async def test_the_queue_is_read_once_and_then_only_what_is_news(pool: Pool) -> None:
    deployment = pool.deploy("any", cpus=3)
    first = pool.run(deployment)
    async with get_client() as client:
        control = ControlPlane(client, pool.name)
        queue = KnownQueue(control, set())
        queue.connected(True)

        async def known(workers: int = 1) -> list[str]:
            found = await queue.now(10.0, workers, everything=False)
            return [str(one.flow_run.id) for one in found]

        assert await known() == [first]
        second = pool.run(deployment)
        assert await known() == [first], "nothing was heard of the other, and all is not read again"
        assert queue.heard(state_event(second, "Scheduled", "SCHEDULED", deployment))
        assert await queue.presumed() != [], "what it asks for is known from its deployment"
        assert queue.unread([second]) == [uuid.UUID(second)]
        assert await known() == [first, second]
        assert await queue.presumed() == []
        assert not queue.heard(state_event(second, "AwaitingResources", "SCHEDULED", deployment)), "only said"
        assert not queue.heard(state_event(first, "Pending", "PENDING", deployment))
        assert await known() == [second]
        pool.client.set_flow_run_state(uuid.UUID(second), Cancelled(), force=True)
        assert queue.heard(state_event(second, "Rescheduled", "SCHEDULED", deployment))
        assert await known() == [], "what an event told is not so any more"
        assert queue.heard(state_event(first, "Completed", "COMPLETED", deployment)), "there may be room now"
        queue.connected(True)
        assert await known() == [first], "what was missed while nothing was heard"


@pytest.mark.anyio
async def test_in_a_large_fleet_a_run_is_asked_for_only_by_whom_it_concerns(pool: Pool) -> None:
    deployment = pool.deploy("any", cpus=3)
    async with get_client() as client:
        queue = KnownQueue(ControlPlane(client, pool.name), set())
        queue.connected(True)
        assert await queue.now(10.0, 1000, everything=False) == []
        run_id = pool.run(deployment)
        queue.heard(state_event(run_id, "Scheduled", "SCHEDULED", deployment))
        assert await queue.now(10.0, 1000, everything=False) == []
        (presumed,) = await queue.presumed()
        assert (presumed.run_id, presumed.demand.cpu_milli) == (run_id, 3000)
        await queue.read(queue.unread([run_id]))
        assert [str(one.flow_run.id) for one in await queue.now(10.0, 1000, everything=False)] == [run_id]


@pytest.mark.anyio
async def test_a_roll_keeps_peers_and_an_unknown_name_is_read(pool: Pool) -> None:
    async with get_client() as client:
        control = ControlPlane(client, pool.name)
        own, other = Peers("own", pool.name, control), ControlPlane(client, pool.name)
        soon_s = control.now_s() + 5
        there = Advertisement("there", Node("n1", 1000, 1000), (), soon_s)
        await other.publish(there)
        assert await own.now(leads=False) == [there]
        roll = {"work_pool": pool.name, "worker": "leader", "roll": roll_to_text({"there": soon_s + 20})}
        assert not own.roll_called(roll)
        assert [one.expires_s for one in await own.now(leads=False)] == [pytest.approx(soon_s + 20, abs=0.1)]
        await other.publish(Advertisement("late", Node("n2", 1000, 1000), (), soon_s + 20))
        assert len(await own.now(leads=False)) == 1
        assert own.roll_called({**roll, "roll": roll_to_text({"there": soon_s + 20, "late": soon_s + 20})})
        assert {one.worker for one in await own.now(leads=False)} == {"there", "late"}


@pytest.mark.parametrize("about", [{"work_pool": "another"}, {"worker": "own"}])
def test_rolls_of_others_and_our_own_are_no_news(about: dict[str, str]) -> None:
    peers = Peers("own", "mine", None)  # type: ignore[arg-type] - nothing is asked
    assert not peers.roll_called({"work_pool": "mine", "worker": "leader", "roll": roll_to_text({"new": 9e9}), **about})


@pytest.mark.anyio
async def test_a_run_whose_process_waits_to_try_again_is_for_nobody_until_that_has_gone(pool: Pool) -> None:
    """Else a worker that does not know of the process would start a second copy beside it."""
    run_id = uuid.UUID(pool.run(pool.deploy("any", cpus=1)))
    async with get_client() as client:
        control = ControlPlane(client, pool.name)
        priorities = (await control.queues(set())).priorities
        await client.set_flow_run_state(run_id, Running(), force=True)
        run = await client.read_flow_run(run_id)
        run.empirical_policy.retries = 2
        await client.update_flow_run(run_id, empirical_policy=run.empirical_policy)
        await client.set_flow_run_state(run_id, Failed())
        assert (await client.read_flow_run(run_id)).state_name == "AwaitingRetry"
        assert await control.waiting(10.0, priorities) == []
        assert await control.waiting_of([run_id], priorities) == []
        await control.back_to_queue(run_id, "Rescheduled", "its process has gone")
        assert [one.flow_run.id for one in await control.waiting(10.0, priorities)] == [run_id]


@pytest.mark.anyio
async def test_a_worker_that_leaves_is_not_advertised_again_by_the_round_it_was_in(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIMTAB_HOST_DIR", str(tmp_path / "host"))
    async with get_client() as client:
        dispatcher, control = Dispatcher("leaves", pool.name, client, set()), ControlPlane(client, pool.name)
        await dispatcher.join("gpu-process")
        async with anyio.create_task_group() as rounds:
            rounds.start_soon(dispatcher.pick, 10.0, None, None)
            await anyio.wait_all_tasks_blocked()
            await dispatcher.withdraw()
        assert await control.board() == Board()
        assert await dispatcher.pick(10.0, None, None) == []
        assert await control.board() == Board()
        dispatcher.close()


@pytest.mark.anyio
async def test_a_run_of_which_more_is_heard_while_it_is_planned_is_planned_once(pool: Pool) -> None:
    """In a fleet of more than ten workers; before, the plan failed: "a run is queued twice"."""
    deployment = pool.deploy("any", cpus=3)
    run_id = pool.run(deployment)
    async with get_client() as client:
        control = ControlPlane(client, pool.name)
        planning = Planning("w0", pool.name, control, set())
        now_s = control.now_s()
        planning.fleet = tuple(
            Advertisement(f"w{number}", Node(f"n{number:02}", 1000, 1000), (), now_s + 30) for number in range(1, 13)
        )
        planning._queue.connected(True)
        waiting, _ = await planning.plan(10.0, "n00", False)
        assert [str(one.flow_run.id) for one in waiting] == [run_id]
        planning._queue.heard(state_event(run_id, "Rescheduled", "SCHEDULED", deployment))
        _, picked = await planning.plan(10.0, "n00", False)
        assert [run.id for run in picked.runs] == [run_id]
