"""A Docker engine that is stopped: nothing is started, it is said why, and it heals."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from trimtab_work_pools.worker import containers
from trimtab_work_pools.worker.containers import Containers


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[bytes]]:
    socket = tmp_path / "docker.sock"
    program = Path(__file__).with_name("silent_engine.py")
    with subprocess.Popen([sys.executable, str(program), str(socket)], stdout=subprocess.PIPE) as started:
        assert started.stdout is not None
        started.stdout.readline()
        monkeypatch.setenv("DOCKER_HOST", f"unix://{socket}")
        yield started
        started.kill()


def test_an_engine_that_is_stopped_is_a_problem_until_it_goes_on(
    engine: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(containers, "_PING_S", 0.5)
    monkeypatch.setattr(containers, "_AGAIN_S", 0.0)
    lives = Containers()

    async def asked() -> str:
        return await lives.problem()

    assert anyio.run(asked) == ""
    engine.send_signal(signal.SIGSTOP)
    began_s = time.monotonic()
    assert "the Docker engine does not answer within 0.5 s" in anyio.run(asked)
    assert time.monotonic() - began_s < 5
    engine.send_signal(signal.SIGCONT)
    assert anyio.run(asked) == ""
    lives.close()
