"""A run on several nodes, under real workers that each have one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from datetime import datetime
from uuid import UUID

import psutil
import pytest
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags
from prefect.client.schemas.objects import FlowRun
from prefect.states import Cancelled

from .conftest import Pool, until


def met(pool: Pool) -> list[dict[str, int | str]]:
    path = pool.folder / "gang.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def member_runs(pool: Pool) -> list[FlowRun]:
    """All there ever were."""
    tagged = FlowRunFilter(tags=FlowRunFilterTags(all_=["trimtab-gang"]))
    found = pool.client.read_flow_runs(flow_run_filter=tagged)
    return [run for run in found if run.parameters["folder"] == str(pool.folder)]


def members(pool: Pool) -> list[str]:
    """Types of the states of all members there ever were."""
    return [run.state_type.value for run in member_runs(pool) if run.state_type]


def times(pool: Pool, run_id: str | UUID) -> dict[str, datetime]:
    """When a run came into each state, by its name."""
    return {state.name: state.timestamp for state in pool.client.read_flow_run_states(UUID(str(run_id))) if state.name}


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
    (member,), leader = [times(pool, run.id) for run in member_runs(pool)], times(pool, wide)
    assert leader["Gathering"] < member["Reserved"] < leader["GangStarts"], "the word is given when all hold theirs"
    assert leader["GangStarts"] < min(leader["Running"], member["Running"]), "and nobody begins before"
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


def freeze(worker: subprocess.Popen[str]) -> list[psutil.Process]:
    """A worker that looks to its peers as if it were there, and does nothing."""
    found = [psutil.Process(worker.pid), *psutil.Process(worker.pid).children(recursive=True)]
    for process in found:
        process.send_signal(signal.SIGSTOP)
    return found


def gathering(pool: Pool) -> tuple[str, list[psutil.Process]]:
    """A gang whose rank 0 holds its node, and whose other member's worker is frozen."""
    deployment = pool.deploy("gang", "gang_flow.py:gang", cpus=1, nodes=2)
    workers = {name: pool.worker(name, node_cpus=1) for name in ("a", "b")}
    first = pool.run(deployment, seconds=0)
    pool.await_state(first, "Completed", 90)
    leader = next(str(one["node"]) for one in met(pool) if one["rank"] == 0)
    (pool.folder / "gang.jsonl").unlink()
    until(lambda: not list(pool.folder.glob("host-*/*.json")), 30, "nothing is held")
    frozen = freeze(next(worker for name, worker in workers.items() if name != leader))
    run_id = pool.run(deployment, seconds=0)
    pool.await_state(run_id, "Gathering", 30)
    return run_id, frozen


def test_a_gang_that_is_cancelled_while_it_gathers_lets_all_go(pool: Pool) -> None:
    run_id, frozen = gathering(pool)
    try:
        pool.client.set_flow_run_state(UUID(run_id), Cancelled(), force=True)
        until(lambda: not list(pool.folder.glob("host-*/*.json")), 10, "what it held is free")
        until(lambda: set(members(pool)) == {"COMPLETED", "CANCELLED"}, 10, f"the member too: {members(pool)}")
        assert met(pool) == [], "no rank began"
        assert pool.state(run_id).state_name == "Cancelled"
    finally:
        for process in frozen:
            process.send_signal(signal.SIGCONT)


@pytest.mark.long
def test_a_gang_one_of_whose_nodes_is_not_to_be_had_lets_the_others_go_and_comes_back(pool: Pool) -> None:
    run_id, frozen = gathering(pool)
    try:
        states = pool.client.read_flow_run_states

        def given_up() -> bool:  # why it waits now is said soon after
            return any("rank-1 had no place within 30 s" in str(one.message) for one in states(UUID(run_id)))

        until(given_up, 60, "a gang that lets its nodes go")
        until(lambda: not list(pool.folder.glob("host-*/*.json")), 10, "what it held is free")
        assert met(pool) == [], "no rank began"
    finally:
        for process in frozen:
            process.send_signal(signal.SIGCONT)
    pool.await_state(run_id, "Completed", 90)
    assert len(met(pool)) == 2
    assert (pool.folder / "sum").read_text() == "1"
