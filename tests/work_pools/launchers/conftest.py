"""A Prefect server, flows that say what they see, and two ways to start their runs: forked, and as stock does."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest

from trimtab_work_pools.launchers.forking import ForkLauncher

FLOWS = """
import json, logging, os, random, signal, sys, threading, time
from pathlib import Path

from prefect import flow
from prefect.context import get_settings_context


@flow
def first_line():
    print(time.time(), flush=True)


@flow
def empty():
    pass


@flow
def reports(word: str):
    context = get_settings_context()
    print(json.dumps({
        "word": word,
        "env": dict(os.environ),
        "cwd": os.getcwd(),
        "argv": [sys.argv, sys.orig_argv],
        "path": [place for place in sys.path if place],
        "main": sys.modules["__main__"].__spec__.name,
        "settings": [context.profile.name, context.settings.api.url, str(context.settings.home)],
        "log_level": context.settings.logging.level,
        "loggers": {
            name: [logging.getLogger(name).getEffectiveLevel(), list(map(str, logging.getLogger(name).handlers))]
            for name in ("", "prefect", "prefect.flow_runs", "prefect.extra", "httpx")
        },
        "session": os.getsid(0) == os.getpid() == os.getpgid(0),
        "handlers": {str(n): str(signal.getsignal(n)).split(" at ")[0] for n in sorted(signal.valid_signals())},
        "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        "thread": threading.current_thread() is threading.main_thread(),
        "bytecode": [sys.dont_write_bytecode, sys.pycache_prefix],
        "timezone": time.tzname,
        "stdout": [sys.stdout.encoding, sys.stdout.errors, sys.stdout.line_buffering, sys.stdout.write_through],
        "umask": os.umask(0o022),
        "files": sorted(os.readlink(f"/proc/self/fd/{fd}").split(":")[0] for fd in range(3)),
    }), flush=True)
    print(json.dumps({"random": random.random(), "fraction": "fractions" in sys.modules}), flush=True)


@flow
def ends(how: str):
    if how == "raises":
        raise ValueError("as it was told to")
    if how == "crashes":
        os._exit(3)
    if how in ("terminated", "cancelling"):
        print("started", flush=True)
        time.sleep(60)


class Signals:
    # Written down as the result of the flow, when its code has ended: as late as that, SIGTERM comes.
    def __reduce__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        return str, ()


@flow(persist_result=True, result_serializer="pickle")
def told_at_its_end():
    return Signals()


@flow(persist_result=True, result_serializer="pickle")
async def told_at_its_end_async():
    return Signals()


@flow
def told_at_the_end_of_a_part():
    told_at_its_end()
    time.sleep(60)


@flow
def waits(until: str):
    print("started", flush=True)
    Path(until).read_text()  # a pipe: blocks until somebody writes
    os._exit(5)
"""


@dataclass(frozen=True)
class Server:
    """A Prefect server, and a folder with the flows."""

    api: httpx.Client
    env: dict[str, str]
    flows: Path

    def run(self, flow: str, **parameters: Any) -> tuple[UUID, dict[str, str]]:
        """A new pending run of a flow, and the environment for its process."""
        return self.create(flow, parameters), {**self.env, "PREFECT__FLOW_ENTRYPOINT": f"{self.flows}:{flow}"}

    def create(self, flow: str, parameters: dict[str, Any], **more: Any) -> UUID:
        """A new pending run."""
        flow_id = self.post("flows/", {"name": flow.replace("_", "-")})["id"]
        run = {"flow_id": flow_id, "parameters": parameters, "state": {"type": "PENDING"}, **more}
        return UUID(self.post("flow_runs/", run)["id"])

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """What the server answers."""
        return self._ask("POST", path, json=body)

    def state(self, run: UUID) -> str:
        """State name of a run."""
        return str(self.read(run)["state"]["name"])

    def read(self, run: UUID) -> dict[str, Any]:
        """A run, as the server knows it."""
        return self._ask("GET", f"flow_runs/{run}")

    def _ask(self, method: str, path: str, **more: Any) -> dict[str, Any]:
        """With SQLite behind it a busy server answers 503, and means: again."""
        give_up = time.monotonic() + 30
        while (answer := self.api.request(method, path, **more)).status_code == 503 and time.monotonic() < give_up:
            time.sleep(0.1)
        answer.raise_for_status()
        return dict(answer.json())


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A Prefect server of these tests' own."""
    folder = tmp_path_factory.mktemp("launchers")
    flows = folder / "flows.py"
    flows.write_text(FLOWS)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "PYTHONDONT"))}
    env = {
        **kept,
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "true",
    }
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--no-services", "--no-ui"]
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT)
    try:
        with httpx.Client(base_url=env["PREFECT_API_URL"], timeout=30, trust_env=False) as api:
            _answers(api, process)
            yield Server(api, env, flows)
    finally:
        process.terminate()
        process.wait()


def _answers(api: httpx.Client, process: subprocess.Popen[bytes]) -> None:
    give_up = time.monotonic() + 100
    while process.poll() is None and time.monotonic() < give_up:
        try:
            if api.get("health").is_success:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise AssertionError(f"the server did not start; exit code {process.poll()}")


@pytest.fixture(scope="session")
def loop() -> Iterator[asyncio.Runner]:
    """One event loop for the tests that share a launcher."""
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="session")
def launcher(loop: asyncio.Runner) -> Iterator[ForkLauncher]:
    """A launcher that is open."""
    opened = loop.run(ForkLauncher().__aenter__())
    yield opened
    loop.run(opened.stop())
