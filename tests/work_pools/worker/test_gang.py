"""A run on several nodes, under real workers that each have one."""

from __future__ import annotations

import json
import os
import signal

from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags

from .conftest import Pool, until


def met(pool: Pool) -> list[dict[str, int | str]]:
    path = pool.folder / "gang.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def members(pool: Pool) -> list[str]:
    """Types of the states of all members there ever were."""
    tagged = FlowRunFilter(tags=FlowRunFilterTags(all_=["trimtab-gang"]))
    ours = [
        run
        for run in pool.client.read_flow_runs(flow_run_filter=tagged)
        if run.parameters["folder"] == str(pool.folder)
    ]
    return [run.state_type.value for run in ours if run.state_type]


def test_all_ranks_meet_and_the_loss_of_one_starts_all_again(pool: Pool) -> None:
    deployment = pool.deploy("gang", "gang_flow.py:gang", cpus=1, nodes=2)
    pool.worker("a", node_cpus=1)
    wide = pool.run(deployment, seconds=2)
    shown = pool.await_state(wide, "NoNodeFits", 90)
    assert shown.state
    pool.worker("b", node_cpus=1)
    pool.await_state(wide, "Completed", 90)
    assert (pool.folder / "sum").read_text() == "1"
    assert sorted(str(one["node"]) for one in met(pool)) == ["a", "b"]
    until(lambda: members(pool) == ["COMPLETED"], 30, f"the member has ended too: {members(pool)}")
    (pool.folder / "gang.jsonl").unlink()
    broken = pool.run(deployment, seconds=8)
    started = until(lambda: met(pool) if len(met(pool)) == 2 else None, 60, "both have started")
    os.kill(next(int(one["pid"]) for one in started if one["rank"] == 1), signal.SIGKILL)
    again = pool.await_state(broken, "Completed", 120)
    assert again.labels["trimtab.started-again.GangBroken"] == 1
    assert len(met(pool)) == 4, "all were started again"
    until(lambda: set(members(pool)) <= {"COMPLETED", "CANCELLED", "CRASHED"}, 30, f"nobody is left: {members(pool)}")


def test_a_member_that_fails_by_itself_fails_the_gang_and_one_that_is_lost_does_not(pool: Pool) -> None:
    deployment = pool.deploy("gang", "gang_flow.py:gang", cpus=1, nodes=2)
    pool.worker("a", node_cpus=1)
    pool.worker("b", node_cpus=1)
    run_id = pool.run(deployment, seconds=1, parameters={"fail_rank": 1})
    failed = pool.await_state(run_id, "GangFailed", 120)
    assert failed.state
    assert "this rank has no data" in str(failed.state.message)
    until(lambda: not list(pool.folder.glob("host-*/*.json")), 30, "nothing is held")
    (pool.folder / "gang.jsonl").unlink()
    run_id = pool.run(deployment, seconds=1, parameters={"lose_rank": 1})
    again = pool.await_state(run_id, "Completed", 120)
    assert again.labels["trimtab.started-again.GangBroken"] == 1
    states = {state.name: str(state.message) for state in pool.client.read_flow_run_states(again.id)}
    assert "Failed" in states or "Crashed" in states, "rank 0 failed by itself, unless it was told to stop before"
    assert "rank-1 was lost (crashed)" in states["GangBroken"]
    assert (pool.folder / "sum").read_text() == "1"
