"""Nothing lost and nothing twice, whatever dies: Prefect, MLflow, the sender, or all of them again and again."""

from __future__ import annotations

import random
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from blocks.tcp_proxy import Fault, Proxy, http
from infra.metric_events.conftest import Events, Sending, until
from infra.metric_events.servers import Server
from trimtab_flows.spool import MetricSpool, replay

pytestmark = pytest.mark.timeout(300)

AWAY = Fault(answer=http("503 Service Unavailable", "busy"))


@pytest.fixture
def through(servers: tuple[Server, Server, Server], outbox: Path) -> Iterator[tuple[Sending, Proxy, Proxy]]:
    """A sender that reaches MLflow and Prefect through a proxy each; not started."""
    with Proxy(servers[0].port) as mlflow, Proxy(servers[1].port) as prefect:
        sending = Sending(outbox, mlflow.url, prefect.url)
        yield sending, mlflow, prefect
        sending.stop()


def log(client: MlflowClient, run_id: str, steps: range) -> None:
    for step in steps:
        client.log_metric(run_id, "performance/auc", 0.5 + step / 1000, step=step)


def test_while_prefect_is_away_points_wait(
    through: tuple[Sending, Proxy, Proxy], client: MlflowClient, events: Events, run_id: str
) -> None:
    sending, _, prefect = through
    prefect.fail(Fault(hang=False, answer=None, cut_after=0))
    sending.start()
    log(client, run_id, range(20))
    # An answer that was lost: the events may be there, and are not sent a second time.
    until(lambda: "Prefect does not answer" in sending.log(), "Prefect missed")
    prefect.fail(AWAY)
    log(client, run_id, range(20, 40))
    prefect.heal()
    told = events.await_points(run_id, 40, 60)
    assert len(told) == len({event["payload"]["step"] for event in told}) == 40


def test_while_mlflow_is_away_events_wait_for_what_only_it_knows(
    through: tuple[Sending, Proxy, Proxy], client: MlflowClient, events: Events, run_id: str
) -> None:
    sending, mlflow, _ = through
    mlflow.fail(AWAY)
    log(client, run_id, range(3))
    sending.start()
    until(lambda: "MLflow" in sending.log() and "trying again" in sending.log(), "MLflow missed")
    assert events.of(run_id) == []
    mlflow.heal()
    told = events.await_points(run_id, 3)
    assert {event["resource"]["prefect.resource.id"] for event in told} == {"trimtab.model.flights"}


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(Fault(cut_after=0), id="they had arrived"),
        pytest.param(Fault(hang=True), id="they never arrived", marks=pytest.mark.long),
    ],
)
def test_a_sender_killed_with_events_handed_over_repeats_none(
    through: tuple[Sending, Proxy, Proxy], client: MlflowClient, events: Events, run_id: str, fault: Fault
) -> None:
    sending, _, prefect = through
    process = sending.start()
    log(client, run_id, range(1))
    events.await_points(run_id, 1)
    until(lambda: sending.status()["on_the_way"] == 0, "the first confirmed")
    prefect.requests.clear()
    prefect.fail(fault)
    log(client, run_id, range(1, 5))
    prefect.await_request(b"POST /api/events HTTP")
    process.send_signal(signal.SIGKILL)
    process.wait()
    prefect.heal()
    sending.start()
    told = events.await_points(run_id, 5)
    until(lambda: sending.status()["on_the_way"] == 0, "all confirmed")
    assert [event["payload"]["count"] for event in told] == [1] * 5


@pytest.mark.long
@pytest.mark.timeout(900)
def test_everything_is_killed_at_random_and_each_point_is_one_event(
    servers: tuple[Server, Server, Server],
    outbox: Path,
    client: MlflowClient,
    events: Events,
    run_id: str,
    tmp_path: Path,
) -> None:
    mlflow, prefect, _ = servers
    points, dice = 10_000, random.Random(5)
    sending = Sending(outbox, mlflow.url, prefect.url, ("--reconcile-every-s", "2", "--coalesce-above", "100000"))
    sending.start()
    spool = MetricSpool(tmp_path / "spool", run_id, mlflow.url)
    stop = threading.Event()

    def produce() -> None:
        for step in range(points):
            spool.log({f"drift/m{step % 7}": dice.random()}, step=step)
            if stop.wait(0.004):
                return

    producer = threading.Thread(target=produce)
    producer.start()
    try:
        for _ in range(4):
            for victim in dice.sample([mlflow, prefect, sending.processes[-1]], k=2):
                stop.wait(dice.uniform(0.5, 4))
                victim.kill()
                if isinstance(victim, Server):
                    victim.start()
                else:
                    victim.wait()
                    sending.start()
        producer.join()
    finally:
        stop.set()
        producer.join()
    assert spool.close(120).left == 0
    assert replay(tmp_path / "spool", mlflow.url).left == 0
    told = events.await_points(run_id, points, 240)
    assert len(told) == points
    assert {event["payload"]["step"] for event in told} == set(range(points))
    sending.stop()
