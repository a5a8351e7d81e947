"""A worker that is killed at an exact point: its run comes to its end once, and never runs twice at once."""

from __future__ import annotations

import itertools
import signal

import pytest

from .conftest import HERE, Pool, until
from .stopped_worker import POINTS

pytestmark = [pytest.mark.timeout(300), pytest.mark.long]


def runs_once(pool: Pool, run_id: str) -> None:
    lines = pool.lines(run_id)
    assert [line["what"] for line in lines].count("end") == 1, lines
    spans = [line for line in lines if line["what"] in ("start", "end", "TerminationSignal")]
    last_of = {line["pid"]: line["at_s"] for line in spans if "pid" in line}
    starts = [line for line in spans if line["what"] == "start"]
    for before, after in itertools.pairwise(starts):
        assert last_of[before["pid"]] <= after["at_s"], "two processes of one run at once"


@pytest.mark.parametrize("point", [one for one in POINTS if "back" not in one])
def test_a_worker_killed_at_a_point_loses_and_doubles_nothing(pool: Pool, point: str) -> None:
    deployment = pool.deploy("any", cpus=1)
    mark = pool.folder / "mark"
    first = pool.worker("only", node_cpus=1, program=[str(HERE / "stopped_worker.py"), point, str(mark)])
    run_id = pool.run(deployment, seconds=3)
    first.wait(90)
    assert mark.read_text() == point
    pool.worker("only", node_cpus=1)
    pool.await_state(run_id, "Completed", 120)
    after = pool.run(deployment)
    pool.await_state(after, "Completed", 90)
    runs_once(pool, run_id)
    until(lambda: not list((pool.folder / "host-only").glob("*.json")), 30, "claims given back")


@pytest.mark.parametrize("point", ["going back", "gone back"])
def test_a_worker_killed_while_it_drains_loses_and_doubles_nothing(pool: Pool, point: str) -> None:
    deployment = pool.deploy("any", cpus=1, preemptible=True)
    mark = pool.folder / "mark"
    first = pool.worker("only", node_cpus=1, program=[str(HERE / "stopped_worker.py"), point, str(mark)])
    run_id = pool.run(deployment, seconds=3)
    pool.await_started(run_id)
    first.send_signal(signal.SIGTERM)
    first.wait(90)
    assert mark.read_text() == point
    pool.worker("only", node_cpus=1)
    pool.await_state(run_id, "Completed", 120)
    runs_once(pool, run_id)
