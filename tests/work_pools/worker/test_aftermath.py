"""Runs that end badly under a real worker: what is found out, and what is done next."""

from __future__ import annotations

import pytest
from tests.work_pools.worker.conftest import Pool, until


def starts(pool: Pool, run_id: str) -> int:
    path = pool.folder / f"{run_id}.starts"
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_each_bad_end_has_its_next_step(pool: Pool) -> None:
    deployment = pool.deploy("bad", "failing_flow.py:failing", cpus=0.25, memory_mib=300)
    missing = pool.deploy("missing", "no_such_file.py:failing", cpus=0.25)
    pool.worker("only", node_cpus=1, node_memory_mib=8000)

    def run(how: str, times: int = 1) -> str:
        return pool.run(deployment, parameters={"how": how, "times": times})

    memory, twice, crash, own = run("host memory"), run("host memory", 9), run("crash"), run("own")
    unstartable = pool.run(missing, parameters={"how": "own"})
    for run_id in (memory, crash):
        pool.await_state(run_id, "Completed", 120)
        assert starts(pool, run_id) == 2
    larger = pool.state(memory).job_variables or {}
    assert larger["resources"] == {"memory_mib": 600}, "came back with more; the rest is its deployment's"
    gave_up = pool.await_state(twice, "OutOfMemory", 120, final=True)
    assert starts(pool, twice) == 2
    assert gave_up.state
    assert "set resources.memory_mib yourself" in str(gave_up.state.message)
    assert pool.await_state(own, "Failed").labels.keys().isdisjoint({"trimtab.started-again.BadExit"})
    assert starts(pool, own) == 1, "its own error is its own affair"
    shown = pool.await_state(unstartable, "StartFailed", final=True)
    assert shown.state
    assert "check the entrypoint" in str(shown.state.message)
    assert shown.labels["trimtab.started-again.StartFailed"] == 1
    until(lambda: not list((pool.folder / "host-only").glob("*.json")), 30, "nothing is held")


def test_what_a_task_ran_out_of_is_found_behind_the_message_of_the_flow(pool: Pool) -> None:
    plain = pool.deploy("plain", "failing_flow.py:failing", cpus=0.25)
    pool.worker("only", node_cpus=1, node_memory_mib=8000)
    run_id = pool.run(plain, parameters={"how": "task", "times": 1})
    shown = pool.await_state(run_id, "OutOfGpuMemory", 60, final=True)
    assert shown.state
    assert "Out of GPU memory" in str(shown.state.message)


def test_the_peak_is_kept_and_less_is_suggested(pool: Pool) -> None:
    deployment = pool.deploy("peak", cpus=0.25, memory_mib=2000)
    pool.worker("only", node_cpus=1, node_memory_mib=9000)
    runs = [pool.run(deployment, seconds=5) for _ in range(3)]
    for run_id in runs:
        pool.await_state(run_id, "Completed", 90)
        peak = until(lambda run=run_id: pool.state(run).labels.get("trimtab.peak.memory_mib"), 30, "a label")
        assert peak == pytest.approx(200, abs=180), "what Prefect itself takes"
    large = {"resources": {"cpus": 0.25, "memory_mib": 9500}, "working_dir": str(pool.folder)}
    waits = pool.await_state(pool.run(deployment, job_variables=large), "NoNodeFits")
    assert waits.state
    assert "its last 3 runs used at most" in str(waits.state.message)
