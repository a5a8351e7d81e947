"""Metrics through the spool, to a real MLflow server that is away, slow, forgetful or killed."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
from mlflow.tracking import MlflowClient

from blocks.tcp_proxy import Fault, Proxy, http
from infra.metric_events.servers import Server, mlflow_server
from trimtab_flows import progress
from trimtab_flows.spool import MetricSpool, Replayed, SpoolFull, replay
from trimtab_flows.spool.journal import Entry, Journal
from trimtab_flows.spool.sending import Answer, answer_of

GONE = Fault(answer=http("503 Service Unavailable", "busy"))

#: What a training process does, until it is killed.
TRAINING = """
import sys
from pathlib import Path
from trimtab_flows.spool import MetricSpool

spool = MetricSpool(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
for step in range(10_000):
    spool.log({"loss": 1 / (step + 1)}, step=step, timestamp_ms=step)
    print(step, flush=True)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = mlflow_server(tmp_path_factory.mktemp("mlflow")).start()
    yield running
    running.stop()


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    with Proxy(server.port) as before:
        yield before


@pytest.fixture
def client(server: Server) -> MlflowClient:
    return MlflowClient(server.url)


@pytest.fixture
def run_id(client: MlflowClient) -> str:
    return str(client.create_run("0").info.run_id)


def steps(client: MlflowClient, run_id: str, name: str) -> list[int]:
    return [point.step for point in client.get_metric_history(run_id, name)]


def test_metrics_arrive_and_nothing_stays_on_the_disk(
    tmp_path: Path, server: Server, client: MlflowClient, run_id: str
) -> None:
    with MetricSpool(tmp_path, run_id, server.url) as spool:
        spool.log({"loss": 0.5, "drift/a|b": 1, "nan": math.nan, "inf": -math.inf}, step=3, timestamp_ms=77)
    logged = client.get_run(run_id).data.metrics
    assert (logged["loss"], logged["drift/a_x7C_b"]) == (0.5, 1)
    assert math.isnan(logged["nan"])
    assert logged["inf"] == -sys.float_info.max
    assert [(point.step, point.timestamp) for point in client.get_metric_history(run_id, "loss")] == [(3, 77)]
    assert list(tmp_path.iterdir()) == []


def test_an_outage_costs_training_nothing_and_loses_nothing(
    tmp_path: Path, proxy: Proxy, client: MlflowClient, run_id: str
) -> None:
    proxy.fail(GONE)
    spool = MetricSpool(tmp_path, run_id, proxy.url)
    began = time.monotonic()
    for step in range(300):
        spool.log({"loss": step}, step=step)
    # MLflow's own client would have blocked for 4 minutes at the first of them.
    assert time.monotonic() - began < 10
    assert steps(client, run_id, "loss") == []
    proxy.heal()
    assert spool.close() == Replayed(300, 0, 0)
    assert steps(client, run_id, "loss") == list(range(300))


def test_what_a_recipe_logs_in_its_training_outlives_an_outage(
    tmp_path: Path, proxy: Proxy, client: MlflowClient, run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIMTAB_METRIC_SPOOL", str(tmp_path / "spool"))
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(proxy.url)
    try:
        progress.log({"loss": 9.0}, 0)
        proxy.fail(GONE)
        with progress.logging_to(run_id, waits_s=0.1):
            for step in range(5):
                progress.log({"loss": step}, step)
        assert steps(client, run_id, "loss") == []
        proxy.heal()
        # While the process lives its spool goes on trying; after that, the next training of this host sends the rest.
        end = time.monotonic() + 30
        while len(steps(client, run_id, "loss")) < 5 and time.monotonic() < end:
            with progress.logging_to(str(client.create_run("0").info.run_id)):
                time.sleep(0.1)
    finally:
        mlflow.set_tracking_uri(before)
    assert steps(client, run_id, "loss") == list(range(5))


def test_an_answer_that_was_lost_makes_no_second_point(
    tmp_path: Path, proxy: Proxy, client: MlflowClient, run_id: str
) -> None:
    proxy.fail(Fault(cut_after=0), times=2)
    with MetricSpool(tmp_path, run_id, proxy.url) as spool:
        spool.log({"loss": 1.0}, step=1)
    assert steps(client, run_id, "loss") == [1]
    assert sum(b"log-batch" in request for request in proxy.requests) >= 2


def test_what_a_closed_spool_leaves_is_replayed_once(
    tmp_path: Path, proxy: Proxy, server: Server, client: MlflowClient, run_id: str
) -> None:
    proxy.fail(GONE)
    spool = MetricSpool(tmp_path, run_id, proxy.url)
    for step in range(3):
        spool.log({"loss": step}, step=step)
    assert spool.close(timeout_s=0.5) == Replayed(0, 0, 3)
    with pytest.raises(RuntimeError, match="closed"):
        spool.log({"loss": 9})
    # The spool's own thread goes on while its process lives, and nobody sends beside it.
    assert replay(tmp_path, server.url) == Replayed(0, 0, 0)
    proxy.heal()
    assert spool.close() == Replayed(3, 0, 0)
    assert steps(client, run_id, "loss") == [0, 1, 2]
    assert replay(tmp_path, server.url) == Replayed(0, 0, 0)


def test_a_killed_process_leaves_every_step_it_logged(
    tmp_path: Path, proxy: Proxy, server: Server, client: MlflowClient, run_id: str
) -> None:
    proxy.fail(GONE)
    command = [sys.executable, "-c", TRAINING, str(tmp_path), run_id, proxy.url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as training:
        assert training.stdout is not None
        seen = next(int(line) for line in training.stdout if int(line) >= 50)
        training.send_signal(signal.SIGKILL)
        seen = max([seen, *(int(line) for line in training.stdout if line.endswith("\n"))])
    done = replay(tmp_path, server.url)
    assert (done.refused, done.left) == (0, 0)
    logged = steps(client, run_id, "loss")
    assert logged == list(range(len(logged)))
    # At most the one step that was on the disk and not yet said.
    assert len(logged) - (seen + 1) in (0, 1)
    assert replay(tmp_path, server.url) == Replayed(0, 0, 0)


def test_what_mlflow_never_takes_is_kept_with_its_reason_and_holds_nobody_up(
    tmp_path: Path, server: Server, client: MlflowClient, run_id: str
) -> None:
    gone = Journal(tmp_path / "1.metrics")
    for entry in (
        Entry(run_id, {"loss": 1}, 1, 1),
        Entry(run_id, {"a|b": 1}, 2, 2),
        Entry("0" * 32, {"loss": 1}, 3, 3),
        Entry(run_id, {"loss": 4}, 4, 4),
    ):
        gone.append(entry)
    assert replay(tmp_path, server.url) == Replayed(2, 2, 0)
    assert steps(client, run_id, "loss") == [1, 4]
    refused = (tmp_path / "1.refused").read_text()
    assert "a|b" in refused
    assert "RESOURCE_DOES_NOT_EXIST" in refused


def test_a_line_cut_short_is_passed_over(tmp_path: Path, server: Server, client: MlflowClient, run_id: str) -> None:
    journal = Journal(tmp_path / "1.metrics")
    journal.append(Entry(run_id, {"loss": 1}, 1, 1))
    journal.path.write_bytes(journal.path.read_bytes() + b'["' + run_id.encode())
    journal.append(Entry(run_id, {"loss": 2}, 2, 2))
    assert replay(tmp_path, server.url) == Replayed(2, 0, 0)
    assert steps(client, run_id, "loss") == [1, 2]


def test_a_mark_that_was_lost_repeats_nothing(
    tmp_path: Path, server: Server, client: MlflowClient, run_id: str
) -> None:
    journal = Journal(tmp_path / "1.metrics")
    for step in range(3):
        journal.append(Entry(run_id, {"loss": step, "nan": math.nan}, step, step))
    lines = journal.path.read_bytes()
    assert replay(tmp_path, server.url) == Replayed(3, 0, 0)
    journal.path.write_bytes(lines)
    assert replay(tmp_path, server.url) == Replayed(3, 0, 0)
    assert steps(client, run_id, "loss") == steps(client, run_id, "nan") == [0, 1, 2]


def test_a_full_spool_says_so_and_keeps_what_it_has(
    tmp_path: Path, proxy: Proxy, client: MlflowClient, run_id: str
) -> None:
    proxy.fail(GONE)
    spool = MetricSpool(tmp_path, run_id, proxy.url, limit_mib=0.001)
    # The first fills it; it is kept all the same.
    spool.log({f"metric/{number}": number for number in range(100)}, step=1)
    with pytest.raises(SpoolFull, match=r"has reached 0\.\d+ MiB .*bring MLflow up"):
        spool.log({"loss": 0.5}, step=2)
    proxy.heal()
    assert spool.close() == Replayed(1, 0, 0)
    assert (steps(client, run_id, "metric/99"), steps(client, run_id, "loss")) == ([1], [])


def test_a_long_run_does_not_fill_the_disk(tmp_path: Path, server: Server, client: MlflowClient, run_id: str) -> None:
    largest = 0
    with MetricSpool(tmp_path, run_id, server.url, limit_mib=0.2) as spool:
        for step in range(30):
            spool.log({f"metric/{number}/{'x' * 30}": step for number in range(300)}, step=step)
            largest = max(largest, sum(file.stat().st_size for file in tmp_path.glob("*.metrics")))
            while spool.waiting():
                time.sleep(0.01)
    assert largest < 100_000 < 30 * 300 * 45
    assert steps(client, run_id, f"metric/0/{'x' * 30}") == list(range(30))
    assert list(tmp_path.iterdir()) == []


#: A writer, or one that takes what others left: MLflow's part is played by a file, each line a step and who sent it.
PEER = """
import os, sys, time
from pathlib import Path
from trimtab_flows.spool import MetricSpool, replay
from trimtab_flows.spool.sending import Answer

folder, role = Path(sys.argv[1]), sys.argv[2]

def send(entries):
    if (folder / "away").exists():
        return Answer.LATER, "away"
    with (folder / "sent").open("a") as file:
        file.write("".join(f"{entry.step} {role}\\n" for entry in entries))
    return Answer.TAKEN, ""

if role.startswith("writer"):
    spool = MetricSpool(folder / "spool", "run", send=send)
    log = lambda step: spool.log({f"{'x' * 200}{number}": 1.0 for number in range(250)}, step)
    for step in range(30):
        log(step)
    while spool.waiting() or max(file.stat().st_size for file in (folder / "spool").glob("*.metrics")) > 2**20:
        time.sleep(0.01)
    (folder / "away").touch()
    for step in range(30, 50):
        log(step)
    child = os.fork() if role == "writer-with-child" else None
    if child != 0:
        print("ready", child or "", flush=True)
    time.sleep(600)
else:
    done = replay(folder / "spool", send=send)
    print(done.sent, done.refused, done.left)
"""


def start_peer(folder: Path, role: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", PEER, str(folder), role], stdout=subprocess.PIPE, text=True)


@pytest.mark.timeout(240)  # five processes, each of which imports MLflow
@pytest.mark.parametrize("role", ["writer", "writer-with-child"])
def test_a_spool_is_its_writers_for_as_long_as_that_lives_and_then_delivered_once(tmp_path: Path, role: str) -> None:
    """2 MiB were sent and cut away and MLflow is away: nobody else finds anything left while the writer lives."""
    with start_peer(tmp_path, role) as writer:
        assert writer.stdout is not None
        child = writer.stdout.readline().split()[1:]
        takers = [start_peer(tmp_path, f"taker-{number}") for number in range(2)]
        assert [taker.communicate()[0] for taker in takers] == ["0 0 0\n"] * 2
        writer.kill()
    (tmp_path / "away").unlink()
    takers = [start_peer(tmp_path, f"after-{number}") for number in range(2)]
    assert sum(int(taker.communicate()[0].split()[0]) for taker in takers) == 20
    for process in child:
        os.kill(int(process), signal.SIGKILL)
    sent = [line.split() for line in (tmp_path / "sent").read_text().splitlines()]
    assert [int(step) for step, _ in sent] == list(range(50))
    assert {who[:6] for step, who in sent if int(step) < 30} == {"writer"}
    assert not any(who.startswith("taker") for _, who in sent)
    assert list((tmp_path / "spool").iterdir()) == []


@pytest.mark.parametrize(
    ("status", "said", "answer"),
    [
        (200, "{}", Answer.TAKEN),
        (400, '{"error_code": "INVALID_PARAMETER_VALUE"}', Answer.REFUSED),
        (404, "<html>no such page</html>", Answer.LATER),
        (401, '{"error_code": "UNAUTHENTICATED"}', Answer.LATER),
        (429, '{"error_code": "REQUEST_LIMIT_EXCEEDED"}', Answer.LATER),
        (500, '{"error_code": "INTERNAL_ERROR"}', Answer.LATER),
    ],
)
def test_only_what_mlflow_itself_turns_away_is_refused(status: int, said: str, answer: Answer) -> None:
    assert answer_of(status, said) is answer
