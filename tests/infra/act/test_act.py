"""From events to runs on a stack of its own: the storm, approval, a later time, age, and orders of the business."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from trimtab_infra.init import write
from trimtab_infra.stack.stack import Stack

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

RECIPE, MODEL = "trimtab_infra.bench.act_recipe:steady", "steady"


def test_a_storm_of_metrics_makes_one_retraining(outside: dict[str, str]) -> None:
    command = [sys.executable, "-m", "trimtab_infra", "bench", "act"]
    options = ["--rounds", "1", "--points", "300", "--over-s", "20"]
    done = subprocess.run([*command, *options], env=outside, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    figures = json.loads(done.stdout)
    print(figures)
    storm = figures["storm"]
    assert (storm["events"], storm["dispatch"], storm["retrain"]) == (300, 1, 1)
    assert 1 <= storm["decided"] <= 6
    assert figures["metric_to_s"]["retrain_started"]["max"] < 120


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A stack with a model whose first window was monitored, and this process as its client."""
    import os

    from prefect.context import SettingsContext, get_settings_context
    from prefect.settings import Settings

    folder = tmp_path_factory.mktemp("act")
    write(folder, RECIPE, MODEL)
    stack = Stack(folder / "state", folder)
    before = dict(os.environ)
    with ExitStack() as cleaning:
        cleaning.callback(stack.down)
        stack.up(print)
        os.environ.update(stack.environment())
        cleaning.callback(lambda: (os.environ.clear(), os.environ.update(before)))
        cleaning.enter_context(SettingsContext(profile=get_settings_context().profile, settings=Settings()))
        yield


@pytest.fixture(scope="module")
def bench(environment: None) -> Iterator[Any]:
    from prefect.client.orchestration import get_client

    from trimtab_infra.bench.act_run import Bench

    with get_client(sync_client=True) as client:
        made = Bench(client)
        made.prepare(gather_s=2)
        yield made


@pytest.fixture
def emit(bench: Any) -> Callable[..., None]:
    """As `prefect event emit` does: no more than a name, the model and a payload."""

    def send(event: str, **payload: str) -> None:
        command = [sys.executable, "-m", "prefect", "event", "emit", event]
        resource = ["--resource-id", f"trimtab.model.{MODEL}", "--payload", json.dumps(payload)]
        done = subprocess.run([*command, *resource], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    return send


def save_policy(**fields: Any) -> None:
    from trimtab_blocks.policy import RetrainPolicy, keep

    keep("bench", RetrainPolicy(max_age=None, cooldown=0, priority="high", **fields))


def newest(bench: Any, flow: str, since: datetime) -> Any:
    from trimtab_infra.bench.act_run import until

    return until(lambda: next(iter(bench.runs(flow, since)), None), f"a run of {flow}")


def completed(bench: Any, run_id: Any) -> None:
    from trimtab_infra.bench.act_run import until

    until(lambda: bench._ended(run_id), "its end")


def test_an_order_from_outside_makes_a_run_with_what_the_policy_asks_for(bench: Any, emit: Callable[..., None]) -> None:
    save_policy(deadline_hours=4)
    began = datetime.now(UTC)
    emit("trimtab.business.force", reason="a new tariff")
    run = newest(bench, "retrain", began)
    assert run.job_variables["resources"]["priority"] == 1
    assert run.job_variables["resources"]["cpus"] == 0.5
    deadline = datetime.fromisoformat(run.job_variables["resources"]["deadline"])
    assert timedelta(hours=3.9) < deadline - began < timedelta(hours=4.1)
    completed(bench, run.id)


def test_what_is_forbidden_waits_and_what_is_withdrawn_goes_on(bench: Any, emit: Callable[..., None]) -> None:
    save_policy()
    began = datetime.now(UTC)
    until = (began + timedelta(days=2)).replace(microsecond=0)
    emit("trimtab.business.postpone", until=until.isoformat())
    bench.quiet(newest(bench, "decide", began).created, 2)
    emit("trimtab.business.force", reason="a new tariff")
    run = newest(bench, "retrain", began)
    assert run.state.state_details.scheduled_time == until
    emit("trimtab.business.withdraw")
    from trimtab_infra.bench.act_run import until as wait_until

    wait_until(lambda: bench._client.read_flow_run(run.id).state.is_cancelled() or None, "its cancellation")


def test_a_person_has_the_say_where_the_policy_asks_for_it(bench: Any, emit: Callable[..., None]) -> None:
    from prefect.client.orchestration import get_client

    from trimtab_infra.bench.act_run import until

    save_policy(needs_approval=True)
    for approve in (False, True):
        began = datetime.now(UTC)
        emit("trimtab.business.force", reason="a test")
        dispatched = newest(bench, "dispatch", began)
        until(lambda run=dispatched: bench._client.read_flow_run(run.id).state.is_paused() or None, "its pause")
        assert bench.runs("retrain", began) == []

        async def answer(run_id: Any, said: bool) -> None:
            async with get_client() as client:
                await client.resume_flow_run(run_id, run_input={"approve": said, "by": "a test"})

        asyncio.run(answer(dispatched.id, approve))
        completed(bench, dispatched.id)
        assert len(bench.runs("retrain", began)) == int(approve)
    completed(bench, newest(bench, "retrain", began).id)


def test_no_retraining_for_long_leads_to_a_decision(bench: Any) -> None:
    """Prefect allows 10 s at the least."""
    from trimtab_flows.automations import rules
    from trimtab_infra.act.automations import apply

    save_policy()
    began = datetime.now(UTC)
    asyncio.run(apply(MODEL, rules(MODEL, RECIPE, "bench", max_age_days=12 / 86400)))
    run = newest(bench, "decide", began)
    asyncio.run(apply(MODEL, rules(MODEL, RECIPE, "bench")))
    assert "no retraining in" in run.parameters["because"]
    completed(bench, run.id)


def test_drift_and_labels_together_lead_to_a_decision(bench: Any, emit: Callable[..., None]) -> None:
    from trimtab_flows.automations import rules
    from trimtab_infra.act.automations import apply

    only = [rule for rule in rules(MODEL, RECIPE, "bench") if "labels" in rule.name]
    asyncio.run(apply(MODEL, only))
    began = datetime.now(UTC)
    emit("trimtab.labels.arrived")
    run = bench._mlflow.create_run(bench._experiment, tags={"trimtab.model": MODEL})
    bench._mlflow.log_metric(run.info.run_id, "drift/psi/x", 0.9)
    decided = newest(bench, "decide", began)
    assert decided.parameters["because"] == "inputs drifted and labels arrived"
