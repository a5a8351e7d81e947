"""Whatever Prefect's own process worker does right, ours does right: each scenario runs on both, against one server.

Neither is given anything that the other is not. What the stock worker gets wrong is not in here.
"""

from __future__ import annotations

import time
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest
from prefect.client.schemas.objects import FlowRun
from prefect.states import Cancelling, Scheduled

from .conftest import Floor, until

pytestmark = pytest.mark.timeout(300)

CANCELLED_WITHIN_S = 45.0
"""A child that takes no signal is given 30 s by the stock worker."""


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


# --- a run's life ---


def test_a_run_completes(floor: Floor) -> None:
    run_id = floor.run(floor.deploy("plain"))
    run = floor.becomes(run_id, "COMPLETED")
    assert [line["what"] for line in floor.lines(run_id)] == ["start", "end"]
    assert run.infrastructure_pid


@pytest.mark.parametrize(
    ("how", "state", "said"), [("exit", "CRASHED", "3"), ("raise", "FAILED", "a reason of its own")]
)
def test_an_end_says_why(floor: Floor, how: str, state: str, said: str) -> None:
    run = floor.becomes(floor.run(floor.deploy("leaves"), how=how), state)
    assert run.state
    assert said in str(run.state.message)


@pytest.mark.parametrize(
    "entrypoint", ["nowhere.py:flow", "floor_flow.py:nobody", "no.such.module:flow"], ids=["file", "name", "module"]
)
def test_a_bad_entrypoint_ends_the_run_and_not_the_worker(floor: Floor, entrypoint: str) -> None:
    run_id = floor.run(floor.deploy("plain", entrypoint=entrypoint))
    run = until(lambda: (found := floor.state(run_id)).state and found.state.is_final() and found, 60, "an end")
    assert run.state_type.value in ("FAILED", "CRASHED")
    assert run.state.message
    floor.becomes(floor.run(floor.deploy("plain")), "COMPLETED")


@pytest.mark.long
def test_a_bad_pull_step_ends_the_run(floor: Floor) -> None:
    bad = {"prefect.deployments.steps.set_working_directory": {"directory": "/no/such/folder"}}
    run_id = floor.run(floor.deploy("plain", pull=[bad]))
    until(lambda: (found := floor.state(run_id)).state and found.state.is_final(), 60, "an end")
    assert "/no/such/folder" in floor.logs(whole=True), "in the run's own log, too"


@pytest.mark.long
def test_a_command_of_ones_own_is_what_runs(floor: Floor) -> None:
    mark = floor.folder / f"{uuid.uuid4().hex}.mark"
    deployment = floor.deploy("plain", job_variables={"command": f"sh -c 'echo $PREFECT__FLOW_RUN_ID > {mark}'"})
    run_id = floor.run(deployment)
    assert until(lambda: mark.exists() and mark.read_text().strip(), 60, "the command's mark") == run_id


def test_variables_of_pool_deployment_and_run_reach_it(floor: Floor) -> None:
    """The environment is merged key by key, the nearer wins; the pool's defaults count where nobody says otherwise."""
    template = floor.client.read_work_pool(floor.name).base_job_template
    before = template["variables"]["properties"]["env"].get("default")
    template["variables"]["properties"]["env"]["default"] = {"FLOOR_POOL": "pool", "FLOOR_BOTH": "pool"}
    template["variables"]["properties"]["working_dir"]["default"] = str(floor.folder)
    floor.change(base_job_template=template)
    try:
        until(lambda: _template_seen(floor), 60, "a template that the worker knows")
        env = {"FLOOR_DEPLOYMENT": "deployment", "FLOOR_BOTH": "deployment"}
        run_id = floor.run(
            floor.deploy("plain", job_variables={"env": env}),
            more={"job_variables": {"env": {"FLOOR_RUN": "run", "FLOOR_BOTH": "run"}}},
        )
        given = floor.started(run_id)
    finally:
        template["variables"]["properties"]["env"]["default"] = before or {}
        template["variables"]["properties"]["working_dir"]["default"] = None
        floor.change(base_job_template=template)
    assert given["FLOOR_BOTH"] == "run"
    assert given["FLOOR_RUN"] == "run"


def _template_seen(floor: Floor) -> bool:
    """Whether a run is given the pool's default: a worker reads its pool now and then."""
    run_id = floor.run(floor.deploy("plain"))
    floor.becomes(run_id, "COMPLETED")
    return floor.lines(run_id)[0]["FLOOR_POOL"] == "pool"


# --- cancelling ---


def cancelled(floor: Floor, run_id: str) -> FlowRun:
    began_s = time.monotonic()
    floor.cancel(run_id)
    run = floor.becomes(run_id, "CANCELLED", 90)
    assert time.monotonic() - began_s < CANCELLED_WITHIN_S
    return run


@pytest.mark.long
def test_cancelled_while_it_is_scheduled(empty: Floor) -> None:
    run_id = empty.run(empty.deploy("plain"))
    empty.client.set_flow_run_state(uuid.UUID(run_id), Cancelling())
    empty.becomes(run_id, "CANCELLED")
    empty.worker()
    empty.becomes(empty.run(empty.deploy("plain")), "COMPLETED", 90)
    assert not empty.lines(run_id)


def test_cancelled_while_it_is_pending(floor: Floor) -> None:
    (floor.folder / "pulling").unlink(missing_ok=True)
    step = {"floor_flow.slow_step": {"folder": str(floor.folder), "seconds": 20}}
    run_id = floor.run(floor.deploy("plain", pull=[step]))
    until((floor.folder / "pulling").exists, 60, "the pull step")
    cancelled(floor, run_id)
    assert not floor.lines(run_id)


def test_cancelled_while_it_runs(floor: Floor) -> None:
    run_id = floor.run(floor.deploy("plain"), seconds=600)
    pid = floor.started(run_id)["pid"]
    cancelled(floor, run_id)
    until(lambda: gone(pid), 10, "the end of its process")


def test_the_hook_of_a_cancelled_run_is_called(floor: Floor) -> None:
    run_id = floor.run(floor.deploy("hooked"), seconds=600)
    floor.started(run_id)
    cancelled(floor, run_id)
    until((floor.folder / f"{run_id}.cancelled").exists, 20, "the hook")


@pytest.mark.long
def test_cancelled_while_it_waits_to_try_again(floor: Floor) -> None:
    run_id = floor.run(floor.deploy("tries_again"))
    floor.started(run_id)
    until(lambda: floor.state(run_id).state_name == "AwaitingRetry", 30, "a second try")
    cancelled(floor, run_id)
    assert len(floor.lines(run_id, "start")) == 1


@pytest.mark.parametrize("kind", ["plain", "deaf"])
def test_the_children_of_a_cancelled_run_end(floor: Floor, kind: str) -> None:
    run_id = floor.run(floor.deploy("parent"), kind=kind, seconds=600)
    child = floor.started(run_id)["child"]
    cancelled(floor, run_id)
    until(lambda: gone(child), 20, "the end of its child")


def test_a_run_that_takes_no_signal_is_ended_all_the_same(floor: Floor) -> None:
    run_id = floor.run(floor.deploy("parent"), kind="plain", seconds=600, deaf=True)
    found = floor.started(run_id)
    cancelled(floor, run_id)
    until(lambda: gone(found["pid"]) and gone(found["child"]), 20, "the end of its processes")


# --- limits ---


def at_once(floor: Floor, runs: list[str], what: tuple[str, str] = ("start", "end"), within_s: float = 120) -> int:
    """How many of the runs were at work at the same time, from what they wrote down themselves."""
    for run_id in runs:
        floor.becomes(run_id, "COMPLETED", within_s)
    spans = [(floor.lines(run, what[0])[0]["at_s"], floor.lines(run, what[1])[0]["at_s"]) for run in runs]
    return max(sum(start <= begin < end for start, end in spans) for begin, _ in spans)


def two_workers(floor: Floor) -> None:
    floor.worker()
    floor.worker()


def test_the_limit_of_a_pool_holds_over_two_workers(empty: Floor) -> None:
    empty.change(concurrency_limit=1)
    runs = [empty.run(empty.deploy("plain"), seconds=1.0) for _ in range(4)]
    two_workers(empty)
    assert at_once(empty, runs) == 1


def test_the_limit_of_a_queue_holds_over_two_workers(empty: Floor) -> None:
    queue = empty.client.create_work_queue(name="narrow", work_pool_name=empty.name, concurrency_limit=1)
    narrow = empty.deploy("plain", work_queue_name=queue.name)
    wide = empty.deploy("plain")
    runs = [empty.run(narrow, seconds=1.0) for _ in range(3)]
    others = [empty.run(wide, seconds=600) for _ in range(2)]
    two_workers(empty)
    for run_id in others:  # both at once: the limit is of its own queue only
        empty.started(run_id)
    for run_id in others:
        empty.enough(run_id)
    assert at_once(empty, runs) == 1


@pytest.mark.long
def test_limits_hold_in_a_storm(empty: Floor) -> None:
    """Runs come while others end, over three workers: never more than 3 of the pool, never more than 1 of a queue."""
    empty.change(concurrency_limit=3)
    queue = empty.client.create_work_queue(name="narrow", work_pool_name=empty.name, concurrency_limit=1)
    narrow, wide = empty.deploy("plain", work_queue_name=queue.name), empty.deploy("plain")
    for _ in range(3):
        empty.worker()
    runs = {empty.run(narrow if number % 3 else wide, seconds=0.3): number % 3 for number in range(24)}
    assert at_once(empty, list(runs)) <= 3
    assert at_once(empty, [run_id for run_id, of_queue in runs.items() if of_queue]) == 1


def test_the_limit_of_a_worker_holds(empty: Floor) -> None:
    runs = [empty.run(empty.deploy("plain"), seconds=1.0) for _ in range(5)]
    empty.worker("--limit", "2")
    assert at_once(empty, runs, within_s=60) <= 2


@pytest.mark.long
def test_the_limit_of_a_deployment_holds_over_two_workers(empty: Floor) -> None:
    deployment = empty.deploy("plain", concurrency_limit=1)
    two_workers(empty)
    runs = [empty.run(deployment, seconds=1.0) for _ in range(2)]
    assert at_once(empty, runs) == 1


@pytest.mark.long
def test_the_limit_of_a_tag_holds(floor: Floor) -> None:
    floor.client.create_concurrency_limit(tag="floor-tag", concurrency_limit=1)
    try:
        runs = [floor.run(floor.deploy("of_tasks"), seconds=1.0) for _ in range(2)]
        assert at_once(floor, runs, ("task start", "task end")) == 1
    finally:
        floor.client.delete_concurrency_limit_by_tag("floor-tag")


@pytest.mark.long
def test_a_global_limit_holds(floor: Floor) -> None:
    name = f"floor-{uuid.uuid4().hex[:6]}"
    floor.client._client.post("/v2/concurrency_limits/", json={"name": name, "limit": 1})
    runs = [floor.run(floor.deploy("in_turn"), limit=name, seconds=1.0) for _ in range(2)]
    assert at_once(floor, runs) == 1


# --- pause and resume ---


def test_a_paused_pool_starts_nothing_until_it_goes_on(empty: Floor) -> None:
    empty.change(is_paused=True)
    run_id = empty.run(empty.deploy("plain"))
    empty.worker()
    until(lambda: empty.client.read_workers_for_work_pool(empty.name), 60, "a worker")
    time.sleep(4)  # three polls: that nothing happens is no event
    assert empty.state(run_id).start_time is None
    empty.change(is_paused=False)
    empty.becomes(run_id, "COMPLETED", 60)


def test_a_paused_queue_starts_nothing_until_it_goes_on(floor: Floor) -> None:
    queue = floor.client.create_work_queue(name=f"q-{uuid.uuid4().hex[:6]}", work_pool_name=floor.name)
    floor.client.update_work_queue(queue.id, is_paused=True)
    run_id = floor.run(floor.deploy("plain", work_queue_name=queue.name))
    floor.becomes(floor.run(floor.deploy("plain")), "COMPLETED")
    assert floor.state(run_id).start_time is None
    floor.client.update_work_queue(queue.id, is_paused=False)
    floor.becomes(run_id, "COMPLETED", 60)


@pytest.mark.long
def test_a_run_whose_deployment_was_deleted_does_not_run(empty: Floor) -> None:
    deployment = empty.deploy("plain")
    run_id = empty.run(deployment)
    empty.client.delete_deployment(deployment)
    empty.worker()
    empty.becomes(empty.run(empty.deploy("plain")), "COMPLETED", 90)
    assert not empty.lines(run_id)


# --- the worker's own life ---


@pytest.mark.long
def test_a_worker_that_is_started_again_takes_what_came_meanwhile(empty: Floor) -> None:
    first = empty.worker()
    empty.becomes(empty.run(empty.deploy("plain")), "COMPLETED", 90)
    first.terminate()
    assert first.wait(30) == 0, "a worker that was stopped has not failed"
    run_id = empty.run(empty.deploy("plain"))
    empty.worker()
    empty.becomes(run_id, "COMPLETED", 90)


@pytest.mark.long
def test_a_worker_for_one_round_ends_with_it(empty: Floor) -> None:
    run_id = empty.run(empty.deploy("plain"), seconds=0.5)
    worker = empty.worker("--run-once")
    assert worker.wait(90) == 0
    assert empty.state(run_id).state_type.value == "COMPLETED"


@pytest.mark.long
def test_a_run_due_later_is_not_started_before(empty: Floor) -> None:
    empty.worker("--prefetch-seconds", "0")
    empty.becomes(empty.run(empty.deploy("plain")), "COMPLETED", 90)
    due = datetime.now(UTC) + timedelta(seconds=8)
    made = empty.client.create_flow_run_from_deployment(
        empty.deploy("plain"), parameters={"folder": str(empty.folder)}, state=Scheduled(scheduled_time=due)
    )
    run = empty.becomes(str(made.id), "COMPLETED", 60)
    assert run.start_time
    assert run.start_time >= due


@pytest.mark.long
def test_what_a_run_prints_is_in_the_workers_output(empty: Floor) -> None:
    deployment = empty.deploy("plain", job_variables={"command": "sh -c 'echo said-by-the-run; exit 0'"})
    empty.worker()
    empty.run(deployment)
    until(lambda: "said-by-the-run" in Path(empty.folder / "worker-0.log").read_text(), 60, "what the run prints")
