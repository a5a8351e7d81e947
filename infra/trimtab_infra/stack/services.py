"""The parts of the stack: how each is started, what it is told, and how to know that it is ready."""

from __future__ import annotations

import http.client
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from trimtab_blocks.paging import PAGE, by_offset
from trimtab_infra.stack import processes
from trimtab_infra.stack.ports import HOST
from trimtab_infra.stack.state import State, StateFolder

__all__ = [
    "GOES_ON",
    "MLFLOW",
    "POOL",
    "PREFECT",
    "SENDER",
    "SERVICES",
    "WORKER",
    "Service",
    "environment",
    "is_ready",
    "url",
]

PREFECT, MLFLOW, WORKER, SENDER = "prefect", "mlflow", "worker", "sender"

#: The work pool that the worker serves.
POOL = "trimtab"

#: How `configure` begins a line about a run that was interrupted and goes on; the rest is the run's name.
GOES_ON = "interrupted, goes on: "

#: Seconds between two signs of life of the worker, and after how many without one it counts as stuck.
BEAT_S, SILENT_AFTER_S = 5, 60


@dataclass(frozen=True)
class Service:
    """One part: its command, and a question that is answered True when it is ready."""

    name: str
    title: str
    command: Callable[[StateFolder, State], list[str]]
    answers: Callable[[State], bool]
    usual_port: int | None = None
    grace_s: float = 10


def url(state: State, part: str) -> str:
    """Address of a server of the stack."""
    return f"http://{HOST}:{state.ports[part]}"


def is_ready(service: Service, state: State) -> bool:
    """Whether a part's own process is there and answers; a stranger that answers on its port does not count."""
    process = processes.find(state.parts.get(service.name))
    if process is None:
        return False
    ours = service.usual_port is None or processes.listens(process, state.ports[service.name])
    return ours and service.answers(state)


def environment(folder: StateFolder, state: State) -> dict[str, str]:
    """What every process of the stack, and every client of it, runs with.

    Settings of the person's own Prefect and MLflow are left out, so that none of them reaches in.
    """
    own = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
    # Without byte code every process imports Prefect in 4.5 s instead of 1.1 s.
    own.pop("PYTHONDONTWRITEBYTECODE", None)
    prefect = url(state, PREFECT)
    return (
        own
        | _no_proxy(own)
        | {
            processes.STACK_ID: state.stack_id,
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
            "PREFECT_WORKER_HEARTBEAT_SECONDS": str(BEAT_S),
            "PREFECT_WORKER_ENABLE_CANCELLATION": "true",
            "PREFECT_CLI_PROMPT": "false",
            "PREFECT_CLI_COLORS": "false",
            "MLFLOW_TRACKING_URI": url(state, MLFLOW),
            "MLFLOW_DISABLE_TELEMETRY": "true",
            # The job runner and its consumers take 1.8 GB, and nothing here uses them.
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
            "TRIMTAB_METRIC_OUTBOX": str(folder.path / "metric-outbox"),
            "TRIMTAB_METRIC_SPOOL": str(folder.path / "metric-spool"),
            # When the stack stops, runs are told so at once and have 3 s; they go on from their last finished stage.
            "TRIMTAB_DRAIN_SECONDS": "0",
            "TRIMTAB_STOP_GRACE_SECONDS": "3",
        }
    )


def _no_proxy(own: dict[str, str]) -> dict[str, str]:
    """Loopback is never reached through a proxy; both spellings are in use, and clients differ in which they read."""
    named = [own[name] for name in ("NO_PROXY", "no_proxy") if own.get(name)]
    hosts = ",".join(dict.fromkeys([*",".join(named).split(","), HOST, "localhost"])).lstrip(",")
    return {"NO_PROXY": hosts, "no_proxy": hosts}


def _prefect_command(_: StateFolder, state: State) -> list[str]:
    return [sys.executable, "-m", "prefect", "server", "start", "--host", HOST, "--port", str(state.ports[PREFECT])]


def _mlflow_command(folder: StateFolder, state: State) -> list[str]:
    return [
        *(sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(state.ports[MLFLOW])),
        *("--workers", "1", "--backend-store-uri", f"sqlite:///{folder.mlflow / 'mlflow.db'}"),
        *("--artifacts-destination", str(folder.mlflow / "artifacts"), "--app-name", "trimtab-metrics"),
    ]


def _worker_command(_: StateFolder, state: State) -> list[str]:
    return [
        *(sys.executable, "-m", "prefect", "worker", "start"),
        *("--pool", POOL, "--type", "gpu-process", "--name", _worker_name(state)),
    ]


def _sender_command(*_: object) -> list[str]:
    return [sys.executable, "-m", "trimtab_infra.metric_events", "send"]


def _worker_name(state: State) -> str:
    return f"local-{state.stack_id[:8]}"


def _ask(state: State, part: str, path: str, question: object = None) -> Any:
    """What a server answers, as text or JSON; None if it does not.

    The standard library's client, because this is asked ten times a second while something else starts: a new httpx
    client each time took a third of the processor time of the whole start.
    """
    connection = http.client.HTTPConnection(HOST, state.ports[part], timeout=2)
    try:
        if question is None:
            connection.request("GET", path)
        else:
            connection.request("POST", path, json.dumps(question), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        body = answer.read()
        return (body.decode() if question is None else json.loads(body)) if answer.status == http.client.OK else None
    except (OSError, ValueError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def _worker_reports(state: State) -> bool:
    """Whether the worker has sent a heartbeat lately, and since both it and the server were started."""
    if PREFECT not in state.parts:
        return False
    path = f"/api/work_pools/{POOL}/workers/filter"
    workers = list(by_offset(lambda offset: _ask(state, PREFECT, path, {"limit": PAGE, "offset": offset}) or []))
    beats = [worker["last_heartbeat_time"] for worker in workers if worker["name"] == _worker_name(state)]
    since = max(time.time() - SILENT_AFTER_S, *(state.parts[name].started for name in (PREFECT, WORKER)))
    # Start times of processes are known to a second.
    return any(beat and datetime.fromisoformat(beat).timestamp() >= since - 1 for beat in beats)


#: In the order in which they are stopped: the worker first, so that no run starts while the servers go.
SERVICES = (
    Service(WORKER, "worker", _worker_command, _worker_reports, grace_s=8),
    # Nobody waits for it: what it has not sent yet is on the disk, and it goes on with that.
    Service(SENDER, "metric events", _sender_command, lambda _: True, grace_s=5),
    Service(
        MLFLOW, "MLflow", _mlflow_command, lambda state: _ask(state, MLFLOW, "/health") is not None, usual_port=5000
    ),
    Service(
        PREFECT,
        "Prefect",
        _prefect_command,
        lambda state: _ask(state, PREFECT, "/api/health") is not None,
        usual_port=4200,
    ),
)
