"""`trimtab bench cost` measures each kind of request, and reckons a fleet's load from how often workers make it."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from trimtab_infra.bench.cost_model import Cost, Load, reckon
from trimtab_work_pools.worker import pace

ROOT = Path(__file__).parent.parent.parent
KINDS = ("sync", "advertise", "queues", "policy", "whole_queue", "stream", "roll_read", "roll_event", "roll_heard")
COSTS = dict.fromkeys((*KINDS, "claim", "event", "event_heard", "event_passed", "news"), Cost(0.01, 0.001, 1000.0))


def rates(workers: int) -> dict[str, float]:
    return {line.kind: line.per_s for line in reckon(COSTS, workers, poll_s=9.0, whole_queue_read_s=0.1).idle}


def test_what_all_ask_together_is_bounded_but_for_advertising() -> None:
    few, many = rates(1_000), rates(10_000)
    grows = {kind for kind in KINDS if many[kind] > few[kind] * 1.01}
    assert grows == {"sync", "advertise", "stream", "roll_heard", "whole_queue"}
    assert (few["queues"], few["policy"], few["roll_read"]) == (10.0, 10.0, 0.2)
    assert reckon(COSTS, 10_000, 9.0, 0.1).news.per_s == reckon(COSTS, 1_000, 9.0, 0.1).news.per_s


def test_the_whole_queue_takes_half_a_core_at_most_until_each_reads_it_every_five_minutes() -> None:
    assert pace.whole_queue_s(4, 0.1, 9.0) == 9.0
    assert 100 * 0.1 / pace.whole_queue_s(100, 0.1, 9.0) == pytest.approx(0.5)
    assert pace.whole_queue_s(10_000, 1.0, 9.0) == 300.0


def test_an_open_stream_is_no_request_and_the_sum_is_that_of_its_lines() -> None:
    load = reckon(COSTS, 100, 9.0, 0.1)
    total = Load.total(load.idle)
    assert total.per_s == pytest.approx(sum(line.per_s for line in load.idle) - 100 - 100 / pace.ROLL_S)
    assert total.server_cores == pytest.approx(sum(line.per_s for line in load.idle) * 0.01)


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.skipif(shutil.which("initdb") is None, reason="PostgreSQL (initdb) is not installed")
def test_a_small_fleet_is_measured(outside: dict[str, str]) -> None:
    options = ["--workers", "20", "--queued", "20", "--seconds", "1"]
    done = subprocess.run(
        ["trimtab", "bench", "cost", *options], capture_output=True, text=True, env=outside, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert found["kinds"].keys() == COSTS.keys()
    assert all(found["kinds"][kind]["server_ms"] > 0 for kind in ("sync", "advertise", "news", "whole_queue", "claim"))
    assert 0 < found["idle"]["server_cores"] < 2
