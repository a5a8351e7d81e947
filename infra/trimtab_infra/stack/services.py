"""The parts of the stack: how each is started, what it is told, and how to know that it is ready."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass

import httpx

from trimtab_infra.stack.ports import HOST
from trimtab_infra.stack.processes import STACK_ID
from trimtab_infra.stack.state import State, StateFolder

__all__ = ["MLFLOW", "POOL", "PREFECT", "SERVICES", "WORKER", "Service", "environment", "url"]

PREFECT, MLFLOW, WORKER = "prefect", "mlflow", "worker"

#: The work pool that the worker serves.
POOL = "trimtab"


@dataclass(frozen=True)
class Service:
    """One part: its command, and a question that is answered True when it is ready."""

    name: str
    title: str
    command: Callable[[StateFolder, State], list[str]]
    ready: Callable[[State, float], bool]
    usual_port: int | None = None
    grace_s: float = 10


def url(state: State, part: str) -> str:
    """Address of a server of the stack."""
    return f"http://{HOST}:{state.ports[part]}"


def environment(folder: StateFolder, state: State) -> dict[str, str]:
    """What every process of the stack, and every client of it, runs with.

    Settings of the person's own Prefect and MLflow are left out, so that none of them reaches in.
    """
    own = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
    # Without byte code every process imports Prefect in 4.5 s instead of 1.1 s.
    own.pop("PYTHONDONTWRITEBYTECODE", None)
    prefect = url(state, PREFECT)
    return own | {
        STACK_ID: state.stack_id,
        "TRIMTAB_STATE": str(folder.path),
        "DO_NOT_TRACK": "true",
        "PYTHONUNBUFFERED": "1",
        "PREFECT_HOME": str(folder.prefect),
        "PREFECT_API_URL": f"{prefect}/api",
        "PREFECT_UI_URL": prefect,
        # The UI asks the server that it came from, whatever port that has.
        "PREFECT_UI_API_URL": "/api",
        "PREFECT_LOCAL_STORAGE_PATH": str(folder.prefect / "storage"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "PREFECT_WORKER_ENABLE_CANCELLATION": "true",
        "PREFECT_CLI_PROMPT": "false",
        "PREFECT_CLI_COLORS": "false",
        "MLFLOW_TRACKING_URI": url(state, MLFLOW),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # The job runner and its consumers take 1.8 GB, and nothing here uses them.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    }


def _prefect_command(folder: StateFolder, state: State) -> list[str]:
    return [sys.executable, "-m", "prefect", "server", "start", "--host", HOST, "--port", str(state.ports[PREFECT])]


def _mlflow_command(folder: StateFolder, state: State) -> list[str]:
    return [
        *(sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(state.ports[MLFLOW])),
        *("--workers", "1", "--backend-store-uri", f"sqlite:///{folder.mlflow / 'mlflow.db'}"),
        *("--artifacts-destination", str(folder.mlflow / "artifacts")),
    ]


def _worker_command(folder: StateFolder, state: State) -> list[str]:
    name = f"local-{state.stack_id[:8]}"
    return [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL, "--type", "process", "--name", name]


def _answers(address: str) -> bool:
    try:
        return httpx.get(address, timeout=2).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def _worker_reports(state: State, since: float) -> bool:
    """True once the worker has sent a heartbeat after it was started (seconds since the epoch)."""
    from datetime import datetime

    address = f"{url(state, PREFECT)}/api/work_pools/{POOL}/workers/filter"
    try:
        answer = httpx.post(address, json={}, timeout=2)
    except httpx.TransportError:
        return False
    if answer.status_code != httpx.codes.OK:
        return False
    beats = [worker["last_heartbeat_time"] for worker in answer.json() if worker["last_heartbeat_time"]]
    return any(datetime.fromisoformat(beat).timestamp() >= since - 1 for beat in beats)


#: In the order they are stopped in: the worker first, so that no run starts while the servers go.
SERVICES = (
    Service(WORKER, "worker", _worker_command, _worker_reports, grace_s=5),
    Service(
        MLFLOW, "MLflow", _mlflow_command, lambda state, _: _answers(f"{url(state, MLFLOW)}/health"), usual_port=5000
    ),
    Service(
        PREFECT,
        "Prefect",
        _prefect_command,
        lambda state, _: _answers(f"{url(state, PREFECT)}/api/health"),
        usual_port=4200,
    ),
)
