"""Flows of the floor test: each writes down, in a file a run, when it starts and when it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.concurrency.sync import concurrency
from prefect.runtime import flow_run

_CHILD = {
    "plain": "import time; time.sleep(600)",
    "deaf": "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); "
    "time.sleep(600)",
    "own session": "import os, time; os.setsid(); print('ready', flush=True); time.sleep(600)",
    "daemon": "import os, time\nif os.fork(): os._exit(0)\nos.setsid()\nif os.fork(): os._exit(0)\n"
    "print(os.getpid(), flush=True)\ntime.sleep(600)",
}


def note(folder: str, what: str, **facts: object) -> None:
    with (Path(folder) / f"{flow_run.get_id()}.jsonl").open("a") as file:
        file.write(json.dumps({"at_s": time.monotonic(), "what": what, "pid": os.getpid(), **facts}) + "\n")


def wait(folder: str, seconds: float) -> None:
    """For so long, or until the test says that it is enough."""
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s and not (Path(folder) / f"{flow_run.get_id()}.enough").exists():
        time.sleep(0.05)


@flow
def plain(folder: str, seconds: float = 0.0) -> None:
    names = ("FLOOR_POOL", "FLOOR_DEPLOYMENT", "FLOOR_RUN", "FLOOR_BOTH")
    note(folder, "start", cwd=str(Path.cwd()), **{name: os.environ.get(name) for name in names})
    try:
        wait(folder, seconds)
    except BaseException as stop:
        note(folder, type(stop).__name__)
        raise
    note(folder, "end")


def _cancelled(flow: object, flow_run: Any, state: object) -> None:
    """Called in the worker, or in a process of its own: it knows only what it is given."""
    Path(flow_run.parameters["folder"], f"{flow_run.id}.cancelled").touch()


@flow(on_cancellation=[_cancelled])
def hooked(folder: str, seconds: float = 0.0) -> None:
    note(folder, "start")
    wait(folder, seconds)


@flow
def parent(folder: str, kind: str, seconds: float = 0.0, deaf: bool = False) -> None:
    """Has a child of a kind. `deaf`: it takes no SIGTERM itself."""
    child = subprocess.Popen([sys.executable, "-c", _CHILD[kind]], stdout=subprocess.PIPE, text=True)
    said = child.stdout.readline().strip() if kind != "plain" and child.stdout else ""
    if deaf:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    note(folder, "start", child=int(said) if said.isdigit() else child.pid)
    wait(folder, seconds)


@flow
def leaves(folder: str, how: str) -> None:
    """Its process ends without a word."""
    note(folder, "start")
    if how == "exit":
        os._exit(3)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    raise ValueError("a reason of its own")


@flow(retries=1, retry_delay_seconds=600)
def tries_again(folder: str) -> None:
    note(folder, "start")
    raise ValueError("once more")


@task(tags=["floor-tag"])
def tagged(folder: str, seconds: float) -> None:
    note(folder, "task start")
    time.sleep(seconds)
    note(folder, "task end")


@flow
def of_tasks(folder: str, seconds: float = 0.5) -> None:
    tagged(folder, seconds)


@flow
def in_turn(folder: str, limit: str, seconds: float = 0.5) -> None:
    with concurrency(limit, occupy=1):
        note(folder, "start")
        time.sleep(seconds)
        note(folder, "end")


def slow_step(folder: str, seconds: float) -> None:
    """A pull step: the run is claimed, and its code has not begun."""
    Path(folder, "pulling").touch()
    time.sleep(seconds)
