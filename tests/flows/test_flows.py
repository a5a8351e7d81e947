"""The flows on real Prefect and MLflow servers, called in this process."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import polars as pl
import pytest
from prefect.client.orchestration import get_client

from trimtab_flows import runtime, tracking
from trimtab_flows.automations import RETRAIN_REQUESTED, RetrainRequested
from trimtab_flows.catalog import NotIngested
from trimtab_flows.contracts.contract import ContractRefused
from trimtab_flows.evaluate import evaluate
from trimtab_flows.history import outcome_of
from trimtab_flows.ingest import ingest
from trimtab_flows.monitor import monitor
from trimtab_flows.promote import NotAllowed, promote
from trimtab_flows.reingest import reingest
from trimtab_flows.replay import NotReplayable, replay
from trimtab_flows.retrain import retrain
from trimtab_flows.retrain_runs import runs_of
from trimtab_flows.score import score
from trimtab_flows.tracking import NoSuchModel
from trimtab_flows.train import train
from trimtab_flows.windows import Window

pytestmark = pytest.mark.usefixtures("environment")

TOY = "toy_recipe:toy"


def wait_for(timeout_s: float) -> Iterator[None]:
    """Another look every fifth of a second, until the time is over: the server has no call that waits."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        yield
        time.sleep(0.2)


@pytest.fixture(scope="module")
def champion(environment: dict[str, str]) -> int:
    """Version of a champion trained on January and February."""
    for window in ("2024-01", "2024-02"):
        ingest(TOY, window)
    return retrain(TOY, "2024-01..2024-02", decision="first").version


def test_ingesting_twice_gives_the_same_snapshots_and_one_entry() -> None:
    first, second = ingest(TOY, "2024-01"), ingest(TOY, "2024-01")
    assert first == second
    assert len(runtime.catalog("toy").history("features", Window.parse("2024-01"))) == 1
    assert runtime.library().get(first.features.accepted).height == first.features.rows == 600


def test_bad_rows_are_held_back_with_their_reason_and_come_back_when_mended(tmp_path: Path) -> None:
    held = ingest("toy_recipe:bad_rows", "2024-01")
    assert held.quarantined_rows == 3
    rows = runtime.library().get(held.tables[0].quarantined)
    assert rows.get_column("failed_checks").unique().to_list() == ["x: in_range(-10, 10)"]
    mended = tmp_path / "mended.parquet"
    rows.with_columns(x=pl.lit(0.5)).write_parquet(mended)
    whole = reingest("toy_recipe:bad_rows", "2024-01", "events", str(mended))
    assert (whole.quarantined_rows, whole.features.rows) == (0, 600)
    entries = runtime.catalog("toy-bad-rows").history("raw.events", Window.parse("2024-01"))
    assert [entry.quarantined for entry in entries] == [3, 0]
    entry = runtime.catalog("toy-bad-rows").get("features", Window.parse("2024-01"))
    assert entry.digest == whole.features.accepted
    ancestors = runtime.lineage().ancestors(entry.digest).nodes
    assert held.tables[0].quarantined in ancestors


def test_rows_that_fail_again_are_in_quarantine_again() -> None:
    ingest("toy_recipe:bad_rows", "2024-02")
    again = reingest("toy_recipe:bad_rows", "2024-02", "events")
    assert (again.quarantined_rows, again.features.rows) == (3, 597)


def test_features_held_back_do_not_take_the_place_of_those_that_passed() -> None:
    held = ingest("toy_recipe:bad_features", "2024-01").features
    assert held.quarantined_rows > 0
    catalog, window = runtime.catalog("toy-bad-features"), Window.parse("2024-01")
    assert catalog.get("features", window).digest == held.accepted
    assert catalog.get("quarantine.features", window).digest == held.quarantined


def test_a_refused_table_stops_the_run_and_records_nothing() -> None:
    with pytest.raises(ContractRefused, match=r"'events'.*'x'.*missing"):
        ingest("toy_recipe:missing_column", "2024-01")
    assert runtime.catalog("toy-missing-column").find("features", Window.parse("2024-01")) is None


def test_training_needs_its_windows(champion: int) -> None:
    with pytest.raises(NotIngested, match="no features of 2031-01"):
        train(TOY, "2031-01")


def test_an_unknown_parameter_is_named(champion: int) -> None:
    with pytest.raises(ValueError, match="no parameter c; it has C"):
        train(TOY, "2024-01..2024-02", {"c": 2})


def test_the_same_training_is_one_version(champion: int) -> None:
    assert train(TOY, "2024-01..2024-02").version == champion
    assert train(TOY, "2024-01..2024-02", {"C": 0.5}).version != champion


def test_a_version_knows_its_data_its_run_and_its_outcome(champion: int) -> None:
    version = tracking.model_version("toy", champion)
    assert version.tags["trimtab.outcome"] == "promoted"
    found = outcome_of("toy", "first")
    assert found is not None
    assert (found.version, found.promoted) == (champion, True)
    run = tracking.client().get_run(version.run_id)
    inputs = tracking.logged_inputs(run)
    assert set(inputs) == {"2024-01", "2024-02"}
    ancestors = runtime.lineage().ancestors(f"model:toy/{champion}").nodes
    assert set(inputs.values()) <= set(ancestors)
    assert run.data.tags["trimtab.flow_run_id"]


def test_scores_are_kept_with_where_they_came_from(champion: int) -> None:
    ingest(TOY, "2024-03")
    scored = score(TOY, "2024-03")
    frame = runtime.library().get(scored.predictions)
    assert (frame.height, frame.columns) == (600, ["id", "score"])
    assert f"model:toy/{champion}" in runtime.lineage().ancestors(scored.predictions).nodes
    assert scored.predictions in runtime.lineage().descendants(f"model:toy/{champion}").nodes


@pytest.mark.parametrize("model", ["99", "challenger"])
def test_scoring_with_an_unknown_model_says_which_there_are(champion: int, model: str) -> None:
    ingest(TOY, "2024-03")
    with pytest.raises(NoSuchModel, match=f"no version '{model}' in MLflow; it has versions {champion}"):
        score(TOY, "2024-03", model)


def test_a_model_is_not_judged_on_rows_it_was_trained_on(champion: int) -> None:
    other = train(TOY, "2024-01..2024-02", {"C": 0.5}).version
    with pytest.raises(ValueError, match="was trained on data up to 2024-02-20"):
        evaluate(TOY, other, windows="2024-01")


def test_a_version_is_not_compared_with_itself(champion: int) -> None:
    before = tracking.model_version("toy", champion).tags
    with pytest.raises(ValueError, match="cannot be compared with itself"):
        evaluate(TOY, champion, windows="2024-03")
    assert tracking.model_version("toy", champion).tags == before
    assert evaluate(TOY, champion).reason == before["trimtab.reason"]


def test_a_version_that_the_gate_refused_is_not_promoted(champion: int) -> None:
    worse = train(TOY, "2024-01..2024-02", {"C": 1e-9})
    evaluation = evaluate(TOY, worse.version)
    assert not evaluation.promote
    with pytest.raises(NotAllowed, match="the gate said 'keep'"):
        promote(TOY, worse.version)
    serving = tracking.champion("toy")
    assert serving is not None
    assert int(serving.version) == champion


def test_a_promotion_that_does_not_serve_is_rolled_back() -> None:
    recipe = "toy_recipe:unservable"
    for window in ("2024-01", "2024-02"):
        ingest(recipe, window)
    trained = train(recipe, "2024-01..2024-02")
    with pytest.raises(RuntimeError, match="gave no usable scores for 100 rows"):
        promote(recipe, trained.version, force=True)
    assert tracking.champion("toy-unservable") is None


def test_a_replay_is_bit_for_bit_the_same(champion: int) -> None:
    replayed = replay(f"toy/{champion}")
    assert replayed.same
    original = tracking.client().get_run(replayed.run_id).data.metrics
    assert replayed.metrics["auc"] == original["holdout/auc"]


def test_a_replay_of_nothing_says_what_it_takes() -> None:
    with pytest.raises(NotReplayable, match="no training run 'nope'"):
        replay("nope")


def test_a_decision_to_retrain_is_announced_by_the_monitor_alone(champion: int) -> None:
    """April turned the concept round."""
    for window in ("2024-03", "2024-04"):
        ingest(TOY, window)
        score(TOY, window)
    kept, decided = monitor(TOY, "2024-03"), monitor(TOY, "2024-04")
    assert (kept.retrain, decided.retrain) == (False, True)
    assert decided.retrain_on == "2024-01..2024-04"
    assert monitor(TOY, "2024-04") == decided
    expected = str(decided.request(TOY).event_id)
    with get_client(sync_client=True) as client:
        for _ in wait_for(20):
            body = {"filter": {"event": {"name": [RETRAIN_REQUESTED]}, "resource": {"id": ["trimtab.model.toy"]}}}
            events = client.request("POST", "/events/filter", json=body).json()["events"]
            if events:
                break
    assert [event["id"] for event in events] == [expected]
    assert events[0]["payload"]["decision"] == decided.decision


def test_an_announcement_sent_twice_is_one_run() -> None:
    """Actions run side by side: a decision that is sent when the others have their runs shows that none is to come."""
    first, second, last = (
        RetrainRequested("flights", "nowhere:recipe", window, decision, ("a test",))
        for window, decision in (("2013-01", "one"), ("2013-02", "two"), ("2013-03", "three"))
    )
    for requests, decisions in (((first, first, second), ("one", "two")), ((last,), ("three",))):
        for request in requests:
            request.send()
        for _ in wait_for(60):
            if all(runs_of(decision) for decision in decisions):
                break
    assert [len(runs_of(decision)) for decision in ("one", "two", "three")] == [1, 1, 1]


def test_a_moment_in_the_future_is_refused() -> None:
    window = Window.parse("2024-01")
    late = ingest(TOY, "2024-01")
    frame = (
        runtime.library()
        .get(late.features.accepted)
        .with_columns(at=pl.lit(datetime(2025, 1, 1)).cast(pl.Datetime("us")))
    )
    landed = runtime.library().put(frame).digest
    with pytest.raises(ContractRefused, match=r"'at'.*later than 2024-02-01"):
        ingest(TOY, window.label, {"events": landed})
