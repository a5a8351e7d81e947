"""The real stack: brought up, damaged, repaired, interrupted, and taken down with nothing left."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import psutil
import pytest

from conftest import STARTS_SERVERS_S
from infra.conftest import Command
from trimtab_infra.stack import processes
from trimtab_infra.stack.ports import HOST
from trimtab_infra.stack.services import MLFLOW, PREFECT, WORKER

pytestmark = pytest.mark.timeout(STARTS_SERVERS_S)

Until = Callable[[subprocess.Popen[str], str], str]


def pids(command: Command) -> dict[str, int]:
    """Process ids of the parts."""
    return {name: part.pid for name, part in command.stack.folder.read().parts.items()}


def states(command: Command) -> set[str]:
    """States of the parts."""
    return {part.state for part in command.stack.status()}


def kill(pid: int) -> None:
    """Kill a process, as an operating system short of memory does, and wait until it is gone."""
    process = psutil.Process(pid)
    process.kill()
    psutil.wait_procs([process], timeout=10)


def ask(command: Command, path: str, question: object = None) -> Any:
    """Ask the stack's Prefect server."""
    data = None if question is None else json.dumps(question).encode()
    request = Request(
        f"{command.stack.urls()[PREFECT]}/api{path}", data=data, headers={"Content-Type": "application/json"}
    )
    with urlopen(request, timeout=30) as answer:
        return json.load(answer)


def eventually(check: Callable[[], bool], within_s: float = 120) -> None:
    """Wait until a server, which tells nobody, is in a state."""
    deadline = time.monotonic() + within_s
    while not check():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.1)


@contextmanager
def stranger(port: int) -> Iterator[None]:
    """Another program's server, which finds every question fine."""

    class Agreeable(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"true")

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer((HOST, port), Agreeable) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield
        server.shutdown()
        thread.join()


def test_all_parts_are_ready_and_status_says_where(up: Command) -> None:
    shown = up("status")
    assert shown.returncode == 0, shown.stdout
    assert shown.stdout.count("ready") == 4
    for address in up.stack.urls().values():
        assert address in shown.stdout
    for part in up.stack.status():
        assert part.log is not None
        assert Path(part.log).relative_to(up.state).as_posix() in shown.stdout
        assert str(part.pid) in shown.stdout


def test_pool_blocks_and_deployments_are_there(up: Command) -> None:
    assert ask(up, "/work_pools/trimtab")["type"] == "gpu-process"
    assert [found["name"] for found in ask(up, "/deployments/filter", {})] == ["small"]
    store = ask(up, "/block_types/slug/trimtab-mlflow-tracking/block_documents/name/default")
    assert store["data"]["tracking_uri"] == up.stack.urls()[MLFLOW]


def test_everything_listens_on_this_machine_only(up: Command) -> None:
    found = [
        connection.laddr.ip
        for pid in pids(up).values()
        for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(found) >= 2
    assert set(found) == {HOST}


def test_bringing_it_up_again_changes_nothing(up: Command) -> None:
    before = pids(up)
    again = up("up")
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("as before") == 4
    assert pids(up) == before


def test_a_running_part_does_not_move_to_another_port(up: Command) -> None:
    port = up.stack.folder.read().ports[PREFECT]
    refused = up.refused("up", "--prefect-port", str(port - 1))
    assert f"prefect runs on port {port}; run `trimtab down`" in refused
    assert states(up) == {"ready"}


@pytest.mark.parametrize(
    "part", [PREFECT, pytest.param(MLFLOW, marks=pytest.mark.long), pytest.param(WORKER, marks=pytest.mark.long)]
)
def test_a_part_that_was_killed_is_brought_back_and_the_others_go_on(up: Command, part: str) -> None:
    before, addresses = pids(up), up.stack.urls()
    kill(before[part])
    assert states(up) == {"ready", "stopped"} if part != PREFECT else "stopped" in states(up)
    assert "run `trimtab up` first" in up.refused("lineage", "3")
    repaired = up("up")
    assert repaired.returncode == 0, repaired.stderr
    after = pids(up)
    assert {name for name in after if after[name] != before[name]} == {part}
    assert up.stack.urls() == addresses
    assert states(up) == {"ready"}


def test_deployments_that_are_refused_do_not_stop_a_stack_that_ran(up: Command) -> None:
    before, file = pids(up), up.project / "prefect.yaml"
    good = file.read_text()
    file.write_text(good.replace("waiting.py:waits", "waiting.py:works"))
    try:
        failed = up("up")
    finally:
        file.write_text(good)
    assert failed.returncode == 1
    assert len(failed.stderr.splitlines()) == 1, failed.stderr
    assert "works" in failed.stderr
    assert str(up.state / "logs" / "deploy.log") in failed.stderr
    assert pids(up) == before
    assert states(up) == {"ready"}


def test_a_run_whose_worker_was_killed_goes_on_and_never_runs_twice(up: Command, tmp_path: Path) -> None:
    (deployment,) = ask(up, "/deployments/filter", {})
    run = ask(up, f"/deployments/{deployment['id']}/create_flow_run", {"parameters": {"folder": str(tmp_path)}})
    started = tmp_path / "started"
    started.touch()
    eventually(lambda: started.read_text().endswith("\n"))
    kill(pids(up)[WORKER])
    (first,) = started.read_text().split()
    assert psutil.pid_exists(int(first)), "the run's process goes with its worker here; this test shows nothing"

    repaired = up("up")
    assert repaired.returncode == 0, repaired.stderr
    assert f"goes on: {run['name']}" in repaired.stdout
    assert not psutil.pid_exists(int(first))
    eventually(lambda: started.read_text().count("\n") == 2)
    (tmp_path / "go").touch()
    eventually(lambda: bool(ask(up, f"/flow_runs/{run['id']}")["state"]["type"] == "COMPLETED"))
    assert len(started.read_text().split()) == 2


def test_a_stranger_on_our_port_is_not_taken_for_ours(up: Command) -> None:
    address = up.stack.urls()[MLFLOW]
    processes.kill(processes.family(psutil.Process(pids(up)[MLFLOW])))
    with stranger(up.stack.folder.read().ports[MLFLOW]):
        assert "stopped" in states(up)
        repaired = up("up")
        assert repaired.returncode == 0, repaired.stderr
        assert up.stack.urls()[MLFLOW] != address
        assert states(up) == {"ready"}
    # The worker's runs must learn the new address: the worker, whose environment they inherit, was started anew.
    worker = psutil.Process(pids(up)[WORKER]).environ()
    assert worker["MLFLOW_TRACKING_URI"] == up.stack.urls()[MLFLOW]


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.long)])
def test_interrupted_while_it_starts_it_stops_what_it_started(trimtab: Command, until: Until, number: int) -> None:
    starting = trimtab.start("up")
    until(starting, "Prefect is up")
    assert "another trimtab command is working on" in trimtab.refused("up")
    assert trimtab.left() != []
    starting.send_signal(number)
    _, err = starting.communicate()
    assert starting.returncode == 130
    assert err.splitlines() == ["trimtab: interrupted; everything this command started is stopped"]
    assert trimtab.left() == []
    assert states(trimtab) == {"stopped"}


def test_down_leaves_the_data_and_no_process_and_wipe_leaves_nothing(up: Command) -> None:
    """The last one of those that share a stack."""
    addresses = up.stack.urls()
    assert "Stopped" in up("down").stdout
    assert up.left() == []
    assert (up.state / "prefect" / "prefect.db").exists()
    assert (up.state / "mlflow" / "mlflow.db").exists()

    assert up("up").returncode == 0
    assert up.stack.urls() == addresses
    stack_id = up.stack.folder.read().stack_id
    # Prefect, MLflow with its own child, the worker.
    assert len(processes.members(stack_id)) >= 4
    assert "Stopped" in up("down", "--wipe").stdout
    assert not up.state.exists()
    assert processes.members(stack_id) == []


@pytest.mark.long
def test_two_stacks_that_start_at_the_same_time_both_come_up(small_project: Path, tmp_path: Path) -> None:
    commands = [Command(small_project, tmp_path / name) for name in ("one", "two")]
    try:
        starting = [command.start("up") for command in commands]
        for process in starting:
            _, err = process.communicate()
            assert process.returncode == 0, err
        addresses = {address for command in commands for address in command.stack.urls().values()}
        assert len(addresses) == 4
    finally:
        for command in commands:
            command.end()
    assert [command.left() for command in commands] == [[], []]
