"""Real servers that tests start, kill and start again on the same port and data."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from trimtab_infra.stack.ports import HOST

#: Two busy cores took 40 s.
STARTS_WITHIN_S = 110


@dataclass
class Server:
    """A server process in a session of its own; ``kill`` ends it and all it started, as a power cut would."""

    command: list[str]
    environment: dict[str, str]
    port: int
    health: str
    log: Path
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def start(self) -> Server:
        """Start it and wait until it answers."""
        self.begin()
        try:
            return self.ready()
        except BaseException:
            self.kill()
            raise

    def begin(self) -> None:
        """Start it and go on."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, env=self.environment, cwd=self.log.parent, stdout=log, stderr=log, start_new_session=True
            )

    def ready(self) -> Server:
        """Wait until it answers."""
        end = time.monotonic() + STARTS_WITHIN_S
        while not self._answers():
            assert self.process is not None
            assert self.process.poll() is None, self.log.read_text()[-2000:]
            assert time.monotonic() < end, self.log.read_text()[-2000:]
            time.sleep(0.1)
        return self

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> None:
        if self.process is None:
            return
        group, self.process = self.process, None
        if group.poll() is None:
            os.killpg(group.pid, number)
        try:
            group.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(group.pid, signal.SIGKILL)
            group.wait()

    def _answers(self) -> bool:
        try:
            return httpx.get(self.url + self.health, timeout=2).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.create_server((HOST, 0)) as trial:
        return int(trial.getsockname()[1])


def clean_environment() -> dict[str, str]:
    """Nothing of the person's own Prefect and MLflow, and nothing slow."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
    own.pop("PYTHONDONTWRITEBYTECODE", None)
    return own


def mlflow_server(
    folder: Path, *options: str, workers: int = 1, environment: Mapping[str, str] | None = None
) -> Server:
    """An MLflow server on SQLite in a folder; not started yet."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    settings = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    }
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", str(workers)),
        *("--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}", "--artifacts-destination", str(folder / "art")),
        *options,
    ]
    merged = {**clean_environment(), **settings, **(environment or {})}
    return Server(command, merged, port, "/health", folder / "mlflow.log")


def prefect_server(folder: Path, environment: Mapping[str, str] | None = None) -> Server:
    """A Prefect server on SQLite in a folder, that stores events at once; not started yet."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    settings = {
        "PREFECT_HOME": str(folder),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        # The default of 5 s is what a test would otherwise wait for.
        "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL": "0.2",
    }
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", HOST, "--port", str(port)]
    merged = {**clean_environment(), **settings, **(environment or {})}
    return Server(command, merged, port, "/api/health", folder / "prefect.log")
