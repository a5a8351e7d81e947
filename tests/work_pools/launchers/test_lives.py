"""Lives and deaths: of the parent, of the launcher, of runs; and what many launches leave behind."""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from trimtab_work_pools.launchers.errors import LaunchError, LaunchFailed, ParentUnfit
from trimtab_work_pools.launchers.forked_run import EXIT_UNKNOWN, ForkedRun
from trimtab_work_pools.launchers.forking import ForkLauncher

pytestmark = pytest.mark.timeout(300)

#: From this kernel on, the exit status of a process whose parent has died can be had.
TELLS_ALL = tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2]) >= (6, 15)


class Gate:
    """A named pipe at which the flow `waits` blocks; it ends with 5 when the gate has been opened."""

    def __init__(self, path: Path) -> None:
        self.path = path
        os.mkfifo(path)

    async def open(self) -> None:
        """Let the flow go on, as soon as it waits."""
        await asyncio.to_thread(self.path.write_text, "go on")


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path / "gate")


async def waiting(launcher: ForkLauncher, server: Any, gate: Gate) -> ForkedRun:
    """A run whose flow has begun, and waits at the gate."""
    run_id, env = server.run("waits", until=str(gate.path))
    ours, its = os.pipe()
    with os.fdopen(ours) as said:
        run = await launcher.launch(run_id, env, stdout=its)
        os.close(its)
        assert await asyncio.to_thread(said.readline) == "started\n"
    return run


def is_gone_within(pid: int, seconds: float) -> bool:
    """Whether a process that is not our child ends in time."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([pidfd], [], [], seconds)[0])
    finally:
        os.close(pidfd)


def test_runs_outlive_the_parent_and_the_next_launch_has_a_new_one(
    server: Any, launcher: ForkLauncher, loop: asyncio.Runner, gate: Gate
) -> None:
    async def story() -> None:
        first = launcher.parent_pid
        assert first is not None
        run = await waiting(launcher, server, gate)
        os.kill(first, signal.SIGKILL)
        code = await (await launcher.launch(*server.run("empty"))).wait()
        assert (code, run.returncode) == (0, None)
        assert launcher.parent_pid not in (first, None)
        await gate.open()
        assert await run.wait() == (5 if TELLS_ALL else EXIT_UNKNOWN)
        run.send_signal(signal.SIGTERM)  # nobody is there, and nobody else is hit

    loop.run(story())


def test_a_parent_killed_while_it_launches_starts_each_run_once(
    server: Any, launcher: ForkLauncher, loop: asyncio.Runner
) -> None:
    runs = [server.run("empty") for _ in range(4)]

    async def story() -> list[int]:
        launches = [asyncio.ensure_future(launcher.launch(*run)) for run in runs]
        await launches[0]
        assert launcher.parent_pid is not None
        os.kill(launcher.parent_pid, signal.SIGKILL)
        return [await run.wait() for run in await asyncio.gather(*launches)]

    assert set(loop.run(story())) <= ({0} if TELLS_ALL else {0, EXIT_UNKNOWN})
    assert [server.read(run_id)["run_count"] for run_id, _ in runs] == [1] * len(runs)
    assert {server.state(run_id) for run_id, _ in runs} == {"Completed"}


@pytest.mark.parametrize("leave_running", [False, True])
def test_a_clean_stop_ends_runs_unless_asked(
    server: Any, loop: asyncio.Runner, gate: Gate, leave_running: bool
) -> None:
    async def story() -> int:
        async with ForkLauncher(leave_running=leave_running) as launcher:
            run = await waiting(launcher, server, gate)
            parent = launcher.parent_pid
        assert parent is not None
        assert is_gone_within(parent, 30)
        if leave_running:
            assert run.returncode is None
            await gate.open()
        return await run.wait()

    ended = loop.run(story())
    assert ended == ((5 if TELLS_ALL else EXIT_UNKNOWN) if leave_running else -signal.SIGTERM)


def test_a_stop_amid_launches_leaves_no_run(server: Any, loop: asyncio.Runner) -> None:
    runs = [server.run("empty") for _ in range(6)]

    async def story() -> list[ForkedRun | BaseException]:
        async with ForkLauncher() as launcher:
            launches = [asyncio.ensure_future(launcher.launch(*run)) for run in runs]
            await launches[0]
        return await asyncio.gather(*launches, return_exceptions=True)

    for outcome, (run_id, _) in zip(loop.run(story()), runs, strict=True):
        if isinstance(outcome, ForkedRun):
            assert outcome.returncode is not None
        else:
            assert isinstance(outcome, LaunchError)
            assert server.state(run_id) == "Pending"


ONE_RUN = """
import asyncio, json, os, sys
from uuid import UUID
from trimtab_work_pools.launchers.forking import ForkLauncher

async def main():
    run_id, env = json.loads(sys.stdin.read())
    async with ForkLauncher() as launcher:
        run = await launcher.launch(UUID(run_id), env, stdout=1)
        print(json.dumps([launcher.parent_pid, run.pid]), flush=True)
        await run.wait()

asyncio.run(main())
"""


def test_runs_outlive_the_launcher_and_the_parent_does_not(server: Any, loop: asyncio.Runner, gate: Gate) -> None:
    run_id, env = server.run("waits", until=str(gate.path))
    launching = subprocess.Popen(
        [sys.executable, "-c", ONE_RUN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert launching.stdin is not None
    assert launching.stdout is not None
    with launching, launching.stdin, launching.stdout:
        launching.stdin.write(json.dumps([str(run_id), env]))
        launching.stdin.close()
        lines = {launching.stdout.readline(), launching.stdout.readline()}
        parent, run = json.loads(next(line for line in lines if line != "started\n"))
        launching.kill()
        assert is_gone_within(parent, 30)
        assert psutil.pid_exists(run)
        loop.run(gate.open())
        assert is_gone_within(run, 30)


def test_a_launch_that_is_given_up_leaves_no_run(server: Any, launcher: ForkLauncher, loop: asyncio.Runner) -> None:
    run_id, env = server.run("empty")

    async def given_up() -> None:
        await (await launcher.launch(*server.run("empty"))).wait()  # or this would wait for a parent
        launch = asyncio.ensure_future(launcher.launch(run_id, env))
        done, _ = await asyncio.wait([launch], timeout=0.01)
        assert not done
        launch.cancel()
        with pytest.raises(asyncio.CancelledError):
            await launch
        assert await (await launcher.launch(*server.run("empty"))).wait() == 0

    loop.run(given_up())
    assert childless(launcher)
    assert server.state(run_id) == "Pending"


def children(launcher: ForkLauncher) -> list[psutil.Process]:
    return list(psutil.Process(launcher.parent_pid).children())


def childless(launcher: ForkLauncher) -> bool:
    """Whether the parent has, soon, neither running children nor zombies."""
    return psutil.wait_procs(children(launcher), timeout=30)[1] == []


@pytest.mark.parametrize("launches", [25, pytest.param(200, marks=pytest.mark.long)])
def test_many_launches_leave_nothing(server: Any, launcher: ForkLauncher, loop: asyncio.Runner, launches: int) -> None:
    run = server.run("empty")
    parent, own = psutil.Process(launcher.parent_pid), psutil.Process()

    async def some(count: int) -> None:
        for _ in range(count):
            begun = await launcher.launch(*run)
            begun.send_signal(signal.SIGKILL)
            assert await begun.wait() == -signal.SIGKILL

    def held() -> tuple[int, int]:
        return own.num_fds(), parent.num_fds()

    loop.run(some(10))
    before, memory = held(), parent.memory_info().rss
    loop.run(some(launches))
    assert held() == before
    assert childless(launcher)
    growth_kib = (parent.memory_info().rss - memory) // 1024
    print(f"the parent grew by {growth_kib} KiB")
    assert growth_kib < 2048


def test_what_cannot_be_forked_with_is_not_preloaded(
    server: Any, loop: asyncio.Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "threaded.py").write_text(
        "import threading, time\nthreading.Thread(target=time.sleep, args=[99], daemon=True).start()\n"
    )
    (tmp_path / "broken.py").write_text("1 / 0\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))

    async def story() -> dict[str, str]:
        preload = ["fractions", "threaded", "broken", "no_such_module"]
        async with ForkLauncher(tmp_path / "state", preload) as launcher:
            assert await (await launcher.launch(*server.run("empty"))).wait() == 0
            return dict(launcher.refused)

    refused = loop.run(story())
    assert set(refused) == {"threaded", "broken", "no_such_module"}
    assert "2 threads" in refused["threaded"]
    assert "ZeroDivisionError" in refused["broken"]


def test_a_launcher_that_is_not_open_says_so(server: Any, loop: asyncio.Runner) -> None:
    with pytest.raises(ParentUnfit, match="async with"):
        loop.run(ForkLauncher().launch(*server.run("empty")))


def test_a_parent_that_cannot_start_says_so(
    loop: asyncio.Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "prefect.py").write_text("raise SystemExit('no Prefect here')\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    with pytest.raises(ParentUnfit, match="ended while it started"):
        loop.run(ForkLauncher().__aenter__())


def test_a_run_that_dies_while_it_is_set_up_says_so(
    server: Any, launcher: ForkLauncher, loop: asyncio.Runner, tmp_path: Path
) -> None:
    run_id, env = server.run("empty")
    os.mkfifo(tmp_path / "logging.yml")  # Prefect reads its logging file while it is set up, and blocks

    async def story() -> None:
        launch = asyncio.ensure_future(
            launcher.launch(run_id, {**env, "PREFECT_LOGGING_SETTINGS_PATH": str(tmp_path / "logging.yml")})
        )
        while not (made := children(launcher)):
            await asyncio.sleep(0.01)
        made[0].kill()
        await launch

    with pytest.raises(LaunchFailed, match="ended with -9 before it was set up"):
        loop.run(story())
    assert server.state(run_id) == "Pending"
