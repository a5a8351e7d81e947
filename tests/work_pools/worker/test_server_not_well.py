"""A server that answers 503 in between: nothing is held without getting on, nothing is lost or started twice."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from .conftest import Pool, until
from .refusing_proxy import RefusingProxy


@pytest.fixture
def proxy(environment: dict[str, str]) -> Iterator[RefusingProxy]:
    with RefusingProxy(os.environ["PREFECT_API_URL"]) as found:
        yield found


def held(pool: Pool) -> list[str]:
    return [path.name for path in pool.folder.glob("host-*/*.json")]


def once(pool: Pool, run_id: str) -> bool:
    return [line["what"] for line in pool.lines(run_id)] == ["start", "end"]


def behind(proxy: RefusingProxy, retries: int) -> dict[str, str]:
    return {"PREFECT_API_URL": proxy.url, "PREFECT_CLIENT_MAX_RETRIES": str(retries)}


@pytest.mark.parametrize("retries", [0, 3])
def test_a_claim_whose_answer_is_lost_is_the_worker_s_own_or_nobody_s(
    proxy: RefusingProxy, pool: Pool, retries: int
) -> None:
    """Asked again, the server says that somebody has it: nobody went on with the run, before."""
    run_id = pool.run(pool.deploy("any", cpus=1))
    lost = proxy.refuse(f"POST /api/flow_runs/{run_id}/set_state", times=1, lost=True)
    pool.worker("a", behind(proxy, retries), node_cpus=1)
    pool.await_state(run_id, "Completed", 60)
    assert len(lost.refused) == 1
    assert once(pool, run_id)
    names = [state.name for state in pool.client.read_flow_run_states(pool.state(run_id).id)]
    assert ("Rescheduled" in names) is (retries == 0), names


def test_what_cannot_be_prepared_is_not_held(proxy: RefusingProxy, pool: Pool) -> None:
    """Two runs stayed Pending for two minutes, with their devices, and crashed then."""
    deployment = pool.deploy("any", cpus=1)
    run_id = pool.run(deployment)
    rule = proxy.refuse("GET /api/flows/")
    worker = pool.worker("a", behind(proxy, 0), node_cpus=1)
    until(lambda: rule.refused, 60, f"it was asked for; {pool.logs()}")
    until(lambda: not held(pool), 5, f"nothing is held; {pool.logs()}")
    pool.await_state(run_id, "Rescheduled", 20)
    rule.times = 0
    pool.await_state(run_id, "Completed", 60)
    assert once(pool, run_id)
    run = pool.state(run_id)
    assert not [name for name in run.labels if name.startswith("trimtab.started-again")], "it is no failed start"
    assert worker.poll() is None


@pytest.mark.long
def test_a_server_that_does_not_answer_for_long_has_it_given_back_in_time(proxy: RefusingProxy, pool: Pool) -> None:
    """With as many tries as Prefect makes by itself."""
    run_id = pool.run(pool.deploy("any", cpus=1))
    rule = proxy.refuse("GET /api/flows/")
    pool.worker("a", behind(proxy, 5), node_cpus=1)
    until(lambda: rule.refused, 60, f"it was asked for; {pool.logs()}")
    until(lambda: not held(pool), 50, "nothing is held")  # Prefect's client gives up after 62 s and more
    rule.times = 0
    pool.await_state(run_id, "Completed", 90)
    assert once(pool, run_id)


def test_a_server_that_is_not_well_before_the_claim_ends_no_worker(proxy: RefusingProxy, pool: Pool) -> None:
    """Prefect's own worker ends when it cannot read the deployment of a run."""
    deployment = pool.deploy("any", cpus=1)
    beside = pool.run(deployment, seconds=8)
    worker = pool.worker("a", behind(proxy, 0), node_cpus=2)
    pool.await_started(beside)
    rule = proxy.refuse(f"GET /api/deployments/{deployment}")
    run_id = pool.run(deployment)
    until(lambda: rule.refused, 30, f"it was asked for; {pool.logs()}")
    until(lambda: held(pool) == [f"{beside}.json"], 5, "nothing is held for it")
    rule.times = 0
    for one in (run_id, beside):
        pool.await_state(one, "Completed", 60)
        assert once(pool, one)
    assert worker.poll() is None
