"""Starting processes, knowing them again, and ending all of them."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import psutil
import pytest

from trimtab_infra.stack import processes
from trimtab_infra.stack.ports import HOST
from trimtab_infra.stack.state import Part

#: Says that it is ready, then stays.
STAYS = "import signal; print('ready', flush=True); signal.pause()"

#: Stays even when asked to end.
IS_DEAF = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {STAYS}"

#: Starts a process in a session of its own, which stays when its parent has gone.
HAS_A_CHILD = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "print('child', flush=True); import signal; signal.pause()"],
                         start_new_session=True)
{STAYS}
"""

Spawn = Callable[..., Part]


@pytest.fixture
def stack_id() -> Iterator[str]:
    """An id of no stack; what carries it is ended in the end."""
    identity = uuid4().hex
    yield identity
    processes.kill(processes.members(identity))


@pytest.fixture
def spawn(stack_id: str, tmp_path: Path) -> Spawn:
    """Start a Python program and wait until it has said what it is to say."""

    def start(program: str, *said: str) -> Part:
        log = tmp_path / f"{uuid4().hex}.log"
        os.mkfifo(log)
        # Held open for both, so that neither side waits for the other to open it.
        reader = os.open(log, os.O_RDWR)
        part = processes.spawn([sys.executable, "-c", program], {processes.STACK_ID: stack_id}, tmp_path, log)
        heard = ""
        while not all(word in heard for word in said or ("ready",)):
            heard += os.read(reader, 1000).decode()
        os.close(reader)
        return part

    return start


def test_a_part_is_found_while_it_lives(spawn: Spawn) -> None:
    part = spawn(STAYS)
    process = processes.find(part)
    assert process is not None
    assert process.pid == part.pid
    processes.stop({process: 5})
    assert processes.find(part) is None


def test_another_process_with_the_same_id_is_not_the_part(spawn: Spawn) -> None:
    part = spawn(STAYS)
    assert processes.find(replace(part, ticks=part.ticks - 1)) is None
    assert processes.find(replace(part, boot_id="an earlier start of the host")) is None
    assert processes.find(replace(part, ticks=0, started=part.started - 3600)) is None, "of a version before"


def test_a_part_is_found_after_a_step_of_the_clock(spawn: Spawn) -> None:
    part = spawn(STAYS)
    assert processes.find(replace(part, started=part.started - 3600)) is not None


def test_a_process_has_a_session_of_its_own_so_that_our_terminal_does_not_reach_it(spawn: Spawn) -> None:
    assert os.getsid(spawn(STAYS).pid) != os.getsid(0)


def test_a_process_hears_an_interrupt_even_if_this_one_ignores_it(spawn: Spawn) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        part = spawn("import signal; print(signal.getsignal(signal.SIGINT), 'ready', flush=True); signal.pause()")
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    os.kill(part.pid, signal.SIGINT)
    process = processes.find(part)
    assert process is None or process.wait(5) is not None


def test_a_process_that_does_not_listen_is_killed(spawn: Spawn) -> None:
    process = processes.find(spawn(IS_DEAF))
    assert process is not None
    processes.stop({process: 0.2})
    assert not process.is_running()


def test_stopping_ends_what_the_process_started(spawn: Spawn, stack_id: str) -> None:
    process = processes.find(spawn(HAS_A_CHILD, "ready", "child"))
    assert process is not None
    assert len(processes.members(stack_id)) == 2
    processes.stop({process: 5})
    assert processes.members(stack_id) == []


def test_an_orphan_is_still_known_by_its_stack(spawn: Spawn, stack_id: str) -> None:
    part = spawn(HAS_A_CHILD, "ready", "child")
    os.kill(part.pid, signal.SIGKILL)
    psutil.Process(part.pid).wait(5)
    assert len(processes.members(stack_id)) == 1
    assert processes.kill(processes.members(stack_id)) == 1
    assert processes.members(stack_id) == []


def test_other_stacks_are_left_alone(spawn: Spawn) -> None:
    part = spawn(STAYS)
    assert processes.members(uuid4().hex) == []
    assert processes.find(part) is not None


def test_who_listens_on_a_port(spawn: Spawn) -> None:
    with socket.create_server((HOST, 0)) as server:
        port = server.getsockname()[1]
        assert processes.listens(psutil.Process(), port)
        stranger = processes.find(spawn(STAYS))
        assert stranger is not None
        assert not processes.listens(stranger, port)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_what_must_be_finished_is_finished(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with processes.uninterrupted():
        os.kill(os.getpid(), number)
        finished = True
    assert finished
    assert signal.getsignal(number) == before


def test_the_tail_of_a_log(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    assert processes.tail(log) == ""
    log.write_text("\n".join(str(number) for number in range(100)))
    assert processes.tail(log, 2) == "98\n99"
