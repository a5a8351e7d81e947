"""One MLflow server with the plugin and one Prefect server, both real, and senders that tests start and kill."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from mlflow.tracking import MlflowClient

from infra.metric_events.servers import Server, clean_environment, mlflow_server, prefect_server

NAME = "trimtab.metric.logged"

#: Of the server with basic-auth.
ADMIN = ("admin", "a password of 24 letters")


def until(what: Callable[[], Any], said: str, seconds: float = 30) -> Any:
    """What it returns when that is something: neither server has a call that waits."""
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, f"{said}: not within {seconds} s"
        time.sleep(0.05)
    return found


@dataclass
class Sending:
    """The sender as its users start it: a process of its own."""

    outbox: Path
    mlflow: str
    prefect: str
    options: tuple[str, ...] = ()
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, *options: str) -> subprocess.Popen[bytes]:
        self.outbox.mkdir(parents=True, exist_ok=True)
        environment = clean_environment() | {
            "PREFECT_API_URL": f"{self.prefect}/api",
            "PREFECT_HOME": str(self.outbox.parent / "prefect-home"),
        }
        command = [sys.executable, "-m", "trimtab_infra.metric_events", "send", "--outbox", str(self.outbox)]
        with (self.outbox.parent / "sender.log").open("ab") as log:
            process = subprocess.Popen(
                [*command, "--tracking-uri", self.mlflow, "--resend-after-s", "1", *self.options, *options],
                env=environment,
                stdout=log,
                stderr=log,
            )
        self.processes.append(process)
        return process

    def again(self, *options: str) -> None:
        """Stop, and start with other options."""
        self.stop()
        self.start(*options)

    def stop(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.terminate()
        for process in self.processes:
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise

    def status(self) -> dict[str, int]:
        """What the ledger counts."""
        command = [sys.executable, "-m", "trimtab_infra.metric_events", "status", "--outbox", str(self.outbox)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return dict(json.loads(done.stdout)) if done.returncode == 0 else {}

    def log(self) -> str:
        return (self.outbox.parent / "sender.log").read_text()


@dataclass
class Events:
    """The events of one run that a Prefect server has stored."""

    prefect: str

    def of(self, run_id: str) -> list[dict[str, Any]]:
        """All of them, by when they were noticed."""
        related = {"id": [f"mlflow.run.{run_id}"]}
        asked = {"filter": {"event": {"name": [NAME]}, "related": related, "order": "ASC"}, "limit": 50}
        page = httpx.post(f"{self.prefect}/api/events/filter", json=asked, timeout=20).raise_for_status().json()
        found = list(page["events"])
        while page["next_page"]:
            page = httpx.get(page["next_page"], timeout=20).raise_for_status().json()
            found += page["events"]
        return found

    def await_points(self, run_id: str, points: int, seconds: float = 40) -> list[dict[str, Any]]:
        """The events, when they tell of so many points."""

        def enough() -> list[dict[str, Any]] | None:
            found = self.of(run_id)
            return found if sum(event["payload"]["count"] for event in found) >= points else None

        found: list[dict[str, Any]] = until(enough, f"{points} points of {run_id} in Prefect", seconds)
        assert sum(event["payload"]["count"] for event in found) == points
        return found


@pytest.fixture(scope="package")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("metric events")


@pytest.fixture(scope="package")
def outbox(folder: Path) -> Path:
    return folder / "outbox"


def guarded_server(folder: Path) -> Server:
    """MLflow with basic-auth; where its outbox should be there is a file, until a test takes that away."""
    folder.mkdir()
    (folder / "later").touch()
    settings = {
        "TRIMTAB_METRIC_OUTBOX": str(folder / "later" / "outbox"),
        "TRIMTAB_METRIC_PREFIXES": "drift/, fairness/",
        "MLFLOW_AUTH_ADMIN_PASSWORD": ADMIN[1],
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "a key of these tests",
    }
    return mlflow_server(folder, "--app-name", "trimtab-metrics-basic-auth", environment=settings)


@pytest.fixture(scope="package")
def servers(folder: Path, outbox: Path) -> Iterator[tuple[Server, Server, Server]]:
    """MLflow with two worker processes, Prefect, MLflow with basic-auth; together, since each takes 10 s to start."""
    settings = {"TRIMTAB_METRIC_OUTBOX": str(outbox)}
    mlflow = mlflow_server(folder / "mlflow", "--app-name", "trimtab-metrics", workers=2, environment=settings)
    all_of_them = (mlflow, prefect_server(folder / "prefect"), guarded_server(folder / "guarded"))
    try:
        for server in all_of_them:
            server.begin()
        for server in all_of_them:
            server.ready()
        yield all_of_them
    finally:
        for server in all_of_them:
            server.stop()


@pytest.fixture(scope="package")
def mlflow(servers: tuple[Server, Server, Server]) -> Server:
    return servers[0]


@pytest.fixture(scope="package")
def prefect(servers: tuple[Server, Server, Server]) -> Server:
    return servers[1]


@pytest.fixture(scope="package")
def client(mlflow: Server) -> MlflowClient:
    return MlflowClient(mlflow.url)


@pytest.fixture(scope="package")
def events(prefect: Server) -> Events:
    return Events(prefect.url)


@pytest.fixture(scope="package")
def experiment(client: MlflowClient) -> str:
    return str(client.create_experiment("flights-monitoring"))


@pytest.fixture
def run_id(client: MlflowClient, experiment: str) -> str:
    return str(client.create_run(experiment).info.run_id)


@pytest.fixture(scope="package")
def sender(servers: tuple[Server, Server, Server], outbox: Path) -> Iterator[Sending]:
    """A sender that is running, and looks at MLflow once, when it starts."""
    mlflow, prefect, _ = servers
    sending = Sending(outbox, mlflow.url, prefect.url, ("--reconcile-every-s", "600"))
    sending.start()
    yield sending
    sending.stop()
