"""The real servers and the sender that `trimtab bench metric-events` measures, each a process."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from trimtab_infra.errors import PartFailed
from trimtab_infra.stack.ports import HOST, choose

__all__ = ["Parts", "Process", "parts"]

_STARTS_WITHIN_S = 120


@dataclass
class Process:
    """A process that can be ended at once and started again."""

    command: list[str]
    environment: dict[str, str]
    log: Path
    health: str | None = None
    running: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def start(self) -> None:
        """Start it, and wait until it answers if it is a server.

        Raises:
            PartFailed: it ended, or did not answer in time.
        """
        with self.log.open("ab") as log:
            self.running = subprocess.Popen(
                self.command, env=self.environment, cwd=self.log.parent, stdout=log, stderr=log
            )
        end = time.monotonic() + _STARTS_WITHIN_S
        while self.health is not None and not _answers(self.health):
            if self.running.poll() is not None or time.monotonic() > end:
                raise PartFailed(f"{' '.join(self.command[2:4])} did not start: {self.log.read_text()[-400:]}")
            time.sleep(0.2)

    def stop(self) -> None:
        """Ask it to end, and end it if it does not."""
        if self.running is None:
            return
        self.running.terminate()
        try:
            self.running.wait(20)
        except subprocess.TimeoutExpired:
            self.running.kill()
            self.running.wait()
        self.running = None


@dataclass(frozen=True)
class Parts:
    """MLflow with the plugin and without, Prefect, and the sender."""

    folder: Path
    plain: str
    mlflow: str
    prefect: str
    prefect_process: Process

    @property
    def outbox(self) -> Path:
        return self.folder / "outbox"


@contextlib.contextmanager
def parts(folder: Path) -> Iterator[Parts]:
    """Start everything in a folder, and stop it in the end.

    Raises:
        PartFailed: a part did not start.
    """
    taken = choose({"plain": 5100, "mlflow": 5200, "prefect": 4300}, {}, {})
    plain, mlflow, prefect = (f"http://{HOST}:{taken[name]}" for name in ("plain", "mlflow", "prefect"))
    own = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
    own.pop("PYTHONDONTWRITEBYTECODE", None)
    env = own | {
        "PREFECT_HOME": str(folder / "home"),
        "PREFECT_API_URL": f"{prefect}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "TRIMTAB_METRIC_OUTBOX": str(folder / "outbox"),
    }
    server = [sys.executable, "-m", "prefect", "server", "start", "--host", HOST, "--port", str(taken["prefect"])]
    send = [sys.executable, "-m", "trimtab_infra.metric_events", "send", "--tracking-uri", mlflow]
    prefect_process = Process(server, env, folder / "prefect.log", f"{prefect}/api/health")
    processes = [
        Process(_mlflow(folder, "plain", taken["plain"]), env, folder / "plain.log", f"{plain}/health"),
        Process(
            [*_mlflow(folder, "mlflow", taken["mlflow"]), "--app-name", "trimtab-metrics"],
            env,
            folder / "mlflow.log",
            f"{mlflow}/health",
        ),
        prefect_process,
        Process(send, env, folder / "sender.log"),
    ]
    try:
        for process in processes:
            process.start()
        yield Parts(folder, plain, mlflow, prefect, prefect_process)
    finally:
        for process in reversed(processes):
            process.stop()


def _mlflow(folder: Path, name: str, port: int) -> list[str]:
    return [
        *(sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{folder / name}.db", "--artifacts-destination", str(folder / "artifacts")),
    ]


def _answers(address: str) -> bool:
    try:
        return httpx.get(address, timeout=2).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False
