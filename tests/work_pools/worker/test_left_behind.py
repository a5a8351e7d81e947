"""Whatever ends a run ends all of its processes, and only then are its devices given to another."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest
from prefect.states import Cancelling

from trimtab_work_pools.host.process import Process, find

from .conftest import Pool, until

pytestmark = pytest.mark.timeout(300)

FLOW = "leaving_flow.py:leaving"


def cancel(pool: Pool, run_id: str, pid: int) -> None:
    pool.client.set_flow_run_state(pool.state(run_id).id, Cancelling(), force=True)


def crash(pool: Pool, run_id: str, pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def drain(pool: Pool, run_id: str, pid: int) -> None:
    pool.workers[-1].send_signal(signal.SIGTERM)


def nothing(pool: Pool, run_id: str, pid: int) -> None:
    """It ends by itself."""


ENDS = [
    (nothing, {"seconds": 1.0}, "Completed"),
    (crash, {"seconds": 1000.0}, ""),
    (cancel, {"seconds": 1000.0}, "Cancelled"),
    (drain, {"seconds": 1000.0}, "Preempted"),
]


@pytest.mark.parametrize("launch", ["fork", "process"])
@pytest.mark.parametrize(("end", "parameters", "state"), ENDS, ids=[end.__name__ for end, _, _ in ENDS])
def test_nothing_of_a_run_is_left(
    pool: Pool, launch: str, end: Callable[[Pool, str, int], None], parameters: dict[str, float], state: str
) -> None:
    pool.worker("only", node_cpus=1, launch=launch, drain_seconds=0, stop_grace_seconds=5)
    run_id = pool.run(pool.deploy("any", FLOW, cpus=1), **parameters)
    start = pool.await_started(run_id)
    processes = [find(pid) for pid in start["left"].values()]
    claims = pool.folder / "host-only"
    end(pool, run_id, start["pid"])
    until(lambda: not list(claims.glob("*.json")), 60, f"the claim of {run_id} given back; {pool.logs()}")
    assert [one for one in processes if one.alive] == [], start["left"]
    if state:
        pool.await_state(run_id, state, 30)


@pytest.mark.parametrize("kill_run", [True, False], ids=["its run has ended meanwhile", "its run goes on"])
def test_what_the_run_of_a_killed_worker_leaves_is_ended_by_the_next(pool: Pool, kill_run: bool) -> None:
    """Its devices are nobody's until then: a second worker on the host gives them to no other run."""
    worker = pool.worker("only", node_cpus=1)
    run_id = pool.run(pool.deploy("any", FLOW, cpus=1), seconds=1000.0)
    start = pool.await_started(run_id)
    processes: list[Process] = [find(pid) for pid in start["left"].values()]
    nameless = find(start["left"]["nameless"])
    worker.kill()
    worker.wait()
    if kill_run:
        os.kill(start["pid"], signal.SIGKILL)
    pool.worker("only", node_cpus=1)
    if not kill_run:
        until(lambda: "goes on as" in pool.logs(), 60, "adopted")
        os.kill(start["pid"], signal.SIGKILL)
    pool.await_started(run_id, times=2)
    left = {one.pid for one in processes if one.alive}
    # A child with an empty environment, in the session of a process that nobody saw end, cannot be told from others
    # where there are no control groups.
    assert left <= ({nameless.pid} if kill_run else set())
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    pool.client.set_flow_run_state(pool.state(run_id).id, Cancelling(), force=True)
    pool.await_state(run_id, "Cancelled", 60)
