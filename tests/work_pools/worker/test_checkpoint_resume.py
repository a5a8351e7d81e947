"""A real training loop under real workers: told to stop, killed, and bit for bit what it would have been."""

from __future__ import annotations

import json
import os
import signal

from .conftest import Pool, until


def steps(pool: Pool) -> list[dict[str, int]]:
    path = pool.folder / "steps.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_a_training_goes_on_from_its_checkpoint(pool: Pool) -> None:
    deployment = pool.deploy("training", "training_flow.py:training", cpus=1, preemptible=True)
    worker = pool.worker("a", node_cpus=1)
    whole = pool.run(deployment, seconds=0.1)
    pool.await_state(whole, "Completed", 90)
    expected = (pool.folder / "weights").read_bytes()
    for name in ("weights", "steps.jsonl"):
        (pool.folder / name).unlink()
    run_id = pool.run(deployment, seconds=12)
    until(lambda: len(steps(pool)) > 25, 60, "it is under way")
    worker.send_signal(signal.SIGTERM)
    worker.wait(60)
    assert pool.state(run_id).state_name == "Preempted"
    stopped = len(steps(pool))
    pool.worker("b", node_cpus=1)
    until(lambda: len(steps(pool)) > stopped + 25, 60, "it goes on elsewhere")
    assert [one["step"] for one in steps(pool)][: stopped + 1] == list(range(stopped + 1)), "no step was done twice"
    os.kill(steps(pool)[-1]["pid"], signal.SIGKILL)
    pool.await_state(run_id, "Completed", 120)
    done = [one["step"] for one in steps(pool)]
    assert sorted(set(done)) == list(range(120))
    assert len(done) - 120 <= 20, "after a kill, what was done since the last save is done again"
    assert (pool.folder / "weights").read_bytes() == expected
