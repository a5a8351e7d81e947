"""From announcements to runs on real servers: two that ask for the same, a question that is open, a person's no."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.states import Cancelled, Cancelling, Scheduled

from trimtab_flows import tracking
from trimtab_flows.answers import answer_of
from trimtab_flows.automations import RETRAIN_REQUESTED, RetrainRequested
from trimtab_flows.dispatch import dispatch
from trimtab_flows.retrain_runs import open_questions, runs_of
from trimtab_flows.settle import (
    LOST_AFTER_S,
    _again,
    announce,
    cancel_waiting,
    is_acted_on,
    is_at_an_end,
    runs_for,
)
from trimtab_flows.waiting import take_over

pytestmark = pytest.mark.usefixtures("environment")

#: Its deployments are there; the recipe is not, and the runs are never started: they are for later.
MODEL, RECIPE = "flights", "nowhere:recipe"
LATER = (datetime.now(UTC) + timedelta(days=30)).isoformat()


@pytest.fixture
def client() -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as opened:
        yield opened


@pytest.fixture
def decided(client: SyncPrefectClient) -> Iterator[Callable[[str], str]]:
    """Puts a decision on record in MLflow; what came of it is gone after the test."""
    where, made = tracking.experiment_id(tracking.monitoring_experiment(MODEL)), []

    def put(key: str) -> str:
        made.append((key, tracking.client().create_run(where, tags={"trimtab.key": key, "trimtab.done": "yes"})))
        return key

    yield put
    for key, run in made:
        tracking.client().delete_run(run.info.run_id)
        for each in runs_of(key):
            client.set_flow_run_state(each.id, Cancelled(message="the test has ended"))


def test_two_decisions_for_the_same_windows_at_once_have_one_run(decided: Callable[[str], str]) -> None:
    """As a monitoring and a decide flow that end in the same second announce them."""
    keys = [decided(f"at once {each}") for each in range(4)]
    with ThreadPoolExecutor(4) as threads:
        # Which server it is, is in the context.
        asked = [threads.submit(copy_context().run, dispatch, RECIPE, "2013-01", key, MODEL, at=LATER) for key in keys]
        runs = {each.result() for each in asked}
    assert len(runs) == 1
    (first,) = [key for key in keys if runs_of(key)]
    answers = {key: answer_of(MODEL, key) for key in keys}
    assert answers.pop(first) is None
    assert [(answer and (answer.kind, answer.by)) for answer in answers.values()] == [("joined", first)] * 3
    assert {str(run.id) for key in keys for run in runs_for(MODEL, key)} == runs
    assert dispatch(RECIPE, "2013-01", first, MODEL, at=LATER) in runs
    other = dispatch(RECIPE, "2013-01..2013-02", decided("of more windows"), MODEL, at=LATER)
    sooner = dispatch(
        RECIPE, "2013-01", decided("sooner"), MODEL, at=(datetime.now(UTC) + timedelta(days=9)).isoformat()
    )
    assert len({*runs, other, sooner}) == 3


def test_what_nothing_came_of_is_another_event_in_time(decided: Callable[[str], str]) -> None:
    request = RetrainRequested(MODEL, RECIPE, "2013-05", decided("lost"), ("a test",), at=LATER)
    assert request.event_id == replace(request, again=0).event_id
    assert len({replace(request, again=again).event_id for again in (0, 1, 2)}) == 3
    assert replace(request, again=3).payload == request.payload
    assert (_again(request), _again(replace(request, decision="of no record"))) == (0, 0)
    run = tracking.find_run(tracking.monitoring_experiment(MODEL), "lost")
    assert run is not None
    long_ago = int(time.time() * 1000) - 3 * LOST_AFTER_S * 1000
    tracking.client().set_terminated(run.info.run_id, end_time=long_ago)
    assert _again(request) == 3


def wait_for(look: Callable[[], Any], what: str, within_s: float = 90) -> Any:
    end = time.monotonic() + within_s
    while not (found := look()):
        assert time.monotonic() < end, what
        time.sleep(0.2)
    return found


def announcements(client: SyncPrefectClient, decision: str) -> int:
    body = {"filter": {"event": {"name": [RETRAIN_REQUESTED]}, "resource": {"id": [f"trimtab.model.{MODEL}"]}}}
    events = client.request("POST", "/events/filter", json=body).json()["events"]
    return sum(event["payload"]["decision"] == decision for event in events)


@pytest.mark.long
@pytest.mark.timeout(300)
def test_one_question_is_asked_and_a_no_is_kept(client: SyncPrefectClient, decided: Callable[[str], str]) -> None:
    key = decided("to be approved")
    request = RetrainRequested(MODEL, RECIPE, "2013-03", key, ("a test",), at=LATER, needs_approval=True)
    announce(request)

    def paused() -> list[Any]:
        return [run for run in asked() if run.state is not None and run.state.is_paused()]

    def asked() -> list[Any]:
        return [run for run in open_questions(client, MODEL) if run.parameters["decision"] == key]

    (question,) = wait_for(paused, "the question")
    # Half an hour later Prefect would take the same event again: a second run then, as it would make of it.
    parameters = {**question.parameters}
    second = client.create_flow_run_from_deployment(question.deployment_id, parameters=parameters)
    ended = wait_for(lambda: _ended(client, second.id), "the end of the second")
    assert ended.is_completed()
    assert [run.id for run in asked()] == [question.id]
    announce(request)
    asyncio.run(_answer(question.id, approve=False))
    assert wait_for(lambda: _ended(client, question.id), "the end of the question").is_completed()
    answer = answer_of(MODEL, key)
    assert answer is not None
    assert (answer.kind, answer.by, is_at_an_end(MODEL, key)) == ("refused", "a test", True)
    announce(request)
    third = client.create_flow_run_from_deployment(question.deployment_id, parameters=parameters)
    assert wait_for(lambda: _ended(client, third.id), "the end of the third").is_completed()
    assert (runs_for(MODEL, key), asked(), announcements(client, key)) == ([], [], 1)


@pytest.mark.long
@pytest.mark.timeout(300)
def test_an_order_takes_a_question_back(client: SyncPrefectClient, decided: Callable[[str], str]) -> None:
    key = decided("to be overtaken")
    announce(RetrainRequested(MODEL, RECIPE, "2013-04", key, ("a test",), at=LATER, needs_approval=True))
    (question,) = wait_for(
        lambda: [run for run in open_questions(client, MODEL) if run.state and run.state.is_paused()], "the question"
    )
    assert question.id in [run.id for run in cancel_waiting(MODEL, "forbid")]
    answer = answer_of(MODEL, key)
    assert answer is not None
    assert (answer.kind, answer.by) == ("overtaken", "forbid")
    assert client.read_flow_run(question.id).state_name == "Cancelled"


@pytest.mark.parametrize("approval", [True, False])
def test_a_dispatch_run_that_a_person_cancels_is_a_no(
    client: SyncPrefectClient, decided: Callable[[str], str], approval: bool
) -> None:
    """As the Prefect UI cancels; the run is for later, so that no worker takes it in this test."""
    key = decided(f"to be cancelled, approval {approval}")
    request = RetrainRequested(MODEL, RECIPE, "2013-06", key, ("a test",), at=LATER, needs_approval=approval)
    deployment = client.read_deployment_by_name(f"dispatch/{MODEL}")
    parameters = {name: value for name, value in request.payload.items() if name != "reasons"}
    question = client.create_flow_run_from_deployment(
        deployment.id, parameters=parameters, state=Scheduled(scheduled_time=datetime.now(UTC) + timedelta(days=1))
    )
    assert not is_at_an_end(MODEL, key)
    client.set_flow_run_state(question.id, Cancelling())
    assert client.read_flow_run(question.id).state_name == "Cancelled"
    assert is_acted_on(MODEL, key, "later")
    assert is_at_an_end(MODEL, key)
    answer = answer_of(MODEL, key)
    assert answer is not None
    assert (answer.kind, str(answer)) == ("refused", "a person said no")
    announce(request)
    assert announcements(client, key) == 0


def test_a_decide_run_takes_over_those_that_wait_to_ask_the_same(client: SyncPrefectClient) -> None:
    deployment = client.read_deployment_by_name(f"decide/{MODEL}")
    soon, made = datetime.now(UTC) + timedelta(hours=1), []

    def waits(because: str, after: timedelta = timedelta(0), **parameters: Any) -> Any:
        run = client.create_flow_run_from_deployment(
            deployment.id,
            parameters={"because": because, **parameters},
            state=Scheduled(scheduled_time=soon + after),
        )
        made.append(run.id)
        return run.id

    ours, same = waits("a metric", policy=None), {waits("another metric"), waits("drift with labels", order=None)}
    left = [
        waits("the business", order={"kind": "forbid"}),
        waits("a metric", policy="another"),
        waits("a metric that has not come yet", after=timedelta(hours=2)),
    ]
    try:
        taken = take_over(str(ours), now=soon + timedelta(hours=1))
        assert {run.id for run in taken} == same
        assert {client.read_flow_run(each).state_name for each in same} == {"Cancelled"}
        assert {client.read_flow_run(each).state_name for each in (ours, *left)} == {"Scheduled"}
        assert take_over(None) == []
    finally:
        for each in made:
            client.delete_flow_run(each)


def _ended(client: SyncPrefectClient, run_id: Any) -> Any:
    state = client.read_flow_run(run_id).state
    return state if state is not None and state.is_final() else None


async def _answer(run_id: Any, approve: bool) -> None:
    async with get_client() as client:
        await client.resume_flow_run(run_id, run_input={"approve": approve, "by": "a test"})
