"""However a retrain run ends, and whatever of it ever ran, its end is one event; on a real server and worker."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName, FlowFilter, FlowFilterName
from prefect.client.schemas.objects import FlowRun
from prefect.states import Cancelled, Cancelling, Completed, Crashed, Failed, Pending, Running, Scheduled, State

from trimtab_flows.loading import RecipeError
from trimtab_flows.retrain import retrain
from trimtab_flows.retrain_ended import NAME, end_id, retrain_ended

pytestmark = [pytest.mark.usefixtures("environment"), pytest.mark.timeout(400)]

DEPLOYMENT = "retrain/flights"

#: Recipes that fail in their own ways; each is a module of its own.
BROKEN = {
    "syntax_error": "def f(:\n",
    "import_error": "import not_installed_here\n",
    "no_class": "x = 1\n",
    "its_end": "import os\nos._exit(7)\n",
    "slow": "import time\ntime.sleep(300)\n",
}


@pytest.fixture
def client(environment: dict[str, str]) -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as opened:
        yield opened


def eventually(found: Any, what: str, within_s: float = 240) -> Any:
    end = time.monotonic() + within_s
    while not (value := found()):
        assert time.monotonic() < end, what
        time.sleep(0.5)
    return value


def told(client: SyncPrefectClient) -> list[dict[str, Any]]:
    """Events about retrain runs of any recipe that ended."""
    body = {"filter": {"event": {"name": ["trimtab.retrain.failed"]}}, "limit": 50}
    events: list[dict[str, Any]] = client.request("POST", "/events/filter", json=body).json()["events"]
    return events


def change(client: SyncPrefectClient, identity: UUID, **fields: Any) -> None:
    client.request("PATCH", f"/deployments/{identity}", json=fields).raise_for_status()


@pytest.mark.long
def test_every_end_is_told_once(client: SyncPrefectClient, tmp_path: Path) -> None:
    for name, text in BROKEN.items():
        (tmp_path / f"{name}.py").write_text(text)
    deployment = client.read_deployment_by_name(DEPLOYMENT)

    def run(case: str, in_s: float = 0, **parameters: Any) -> FlowRun:
        given = {"recipe": f"{case}:recipe", "windows": "2013-01", "decision": case, **parameters}
        due = Scheduled(scheduled_time=None) if not in_s else Scheduled(scheduled_time=later(in_s))
        variables = {"env": {"PYTHONPATH": str(tmp_path)}, "resources": {"cpus": 0.2, "memory_mib": 256}}
        return client.create_flow_run_from_deployment(
            deployment.id, parameters=given, state=due, job_variables=variables
        )

    (automation,) = client.read_automations_by_name("flights: tell how retrain runs ended")
    change(client, deployment.id, enforce_parameter_schema=False)
    client.pause_automation(automation.id)
    missed = run("missed", in_s=86400)
    client.set_flow_run_state(missed.id, Cancelled(message="while nobody listened"))
    client.resume_automation(automation.id)
    try:
        runs = {case: run(case) for case in ("syntax_error", "import_error", "no_class", "nowhere", "slow", "its_end")}
        runs["not valid"] = run("not valid", recipe="nowhere:recipe", seed="many")
        runs["not begun"] = run("not begun", in_s=86400)
        client.set_flow_run_state(runs["not begun"].id, Cancelled(message="a person said so"))
        slow = runs["slow"].id
        eventually(lambda: client.read_flow_run(slow).state.is_running(), "slow runs")  # type: ignore[union-attr]
        client.set_flow_run_state(slow, Cancelling())
        change(client, deployment.id, entrypoint="trimtab_flows.no_such_module.retrain")
        runs["wrong entrypoint"] = run("wrong entrypoint")
        gone = runs["wrong entrypoint"].id
        eventually(lambda: client.read_flow_run(gone).state.is_final(), "it crashed")  # type: ignore[union-attr]
    finally:
        change(client, deployment.id, entrypoint=deployment.entrypoint, enforce_parameter_schema=True)

    ours = {str(each.id): case for case, each in runs.items()}

    def count() -> Counter[str]:
        return Counter(ours[flow_run] for event in told(client) if (flow_run := event["payload"]["flow_run"]) in ours)

    eventually(lambda: set(count()) == set(runs), f"{set(runs)} are told")
    eventually(lambda: not open_tellers(client), "all that tell have ended")
    assert count() == dict.fromkeys(runs, 1)
    outcomes = {event["payload"]["decision"]: event["payload"]["outcome"] for event in told(client)}
    assert {outcomes[case] for case in ("syntax_error", "import_error", "no_class", "nowhere", "not valid")} == {
        "Failed"
    }
    assert (outcomes["not begun"], outcomes["slow"]) == ("Cancelled", "Cancelled")
    assert {
        event["resource"]["prefect.resource.id"] for event in told(client) if event["payload"]["flow_run"] in ours
    } == {"trimtab.model.flights"}
    said = next(event["payload"]["reason"] for event in told(client) if event["payload"]["decision"] == "syntax_error")
    assert "SyntaxError" in said
    # Told again by hand, it is the same event; and the one that was missed is told with it once it is old enough.
    assert retrain_ended(str(runs["syntax_error"].id)) == "before"

    def found() -> list[dict[str, Any]]:
        retrain_ended(str(runs["syntax_error"].id))
        return [event for event in told(client) if event["payload"]["flow_run"] == str(missed.id)]

    assert len(eventually(found, "the missed one is told", 90)) == 1
    assert count() == dict.fromkeys(runs, 1)


def later(in_s: float) -> Any:
    from datetime import UTC, datetime, timedelta

    return datetime.now(UTC) + timedelta(seconds=in_s)


def open_tellers(client: SyncPrefectClient) -> list[FlowRun]:
    found = client.read_flow_runs(
        flow_filter=FlowFilter(name=FlowFilterName(any_=[NAME])),
        deployment_filter=DeploymentFilter(name=DeploymentFilterName(any_=["flights"])),
    )
    return [run for run in found if run.state is None or not run.state.is_final()]


def test_a_run_of_nobodys_tells_of_itself(client: SyncPrefectClient) -> None:
    with pytest.raises(RecipeError):
        retrain("nowhere_at_all:recipe", "2013-01", decision="by nobody")
    found = eventually(
        lambda: [event for event in told(client) if event["payload"]["decision"] == "by nobody"], "it is told", 30
    )
    assert [event["resource"]["prefect.resource.id"] for event in found] == ["trimtab.recipe.nowhere_at_all:recipe"]
    assert "there is no module 'nowhere_at_all'" in found[0]["payload"]["reason"]


def test_an_end_that_is_explained_later_is_one_and_a_second_try_has_its_own(client: SyncPrefectClient) -> None:
    deployment = client.read_deployment_by_name(DEPLOYMENT)
    due = Scheduled(scheduled_time=later(86400))
    run = client.create_flow_run_from_deployment(deployment.id, parameters={"windows": "2013-01"}, state=due)

    def now(state: State[Any] | None = None) -> UUID:
        if state is not None:
            client.set_flow_run_state(run.id, state, force=True)
        return end_id(client, client.read_flow_run(run.id))

    first = now()
    assert first == now(Pending()) == now(Crashed()) == now(Crashed(name="out_of_memory")) == now(Completed())
    second = now(Scheduled(scheduled_time=later(86400)))
    assert second == now(Running()) == now(Failed()) == now(Cancelled())
    assert second != first
