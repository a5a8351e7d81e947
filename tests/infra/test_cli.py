"""The command line without a stack: wrong input gives one line and exit code 2, and nothing is started."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from infra.conftest import Command
from trimtab_infra.stack.ports import HOST
from trimtab_infra.stack.state import FORMAT


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["frobnicate"], "No such command 'frobnicate'"),
        (["up", "--frobnicate"], "No such option: --frobnicate"),
        (["up", "--prefect-port", "many"], "'--prefect-port'"),
        (["up", "--mlflow-port", "65536"], "'--mlflow-port'"),
        (["lineage"], "Missing argument 'MODEL_VERSION'"),
        (["demo", "--through", "someday"], "someday"),
        (["demo", "--recipe", "nowhere:flights"], "there is no module 'nowhere'"),
        (["demo", "--recipe", "flights"], "write module:attribute"),
        (["demo", "--recipe", "waiting:nothing"], "module 'waiting' has no 'nothing'"),
        (["demo", "--recipe", "broken:recipe"], "SyntaxError"),
        (["demo", "--recipe", "a:b:c"], "recipe 'a:b:c'"),  # no emoji is made of it
        (["lineage", "3"], "run `trimtab up` first"),
        (["replay", "flights/3"], "run `trimtab up` first"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_input_is_refused_in_one_line(trimtab: Command, command: list[str], says: str) -> None:
    (trimtab.project / "broken.py").write_text("def recipe(:\n")
    assert says in trimtab.refused(*command)
    assert not trimtab.state.exists()


@pytest.mark.parametrize("command", [["fleet", "gpus"], ["why", "flow/name"], ["why", "run"], ["runs", "--node", "a"]])
def test_a_server_that_refuses_the_credentials(
    trimtab: Command, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(200 if self.path.endswith("/health") else 401)
            self.end_headers()

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer((HOST, 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("PREFECT_API_URL", f"http://{HOST}:{server.server_port}/api")
        assert "refuses the credentials (401): put the right string into PREFECT_API_AUTH_STRING" in trimtab.refused(
            *command
        )
        server.shutdown()


def test_a_project_without_deployments_is_refused(trimtab: Command, tmp_path: Path) -> None:
    for command in ("up", "demo"):
        assert f"{tmp_path} has no prefect.yaml" in trimtab.refused(command, "--project", str(tmp_path))
    assert not trimtab.state.exists()


def test_a_port_in_use_is_refused(trimtab: Command) -> None:
    with socket.create_server((HOST, 0)) as server:
        port = server.getsockname()[1]
        assert f"port {port} for prefect is in use" in trimtab.refused("up", "--prefect-port", str(port))
    assert trimtab.left() == []


def test_a_folder_that_is_not_ours_is_refused_and_left_alone(trimtab: Command) -> None:
    trimtab.state.mkdir()
    thesis = trimtab.state / "thesis.tex"
    thesis.touch()
    assert "is no state folder of Trimtab" in trimtab.refused("up")
    assert "is left alone" in trimtab.refused("down", "--wipe")
    assert "is left alone" in trimtab.refused("demo", "--fresh")
    assert list(trimtab.state.iterdir()) == [thesis]


@pytest.mark.parametrize("command", [["up"], ["down"], ["down", "--wipe"], ["status"], ["lineage", "3"]])
def test_a_folder_of_another_version_is_refused(trimtab: Command, tmp_path: Path, command: list[str]) -> None:
    file = tmp_path / "newer" / "stack.json"
    file.parent.mkdir()
    file.write_text(json.dumps({"format": FORMAT + 1, "stack_id": "x", "ports": {}, "parts": {}}))
    refused = trimtab.refused(*command, "--state", str(file.parent))
    assert f"another version of Trimtab (format {FORMAT + 1}" in refused
    assert file.exists()


def test_a_stack_that_is_not_up(trimtab: Command) -> None:
    shown = trimtab("status")
    assert shown.returncode == 1
    assert shown.stdout.count("stopped") == 4
    assert "Nothing was running" in trimtab("down").stdout
    assert not trimtab.state.exists()


def test_what_nobody_thought_of_is_one_line_and_a_file_with_the_details(trimtab: Command) -> None:
    trimtab.stack.folder.claim()
    trimtab.stack.folder.prepare()
    (trimtab.state / "logs" / "prefect.log").mkdir()
    failed = trimtab("up")
    assert failed.returncode == 1
    (line,) = failed.stderr.splitlines()
    (details,) = (trimtab.state / "logs").glob("crash-*.txt")
    assert line.startswith("trimtab: IsADirectoryError")
    assert str(details) in line
    assert "Traceback" in details.read_text()
    assert trimtab.left() == []


def test_without_a_command_it_says_what_there_is() -> None:
    done = subprocess.run([sys.executable, "-m", "trimtab_infra"], capture_output=True, text=True, check=True)
    for command in ("up", "down", "status", "demo", "lineage", "replay"):
        assert f" {command} " in done.stdout
    assert done.stderr == ""


def test_the_command_line_starts_without_the_packages_that_take_seconds() -> None:
    program = "import sys, trimtab_infra.cli; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not {"prefect", "mlflow", "polars", "pandera", "httpx", "trimtab_flows"} & set(loaded)
