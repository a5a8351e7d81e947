"""Forked runs: they are what stock engine processes are, only sooner."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

import pytest
from prefect.runner._control_channel import ControlChannel, ControlSignalStatus

from trimtab_work_pools.launchers.errors import LaunchRefused, NeedsFreshInterpreter
from trimtab_work_pools.launchers.forking import ForkLauncher

pytestmark = pytest.mark.timeout(300)


class Running(Protocol):
    """What forked and stock runs have in common."""

    @property
    def pid(self) -> int: ...

    async def wait(self) -> int: ...

    def send_signal(self, sig: int) -> None: ...


Start = Callable[..., Awaitable[Running]]


async def stock(flow_run_id: UUID, env: dict[str, str], cwd: Path | None = None, stdout: int | None = None) -> Running:
    """Start a run as the stock process worker does."""
    command = [sys.executable, "-m", "prefect.engine"]
    env = {**env, "PREFECT__FLOW_RUN_ID": str(flow_run_id)}
    return await asyncio.create_subprocess_exec(*command, env=env, cwd=cwd, stdout=stdout, start_new_session=True)


async def speaking(start: Start, *args: Any, **more: Any) -> tuple[Running, asyncio.StreamReader]:
    """Start a run, with a reader of its stdout."""
    ours, its = os.pipe()
    try:
        run = await start(*args, stdout=its, **more)
    finally:
        os.close(its)
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(ours, "rb")
    )
    return run, reader


async def report(start: Start, server: Any, cwd: Path, word: str = "word", **env: str) -> list[dict[str, Any]]:
    """What a run sees: first what must be as in any new process, then what must not."""
    run_id, usual = server.run("reports", word=word)
    run, said = await speaking(start, run_id, {**usual, **env}, cwd)
    lines = [json.loads(line) for line in (await said.read()).splitlines()]
    assert await run.wait() == 0
    assert server.state(run_id) == "Completed"
    return lines


def test_a_forked_run_sees_what_a_stock_one_sees(
    server: Any, launcher: ForkLauncher, loop: asyncio.Runner, tmp_path: Path
) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "profiles.toml").write_text(
        'active = "mine"\n[profiles.mine]\nPREFECT_LOGGING_LEVEL = "ERROR"\n'
    )
    changed = {
        "PREFECT_HOME": str(tmp_path / "home"),
        "ONLY_HERE": "1",
        "PYTHONPATH": os.pathsep.join([str(tmp_path), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]),
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "TZ": "Pacific/Chatham",
        "LONG": "x" * 100_000,
    }

    async def both() -> tuple[Any, Any]:
        return await asyncio.gather(
            report(launcher.launch, server, tmp_path, **changed), report(stock, server, tmp_path, **changed)
        )

    (ours, _), (theirs, _) = loop.run(both())
    run_ids = [seen["env"].pop("PREFECT__FLOW_RUN_ID") for seen in (ours, theirs)]
    assert len(set(run_ids)) == 2
    argv = [seen.pop("argv") for seen in (ours, theirs)]
    assert argv[0] == argv[1]
    assert ours == theirs
    assert (ours["settings"][0], ours["log_level"], ours["cwd"]) == ("mine", "ERROR", str(tmp_path))


def test_nothing_of_one_run_is_seen_by_the_next(
    server: Any, launcher: ForkLauncher, loop: asyncio.Runner, tmp_path: Path
) -> None:
    (one, one_random), (two, two_random) = (
        loop.run(report(launcher.launch, server, tmp_path, word, **env))
        for word, env in (("one", {"ONLY_ONE": "1", "PREFECT_LOGGING_LEVEL": "DEBUG"}), ("two", {}))
    )
    assert (one["word"], one["env"]["ONLY_ONE"], one["log_level"]) == ("one", "1", "DEBUG")
    assert (two["word"], two["log_level"]) == ("two", "INFO")
    assert "ONLY_ONE" not in two["env"]
    assert one_random["random"] != two_random["random"]


HOWS = ("well", "raises", "crashes", "refused", "terminated", "cancelling")


async def end(start: Start, server: Any, how: str, channel: ControlChannel) -> tuple[int, str]:
    """Exit code of a run, and its state afterwards."""
    run_id, env = server.run("ends", how=how)
    if how == "refused":
        server.post(f"flow_runs/{run_id}/set_state", {"state": {"type": "CANCELLING"}})
    if how == "cancelling":
        port, token = channel.register(run_id)
        env |= {"PREFECT__CONTROL_PORT": str(port), "PREFECT__CONTROL_TOKEN": token}
    run, said = await speaking(start, run_id, env)
    if await said.readline() == b"started\n":
        if how == "cancelling":
            assert await channel.signal(run_id, "cancel") == ControlSignalStatus.ACKNOWLEDGED
        run.send_signal(signal.SIGTERM)
    return await run.wait(), server.state(run_id)


def test_runs_end_as_stock_ones_do(server: Any, launcher: ForkLauncher, loop: asyncio.Runner) -> None:
    async def all_ends(start: Start) -> list[tuple[int, str]]:
        async with ControlChannel() as channel:
            return await asyncio.gather(*(end(start, server, how, channel) for how in HOWS))

    ours, theirs = (dict(zip(HOWS, loop.run(all_ends(start)), strict=True)) for start in (launcher.launch, stock))
    print(ours)
    assert ours == theirs
    assert ours["crashes"][0] == 3
    assert ours["terminated"] == (-signal.SIGTERM, "Crashed")
    assert ours["cancelling"] == (0, "Cancelled")


@pytest.mark.parametrize(
    ("flow", "ends"),
    [
        ("told_at_its_end", (0, "Completed")),
        ("told_at_its_end_async", (0, "Completed")),
        ("told_at_the_end_of_a_part", (-signal.SIGTERM, "Crashed")),
    ],
)
def test_a_run_whose_code_has_ended_reports_that_before_it_follows_a_signal(
    server: Any, launcher: ForkLauncher, loop: asyncio.Runner, flow: str, ends: tuple[int, str]
) -> None:
    """Else it would be run again, though its work is done."""

    async def end() -> int:
        run = await launcher.launch(run_id, env)
        return await run.wait()

    run_id, env = server.run(flow)
    assert (loop.run(end()), server.state(run_id)) == ends


@pytest.mark.parametrize("runs", [2, pytest.param(20, marks=pytest.mark.long)])
def test_the_first_line_comes_sooner(server: Any, launcher: ForkLauncher, loop: asyncio.Runner, runs: int) -> None:
    async def first_line_s(start: Start) -> float:
        run_id, env = server.run("first_line")
        asked = time.time()
        run, said = await speaking(start, run_id, env)
        line = float(await said.readline())
        run.send_signal(signal.SIGKILL)
        assert await run.wait() == -signal.SIGKILL
        return line - asked

    seconds: dict[str, list[float]] = {"fork": [], "stock": []}
    for _ in range(runs):  # in turns, because the machine is not equally busy all the time
        seconds["fork"].append(loop.run(first_line_s(launcher.launch)))
        seconds["stock"].append(loop.run(first_line_s(stock)))
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    print({name: (round(medians[name], 3), round(min(each), 3), round(max(each), 3)) for name, each in seconds.items()})
    assert medians["fork"] <= medians["stock"] / 2


def test_a_deployed_flow_with_a_pull_step(
    server: Any, launcher: ForkLauncher, loop: asyncio.Runner, tmp_path: Path
) -> None:
    step = {"prefect.deployments.steps.set_working_directory": {"directory": str(server.flows.parent)}}
    deployment = {
        "name": "forked",
        "flow_id": server.post("flows/", {"name": "reports"})["id"],
        "entrypoint": "flows.py:reports",
        "pull_steps": [step],
    }
    deployed = server.post("deployments/", deployment)["id"]
    run_id = server.create("reports", {"word": "deployed"}, deployment_id=deployed)

    async def said() -> dict[str, Any]:
        run, lines = await speaking(launcher.launch, run_id, server.env, tmp_path)
        first = json.loads(await lines.readline())
        assert await run.wait() == 0
        return dict(first)

    seen = loop.run(said())
    assert (seen["word"], seen["cwd"]) == ("deployed", str(server.flows.parent))
    assert server.state(run_id) == "Completed"


def test_twenty_at_once(server: Any, launcher: ForkLauncher, loop: asyncio.Runner) -> None:
    runs = [server.run("empty") for _ in range(20)]

    async def all_of_them() -> tuple[set[int], list[int]]:
        started = await asyncio.gather(*(launcher.launch(*run) for run in runs))
        return {run.pid for run in started}, await asyncio.gather(*(run.wait() for run in started))

    pids, codes = loop.run(all_of_them())
    assert len(pids) == 20
    assert codes == [0] * 20
    assert {server.state(run_id) for run_id, _ in runs} == {"Completed"}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"cwd": Path("/no/such/folder")}, "/no/such/folder: No such file"),
        ({"cwd": Path("/etc/passwd")}, "/etc/passwd: Not a directory"),
        ({"env": {"A": None}}, "A=None is not text"),
        ({"env": {"A=B": "1"}}, "'A=B'"),
        ({"env": {"A": "\0"}}, "NUL"),
        ({"env": {"PREFECT_API_REQUEST_TIMEOUT": "soon"}}, "Prefect does not accept the environment.*soon"),
        ({"env": {"LD_PRELOAD": "libother.so"}}, "LD_PRELOAD"),
    ],
)
def test_a_wrong_order_is_refused_in_words(
    server: Any, launcher: ForkLauncher, loop: asyncio.Runner, wrong: dict[str, Any], said: str
) -> None:
    run_id, env = server.run("empty")
    parent = launcher.parent_pid
    with pytest.raises(LaunchRefused, match=f"(?s){said}") as refused:
        loop.run(launcher.launch(run_id, {**env, **wrong.get("env", {})}, wrong.get("cwd")))
    assert isinstance(refused.value, NeedsFreshInterpreter) == ("LD_PRELOAD" in said)
    assert server.state(run_id) == "Pending"
    assert launcher.parent_pid == parent
