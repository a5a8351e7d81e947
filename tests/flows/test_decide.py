"""Deciding about a model on real servers: orders, what others reported, repeats, approval, later times."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prefect.client.orchestration import get_client

from trimtab_flows import tracking
from trimtab_flows.answers import Answer, answer_of, keep_answer
from trimtab_flows.catalog import NotIngested
from trimtab_flows.decide import NotMonitored, decide
from trimtab_flows.dispatch import merge
from trimtab_flows.drift.decision import Decision, Evidence, InvalidPolicy, InvalidRecord, Policy
from trimtab_flows.drift.decision import decide as decide_on
from trimtab_flows.ingest import ingest
from trimtab_flows.monitor import monitor
from trimtab_flows.order_book import keep_order, orders_of
from trimtab_flows.policies import resolve
from trimtab_flows.retrain import retrain
from trimtab_flows.runtime import NotConfigured
from trimtab_flows.score import score
from trimtab_flows.settle import is_acted_on, is_at_an_end

pytestmark = pytest.mark.usefixtures("environment")

STEADY = "toy_recipe:steady"
MODEL = "toy-steady"


@pytest.fixture(scope="module")
def monitored(environment: dict[str, str]) -> str:
    """A model whose March was monitored, and is well: no decision to retrain."""
    for window in ("2024-01", "2024-02", "2024-03"):
        ingest(STEADY, window)
    retrain(STEADY, "2024-01..2024-02", decision="first")
    score(STEADY, "2024-03")
    found = monitor(STEADY, "2024-03")
    assert found.verdict == "wait"
    return found.run_id


@pytest.fixture(autouse=True)
def no_orders(monitored: str):
    yield
    keep_order(MODEL, {"kind": "withdraw"})


def record(run_id: str, name: str) -> str:
    return json.dumps(tracking.read_json(run_id, f"{name}.json"))


#: A moment soon after March's labels were known.
APRIL = datetime(2024, 4, 3, 12, tzinfo=UTC)
FORCE = {"kind": "force", "issued": "2024-04-03T09:00:00+00:00", "reason": "a test"}
NEVER = {"max_age": None, "cooldown": 0}


def test_a_model_without_a_champion_is_nothing_to_decide_on() -> None:
    with pytest.raises(NotMonitored, match="no version is champion"):
        decide("toy_recipe:never")


def test_monitoring_measures_with_and_without_labels(monitored: str) -> None:
    run = tracking.client().get_run(monitored)
    evidence = Evidence.from_json(record(monitored, "evidence"))
    figures = run.data.metrics
    assert figures["performance/auc_low"] < figures["performance/auc"] < figures["performance/auc_high"]
    assert abs(figures["performance/estimated_auc"] - figures["performance/auc"]) < 0.05
    assert 0.4 < figures["drift/domain/auc"] < 0.6
    assert figures["drift/season/worst_psi"] < 0.1
    assert (evidence.season, evidence.seasonal_performance) == ("rolling", None)
    assert max(value for _, value in evidence.seasonal_psi) == pytest.approx(figures["drift/season/worst_psi"])
    assert evidence.estimated_performance == pytest.approx(figures["performance/estimated_auc"])
    assert evidence.as_of == "2024-04-02T00:00:00+00:00"
    assert (evidence.window_days, evidence.training_rows > 0, evidence.new_labelled_rows) == (31, True, 600)
    kept = {each.path for each in tracking.client().list_artifacts(monitored)}
    assert {"decision.json", "decision.svg", "drift.svg", "drift-rolling.svg", "evidence.json", "policy.json"} <= kept


def test_the_decision_comes_again_from_what_was_recorded(monitored: str) -> None:
    decided = decide(STEADY, NEVER, because="a test", as_of=APRIL)
    assert (decided.verdict, decided.window) == ("wait", "2024-03")
    evidence, policy = (
        Evidence.from_json(record(decided.run_id, "evidence")),
        Policy.from_json(record(decided.run_id, "policy")),
    )
    assert decide_on(evidence, None, policy) == Decision.from_json(record(decided.run_id, "decision"))


def test_the_same_evidence_is_one_decision_however_often_it_is_asked_for(monitored: str) -> None:
    first, second = (decide(STEADY, NEVER, because="a test", as_of=APRIL + timedelta(hours=h)) for h in (0, 5))
    assert first == second


def test_an_order_to_forbid_holds_a_forced_retraining_back_until_it_ends(monitored: str) -> None:
    keep_order(MODEL, {"kind": "force", "issued": "2024-04-03T09:00:00+00:00", "reason": "a new tariff"})
    order = {"kind": "forbid", "issued": "2024-04-03T10:00:00+00:00", "until": "2024-04-10T00:00:00+00:00"}
    decided = decide(STEADY, NEVER, order=order, because="a test", as_of=APRIL)
    assert [each.kind for each in orders_of(MODEL)] == ["force", "forbid"]
    assert (decided.verdict, decided.at) == ("later", "2024-04-10T00:00:00+00:00")
    assert any("a new tariff" in reason for reason in decided.reasons)


def test_an_order_that_is_none_is_refused_by_field(monitored: str) -> None:
    with pytest.raises(InvalidRecord, match="field kind is 'stop'"):
        decide(STEADY, order={"kind": "stop"})
    with pytest.raises(InvalidRecord, match="field until is missing"):
        decide(STEADY, order={"kind": "postpone"})
    assert orders_of(MODEL) == ()


def test_what_others_log_counts(monitored: str) -> None:
    """A plain MLflow client, in an experiment of its own."""
    api = tracking.client()
    run = api.create_run(tracking.experiment_id("somebody-else"), tags={"trimtab.model": MODEL})
    api.log_metric(run.info.run_id, "performance/auc", 0.5)
    few = decide(STEADY, NEVER, because="a test", as_of=APRIL)
    assert few.verdict == "wait"
    assert "0 labelled rows are too few" in few.reasons[0]
    api.log_metric(run.info.run_id, "performance/rows", 5000)
    api.log_metric(run.info.run_id, "drift/psi/prediction", 0.7)
    decided = decide(STEADY, NEVER, because="a test", as_of=APRIL)
    api.delete_run(run.info.run_id)
    assert decided.verdict == "retrain"
    assert "auc 0.5000" in decided.reasons[0]
    # The decision stands until something has come of it.
    assert decide(STEADY, NEVER, because="another", as_of=APRIL) == decided


def test_what_others_log_counts_however_many_runs_there_are(monitored: str) -> None:
    """The runs that say so were begun first; 120 newer ones, of their tag and of their experiment, say nothing."""
    api = tracking.client()
    beside = tracking.experiment_id(tracking.monitoring_experiment(MODEL))
    elsewhere, tags = tracking.experiment_id("somebody-else"), {"trimtab.model": MODEL}
    begun = [api.create_run(elsewhere, tags=tags), api.create_run(beside)]
    for _ in range(60):
        begun += [api.create_run(elsewhere, tags=tags), api.create_run(beside, tags={"trimtab.stage": "nothing"})]
    for run, key, value in ((begun[0], "performance/auc", 0.4), (begun[1], "performance/rows", 4000)):
        api.log_metric(run.info.run_id, key, value)
    decided = decide(STEADY, NEVER, order=FORCE, because="a test", as_of=APRIL)
    for run in begun:
        api.delete_run(run.info.run_id)
    evidence = Evidence.from_json(record(decided.run_id, "evidence"))
    assert (evidence.performance, evidence.labelled_rows) == (0.4, 4000)
    keep_answer(MODEL, decided.decision, Answer("overtaken", "a test"))


def test_a_no_is_what_became_of_a_decision(monitored: str) -> None:
    """It is not announced again, and the model cools down as after a retraining."""
    policy = {**NEVER, "needs_approval": True}
    order = {**FORCE, "issued": "2024-04-03T13:00:00+00:00"}
    asked = decide(STEADY, policy, order=order, because="a test", as_of=APRIL + timedelta(hours=2))
    assert (asked.verdict, asked.needs_approval) == ("retrain", True)
    assert not is_at_an_end(MODEL, asked.decision)
    assert keep_answer(MODEL, asked.decision, Answer("refused", "a test"))
    assert keep_answer(MODEL, asked.decision, Answer("joined", "comes too late"))
    kept = answer_of(MODEL, asked.decision)
    assert kept is not None
    assert (str(kept), is_at_an_end(MODEL, asked.decision)) == ("a test said no", True)
    assert is_acted_on(MODEL, asked.decision, "retrain")
    pays = {**policy, "value_per_point_day": 1000.0, "retrain_cost": 0.01}
    again = decide(STEADY, pays, because="a test", as_of=APRIL + timedelta(hours=3))
    assert (again.verdict, again.reasons[-1][:22]) == ("wait", "No retraining now: the"), again.reasons
    assert not keep_answer(MODEL, "of no decision", Answer("refused"))


def test_a_policy_is_loaded_from_its_block_and_an_unknown_one_is_named(monitored: str) -> None:
    from trimtab_blocks.policy import RetrainPolicy, keep

    assert keep("tests", RetrainPolicy(priority="high", regions=["eu"])) == 1
    assert keep("tests", RetrainPolicy(priority="high", regions=["eu"])) == 1
    assert keep("tests", RetrainPolicy(priority="urgent")) == 2
    assert resolve("tests") == Policy(priority="urgent")
    assert resolve("tests-r1").regions == ("eu",)
    with pytest.raises(NotConfigured, match="no block trimtab-retraining-policy/nobody"):
        resolve("nobody")
    # As the UI saves it, with no more than types to check.
    with get_client(sync_client=True) as client:
        document = client.read_block_document_by_name("tests", "trimtab-retraining-policy")
        for data, said in (({"cooldown": -1}, "field cooldown: "), ({"priority": "extreme"}, "priority is 'extreme'")):
            address = f"/block_documents/{document.id}"
            client.request("PATCH", address, json={"data": data, "merge_existing_data": False}).raise_for_status()
            with pytest.raises(InvalidPolicy, match=f"policy block trimtab-retraining-policy/tests: {said}"):
                resolve("tests")


def test_every_decision_is_an_event(monitored: str) -> None:
    body = {"filter": {"event": {"name": ["trimtab.decision.made"]}, "resource": {"id": [f"trimtab.model.{MODEL}"]}}}
    with get_client(sync_client=True) as client:
        events = client.request("POST", "/events/filter", json=body).json()["events"]
    assert {event["payload"]["verdict"] for event in events} >= {"wait"}


def test_how_a_retraining_ended_is_an_event_with_its_figures(monitored: str) -> None:
    trained = wait_for_event("trimtab.model.trained")
    assert (trained["decision"], trained["outcome"], trained["champion"]) == ("first", "promoted", None)
    assert trained["figures"][0].startswith("auc 0.")
    assert trained["reason"]
    with pytest.raises(NotIngested):
        retrain(STEADY, "2031-01", decision="of nothing")
    failed = wait_for_event("trimtab.retrain.failed")
    assert (failed["decision"], failed["windows"], failed["outcome"]) == ("of nothing", "2031-01", "Failed")
    assert "2031-01" in failed["reason"]


def wait_for_event(name: str) -> dict[str, Any]:
    body = {"filter": {"event": {"name": [name]}, "resource": {"id": [f"trimtab.model.{MODEL}"]}}}
    end = time.monotonic() + 60
    with get_client(sync_client=True) as client:
        while not (events := client.request("POST", "/events/filter", json=body).json()["events"]):
            assert time.monotonic() < end, name
            time.sleep(0.2)
    payload: dict[str, Any] = events[0]["payload"]
    return payload


def test_resources_of_the_policy_lie_over_those_of_the_deployment() -> None:
    asked = {"cpus": 2, "labels": {"disk": ["ssd"], "region": ["us"]}}
    found = merge(asked, {"priority": 3, "labels": {"region": ["eu"]}})
    assert found == {"cpus": 2, "priority": 3, "labels": {"disk": ["ssd"], "region": ["eu"]}}
    assert merge({}, {"priority": 0}) == {"priority": 0}


def test_a_count_of_rows_that_is_none_counts_as_none() -> None:
    from trimtab_flows.reported import _rows

    assert [_rows(figure) for figure in (float("nan"), float("inf"), -3.0, 0.0, 12.0)] == [0, 0, 0, 0, 12]
