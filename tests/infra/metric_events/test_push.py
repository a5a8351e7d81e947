"""From a metric that anyone logs to its event, through real servers."""

from __future__ import annotations

import math
import os
from pathlib import Path

import httpx
import mlflow as fluent
import pytest
from mlflow.entities import Metric
from mlflow.tracking import MlflowClient

from infra.metric_events.conftest import Events, Sending, until
from infra.metric_events.servers import Server

pytestmark = pytest.mark.timeout(240)


def test_a_metric_becomes_an_event_of_its_model(
    sender: Sending, client: MlflowClient, events: Events, run_id: str
) -> None:
    client.log_metric(run_id, "drift/psi/air_time", 0.31, timestamp=1234, step=7)
    (event,) = events.await_points(run_id, 1)
    assert event["resource"] == {
        "prefect.resource.id": "trimtab.model.flights",
        "prefect.resource.name": "flights",
        "trimtab.metric": "drift/psi/air_time",
        "trimtab.stage": "none",
        "trimtab.leads": "yes",
    }
    assert event["payload"] == {
        "run_id": run_id,
        "key": "drift/psi/air_time",
        "value": 0.31,
        "kind": "finite",
        "step": 7,
        "timestamp_ms": 1234,
        "model_id": "",
        "count": 1,
        "out_of_order": 0,
        "source": "push",
    }


def test_only_metrics_of_these_names(sender: Sending, client: MlflowClient, events: Events, run_id: str) -> None:
    client.log_batch(run_id, metrics=[Metric(key, 1.0, 1, 0) for key in ("loss", "driftwood", "performance/auc")])
    assert [event["payload"]["key"] for event in events.await_points(run_id, 1)] == ["performance/auc"]


def test_every_way_of_logging(
    sender: Sending, mlflow: Server, client: MlflowClient, events: Events, experiment: str
) -> None:
    fluent.set_tracking_uri(mlflow.url)
    with fluent.start_run(experiment_id=experiment) as run:
        model = fluent.initialize_logged_model(name="m", experiment_id=experiment)
        fluent.log_metric("drift/sync", 1.0, step=1)
        fluent.log_metrics({"drift/many": 2.0}, step=2)
        fluent.log_metric("drift/async", 3.0, step=3, synchronous=False).wait()
        fluent.log_metric("performance/model", 4.0, step=4, model_id=model.model_id)
        run_id = run.info.run_id
    said = {"run_id": run_id, "key": "drift/rest", "value": "5", "timestamp": "55", "step": 5}
    assert httpx.post(f"{mlflow.url}/ajax-api/2.0/mlflow/runs/log-metric", json=said).status_code == 200
    found = {event["payload"]["key"]: event for event in events.await_points(run_id, 5)}
    assert {key: event["payload"]["value"] for key, event in found.items()} == {
        "drift/sync": 1.0,
        "drift/many": 2.0,
        "drift/async": 3.0,
        "performance/model": 4.0,
        "drift/rest": 5.0,
    }
    assert {event["payload"]["source"] for event in found.values()} == {"push"}
    assert found["performance/model"]["payload"]["model_id"] == model.model_id


def test_the_same_point_again_is_no_second_event(
    sender: Sending, client: MlflowClient, events: Events, run_id: str
) -> None:
    for _ in range(3):
        client.log_metric(run_id, "drift/again", 1.5, timestamp=1, step=1)
    client.log_metric(run_id, "drift/again", 1.5, timestamp=2, step=1)
    events.await_points(run_id, 2)


def test_nan_infinity_and_late_points_are_told_as_they_are(
    sender: Sending, client: MlflowClient, events: Events, run_id: str
) -> None:
    for step, value in ((5, math.nan), (6, math.inf), (7, -math.inf), (2, 0.5)):
        client.log_metric(run_id, "drift/odd", value, timestamp=step, step=step)
    told = [event["payload"] for event in events.await_points(run_id, 4)]
    assert {(each["step"], each["kind"], each["value"], each["out_of_order"]) for each in told} == {
        (5, "nan", None, 0),
        (6, "inf", None, 0),
        (7, "-inf", None, 0),
        (2, "finite", 0.5, 1),
    }


def test_what_mlflow_refuses_is_no_event(
    sender: Sending, mlflow: Server, client: MlflowClient, events: Events, run_id: str
) -> None:
    url = f"{mlflow.url}/api/2.0/mlflow/runs/log-metric"
    refused = {"run_id": run_id, "key": "drift/a|b", "value": 1, "timestamp": 1}
    assert httpx.post(url, json=refused).status_code == 400
    assert httpx.post(url, content=b"drift/").status_code == 400
    client.log_metric(run_id, "drift/good", 1.0)
    assert [event["payload"]["key"] for event in events.await_points(run_id, 1)] == ["drift/good"]


# MLflow's own use of SQLAlchemy, when its store is opened in this process.
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")
def test_metrics_that_the_plugin_never_saw_are_found(
    sender: Sending, mlflow: Server, client: MlflowClient, events: Events, run_id: str
) -> None:
    # Straight into the store: what a server without the plugin, or a lost outbox, comes down to.
    store = MlflowClient(f"sqlite:///{mlflow.log.parent / 'mlflow.db'}")
    sender.again("--reconcile-every-s", "0.3", "--deep-every-s", "2")
    for step in (3, 4):
        store.log_metric(run_id, "performance/auc", 0.7, step=step)
    assert {event["payload"]["source"] for event in events.await_points(run_id, 2)} == {"reconcile"}
    # Older than the latest, which a quick look does not notice; the deep one does.
    store.log_metric(run_id, "performance/auc", 0.6, step=1)
    told = [event["payload"] for event in events.await_points(run_id, 3)]
    assert [each["step"] for each in told if each["out_of_order"]] == [1]


def test_a_storm_is_merged_and_every_point_is_counted(
    sender: Sending, client: MlflowClient, events: Events, run_id: str
) -> None:
    sender.stop()
    for start in range(0, 4000, 1000):
        client.log_batch(run_id, metrics=[Metric("drift/storm", at, at, at) for at in range(start, start + 1000)])
    client.log_metric(run_id, "drift/other", 1.0)
    sender.start()
    told = [event["payload"] for event in events.await_points(run_id, 4001)]
    assert len(told) < 20
    storm = [each for each in told if each["key"] == "drift/storm" and each["count"] > 1]
    assert storm[-1]["last_step"] == storm[-1]["step"] == storm[-1]["value"] == storm[-1]["most"] == 3999
    assert min(each["least"] for each in storm) == 0


def test_both_servers_processes_wrote_and_nothing_is_left(sender: Sending, outbox: Path, run_id: str) -> None:
    writers = list(outbox.glob("*.points"))
    assert 1 <= len(writers) <= 2
    assert all(file.stat().st_size < 2**21 for file in writers)
    # Prefect gives events to those who ask before the sender has asked.
    until(lambda: sender.status()["on_the_way"] == 0, "every event confirmed")
    counts = sender.status()
    assert (counts["waiting"], counts["refused"]) == (0, 0)
    assert counts["known"] == counts["stored"] + counts["skipped"]


def test_a_second_sender_is_told_to_go(sender: Sending) -> None:
    second = sender.start()
    assert second.wait(30) == 2
    assert "another sender is working on" in sender.log()


@pytest.mark.long
def test_a_lost_ledger_tells_nothing_twice(
    sender: Sending, client: MlflowClient, events: Events, outbox: Path, run_id: str
) -> None:
    client.log_metric(run_id, "drift/before", 1.0, step=1)
    events.await_points(run_id, 1)
    sender.stop()
    for file in outbox.glob("ledger.sqlite*"):
        file.unlink()
    for file in outbox.glob("*.points"):
        os.truncate(file, 0)
    client.log_metric(run_id, "drift/after", 1.0, step=2)
    sender.start()
    events.await_points(run_id, 2)
    until(lambda: sender.status()["on_the_way"] == 0, "all confirmed")
    # Prefect was asked before it was told: as many events as there were, and none of them new.
    assert [event["payload"]["key"] for event in events.of(run_id)] == ["drift/before", "drift/after"]
