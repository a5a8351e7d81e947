"""A worker that the server does not hear of has its runs stand still, and go on when they are still its own."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator

import psutil
import pytest
from prefect.states import Scheduled

from .conftest import Pool, stands_still, until
from .refusing_proxy import RefusingProxy

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def proxy(environment: dict[str, str]) -> Iterator[RefusingProxy]:
    with RefusingProxy(os.environ["PREFECT_API_URL"]) as found:
        yield found


def cut_off(proxy: RefusingProxy, pool: Pool) -> tuple[str, psutil.Process]:
    """A run whose worker is cut off from the server, and its process, which stands still."""
    behind = {"PREFECT_API_URL": proxy.url, "PREFECT_CLIENT_MAX_RETRIES": "0"}
    run_id = pool.run(pool.deploy("any", cpus=1), seconds=8)
    pool.worker("a", behind, node_cpus=1, host_lost_seconds=8)
    process = psutil.Process(pool.await_started(run_id)["pid"])
    proxy.refuse(".")
    until(lambda: stands_still(process), 30, "it stands still")
    assert list(pool.folder.glob("host-a/*.frozen"))
    return run_id, process


def test_an_outage_of_the_server_only_pauses_what_runs(proxy: RefusingProxy, pool: Pool) -> None:
    run_id, process = cut_off(proxy, pool)
    proxy.rules.clear()
    until(lambda: not stands_still(process), 60, f"it goes on; {pool.logs()}")
    pool.await_state(run_id, "Completed", 60)
    assert [line["what"] for line in pool.lines(run_id)] == ["start", "end"]
    assert not list(pool.folder.glob("host-a/*.frozen"))


def test_a_run_that_was_given_to_others_meanwhile_is_ended_where_it_stands(proxy: RefusingProxy, pool: Pool) -> None:
    run_id, process = cut_off(proxy, pool)
    pool.client.set_flow_run_state(uuid.UUID(run_id), Scheduled(name="LostHost"), force=True)
    done = pool.lines(run_id)
    proxy.rules.clear()
    until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE, 60, f"ended; {pool.logs()}")
    assert pool.lines(run_id)[: len(done)] == done
    pool.await_state(run_id, "Completed", 90)
    assert [line["what"] for line in pool.lines(run_id)] == ["start", "start", "end"]
