"""A host that is gone, or only seems to be: its runs start elsewhere, and never run to their end twice."""

from __future__ import annotations

import signal

import psutil
import pytest

from trimtab_work_pools.advertise import Advertisement, fleet_from
from trimtab_work_pools.ledger import Holding
from trimtab_work_pools.lost import superseded, unheld
from trimtab_work_pools.resources import Demand, Node, Placement

from .conftest import Pool, until


def holding(run: str, node: str, started_s: float) -> Holding:
    return Holding(run, Demand(), Placement(node), 0.0, started_s, f"{run} on {node}")


def advertised(name: str, **started_s: float) -> Advertisement:
    holdings = tuple(holding(run, name, since_s) for run, since_s in started_s.items())
    return Advertisement(f"w-{name}", Node(name, 1000, 1000), holdings, 100.0)


def test_a_run_is_lost_when_nobody_holds_it_for_long_enough() -> None:
    since, lost = unheld(["r1", "r2"], [advertised("a", r1=1.0)], {}, 10.0, 60.0)
    assert (since, lost) == ({"r2": 10.0}, [])
    since, lost = unheld(["r1", "r2"], [advertised("a", r1=1.0)], since, 69.0, 60.0)
    assert lost == []
    assert unheld(["r1", "r2"], [], since, 70.0, 60.0) == ({"r1": 70.0, "r2": 10.0}, ["r2"])
    assert unheld(["r2"], [advertised("b", r2=1.0)], since, 80.0, 60.0) == ({}, []), "it is held again"


def test_what_others_were_given_is_given_up() -> None:
    mine = [holding(run, "a", 10.0) for run in ("r1", "r2", "r3")]
    assert superseded(mine, [advertised("b", r1=20.0, r9=20.0)], {"r3"}) == ["r1", "r3"]
    assert superseded(mine, [advertised("b", r1=5.0)], set()) == [], "that is old news"
    assert superseded(mine, [advertised("a", r1=10.0)], set()) == []


def test_a_run_that_two_nodes_hold_does_not_stop_the_planner() -> None:
    fleet = fleet_from([advertised("a", r1=10.0), advertised("b", r1=20.0, r2=5.0)])
    assert {one.run.id: one.parts[0][0] for one in fleet.running} == {"r1": "b", "r2": "b"}


@pytest.mark.long
def test_a_lost_host_s_run_starts_elsewhere_and_the_host_gives_it_up_when_it_is_back(pool: Pool) -> None:
    deployment = pool.deploy("any", cpus=1)
    first = pool.worker("a", node_cpus=1, host_lost_seconds=8)
    run_id = pool.run(deployment, seconds=30)
    pool.await_started(run_id)
    frozen = [psutil.Process(first.pid), *psutil.Process(first.pid).children(recursive=True)]
    second = pool.worker("b", node_cpus=1, host_lost_seconds=8)
    waiting = pool.run(deployment, seconds=1)
    pool.await_state(waiting, "Completed", 90)
    for process in frozen:
        process.send_signal(signal.SIGSTOP)
    again = pool.await_started(run_id, times=2, seconds=120)
    assert again["TRIMTAB_NODE"] == "b"
    for process in frozen:
        process.send_signal(signal.SIGCONT)
    old = pool.lines(run_id)[0]["pid"]
    until(lambda: not psutil.pid_exists(old), 30, "the old process is ended")
    pool.await_state(run_id, "Completed", 120)
    assert [line["what"] for line in pool.lines(run_id)] == ["start", "start", "end"]
    assert pool.lines(run_id)[-1]["pid"] == again["pid"], "it was the new one that came to the end"
    assert pool.state(run_id).labels["trimtab.started-again.LostHost"] == 1
    assert first.poll() is None
    assert second.poll() is None
