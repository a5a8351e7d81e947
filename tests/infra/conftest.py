"""The command line as a person uses it: a process of its own, in a small project of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from trimtab_infra.stack import processes
from trimtab_infra.stack.stack import Stack

#: A run of this flow notes its process, then waits until it is told to go on.
FLOW = """
import os
import time
from pathlib import Path

from prefect import flow


@flow
def waits(folder: str) -> None:
    with Path(folder, "started").open("a") as started:
        started.write(f"{os.getpid()}\\n")
    while not Path(folder, "go").exists():
        time.sleep(0.05)
"""

DEPLOYMENTS = """
name: small
prefect-version: 3.8.8
pull:
  - prefect.deployments.steps.set_working_directory:
      directory: "{{ $PWD }}"
deployments:
  - name: small
    entrypoint: waiting.py:waits
    work_pool: {name: trimtab, work_queue_name: default}
"""


@dataclass
class Command:
    """Runs `trimtab` for one project and state folder. Whatever it is asked, it never shows a traceback."""

    project: Path
    state: Path
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def __call__(self, name: str, *options: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        process = self.start(name, *options)
        out, err = process.communicate()
        assert "Traceback" not in out + err, out + err
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def start(self, name: str, *options: str) -> subprocess.Popen[str]:
        """Start a command and go on."""
        process = subprocess.Popen(
            [sys.executable, "-m", "trimtab_infra", name, *options],
            cwd=self.project,
            env={**os.environ, "TRIMTAB_STATE": str(self.state)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        return process

    def refused(self, name: str, *options: str) -> str:
        """Run a command that must be refused: exit code 2 and one line, which is returned."""
        done = self(name, *options)
        lines = done.stderr.splitlines()
        assert (done.returncode, len(lines)) == (2, 1), f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert lines[0].startswith("trimtab: ")
        return lines[0]

    @property
    def stack(self) -> Stack:
        """The stack of the state folder, as it is now."""
        return Stack(self.state, self.project)

    def left(self) -> list[str]:
        """The stack's processes that are alive."""
        return [str(process) for process in processes.members(self.stack.folder.read().stack_id)]

    def end(self) -> None:
        """End what tests left running, by the processes they started."""
        for process in self.started:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
            process.communicate()
        self.stack.down()


@pytest.fixture(scope="session")
def small_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with one deployment, in a folder whose name has a space."""
    folder = tmp_path_factory.mktemp("small project")
    (folder / "waiting.py").write_text(FLOW)
    (folder / "prefect.yaml").write_text(DEPLOYMENTS)
    return folder


@pytest.fixture
def trimtab(small_project: Path, tmp_path: Path) -> Iterator[Command]:
    """The command, for a state folder that does not exist yet."""
    command = Command(small_project, tmp_path / "state")
    yield command
    command.end()


@pytest.fixture(scope="module")
def up(small_project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """The command, for a stack that was brought up once for all tests of a module; each leaves it up."""
    command = Command(small_project, tmp_path_factory.mktemp("up") / "state")
    done = command("up")
    assert done.returncode == 0, done.stderr
    yield command
    command.end()
    assert command.left() == []


@pytest.fixture
def until() -> Callable[[subprocess.Popen[str], str], str]:
    """Read a process's output up to the line that has a text in it."""

    def read(process: subprocess.Popen[Any], text: str) -> str:
        for line in process.stdout or ():
            if text in line:
                return str(line)
        raise AssertionError(f"it ended without saying {text!r}: {process.communicate()[1]}")

    return read
