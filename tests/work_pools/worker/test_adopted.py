"""A run whose worker was killed is the next worker's as if it had started it, and what is said of it is true."""

from __future__ import annotations

import os
import signal
import time

import pytest
from prefect.states import Cancelling

from trimtab_work_pools.host.process import find

from .conftest import Pool, until

pytestmark = pytest.mark.timeout(300)

_AS_SOON_AS_ANY_S = 20
"""Prefect's own takes 3 to 10 s; the cores are busy."""


def cancel(pool: Pool, run_id: str) -> None:
    pool.client.set_flow_run_state(pool.state(run_id).id, Cancelling())


def test_runs_of_a_killed_worker_are_cancelled_as_any_other(pool: Pool) -> None:
    """At any time: after the next worker has come, before, and when the run's process has gone too."""
    deployment = pool.deploy("any", cpus=1)
    worker = pool.worker("only", node_cpus=4)
    later, before, gone, ends = (pool.run(deployment, seconds=seconds) for seconds in (1000, 1000, 1000, 4))
    pids = {run_id: pool.await_started(run_id)["pid"] for run_id in (later, before, gone, ends)}
    worker.kill()
    worker.wait()
    cancel(pool, before)
    cancel(pool, gone)
    os.kill(pids[gone], signal.SIGKILL)
    pool.await_state(ends, "Completed")
    until(lambda: not find(pids[ends]).ticks, 30, "its process has gone")
    pool.worker("only", node_cpus=4)
    until(lambda: "goes on as" in pool.logs(), 60, "adopted")
    began = time.monotonic()
    cancel(pool, later)
    for run_id in (gone, before, later):
        pool.await_state(run_id, "Cancelled", _AS_SOON_AS_ANY_S)
    assert time.monotonic() - began < _AS_SOON_AS_ANY_S
    for run_id in (before, later):
        assert [line["what"] for line in pool.lines(run_id)] == ["start", "TerminationSignal"]
        assert not find(pids[run_id]).ticks
    until(lambda: not list((pool.folder / "host-only").glob("*.json")), 30, "claims given back")
    log = (pool.folder / "worker-only-1.log").read_text()
    assert f"Run {gone} ended while no worker was here: it was being cancelled, and is Cancelled now" in log
    assert f"Run {ends} ended while no worker was here: it had ended already (Completed)" in log
    assert "goes back" not in log
    assert [line["what"] for line in pool.lines(ends)] == ["start", "end"]
