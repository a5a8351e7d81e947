"""Every process of a run is found and ended, and none of anybody else."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from lineage import KINDS

from trimtab_work_pools.host.clock import ManualClock
from trimtab_work_pools.host.process import Process, Row, find, read_row, rows
from trimtab_work_pools.host.process_tree import MARK, Members, ProcessTree, family
from trimtab_work_pools.host.run_groups import RunGroup, own_group
from trimtab_work_pools.launchers.mark import with_room, write_mark

HERE = Path(__file__).parent


class Lineage:
    """A run with children of these kinds."""

    def __init__(self, *kinds: str) -> None:
        self.claim_id = uuid.uuid4().hex
        self.process = subprocess.Popen(
            [sys.executable, str(HERE.parent / "lineage.py"), *kinds],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, MARK: self.claim_id},
            start_new_session=True,
        )
        assert self.process.stdout is not None
        assert self.process.stdin is not None
        self.children: dict[str, int] = json.loads(self.process.stdout.readline())
        self.main = find(self.process.pid)

    def leave(self) -> None:
        """The first process ends; its children do not."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def living(self) -> set[str]:
        return {kind for kind, pid in self.children.items() if find(pid).ticks}


@contextlib.contextmanager
def lineage(*kinds: str) -> Iterator[Lineage]:
    made = Lineage(*kinds)
    try:
        yield made
    finally:
        for pid in (made.process.pid, *made.children.values()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        made.process.wait()
        for stream in (made.process.stdin, made.process.stdout):
            assert stream is not None
            stream.close()


@pytest.mark.parametrize("alone", [False, True], ids=["its first process lives", "its first process has gone"])
def test_all_of_a_run_ends(alone: bool) -> None:
    """Also what ignores SIGTERM, is in a session of its own, was forked twice, is stopped, or is called nothing."""
    with lineage(*KINDS) as run, lineage("plain", "session") as other:
        tree = ProcessTree(run.claim_id, run.main)
        assert set(tree.pids()) == {run.main.pid, *run.children.values()}
        if alone:
            run.leave()
        anyio.run(tree.end, 0.5)
        assert run.living() == set()
        assert not run.main.alive
        assert other.living() == {"plain", "session"}


def test_a_run_that_was_never_seen_is_found_by_its_claim() -> None:
    """As by a worker that was started when the run's first process had gone already."""
    kinds = set(KINDS) - {"nameless"}
    with lineage(*kinds) as run:
        run.leave()
        tree = ProcessTree(run.claim_id, run.main)
        assert set(tree.pids()) == set(run.children.values())
        anyio.run(tree.end, 0.2)
        assert run.living() == set()


def test_sigterm_comes_before_sigkill_and_the_grace_is_the_clock_s() -> None:
    with lineage("deaf") as run:
        clock = ManualClock()

        async def story() -> None:
            async with anyio.create_task_group() as group:
                group.start_soon(ProcessTree(run.claim_id, run.main).end, 60.0, clock)
                with anyio.fail_after(10):
                    while run.main.alive:
                        await anyio.sleep(0.02)
                clock.suspend_s(3600)
                await anyio.sleep(1.2)
                assert run.living() == {"deaf"}, "a host that sleeps takes nothing of the grace"
                clock.pass_s(61)

        anyio.run(story)
        assert run.living() == set()


def test_what_cannot_be_ended_is_told_once() -> None:
    with lineage("deaf") as run:
        clock, said = ManualClock(), []
        tree = ProcessTree(run.claim_id, run.main)

        class Unkillable(ProcessTree):
            """As if the kernel held them: SIGKILL has no effect until it is allowed."""

            held = True

            def _kill(self) -> int:
                return 0 if self.held else super()._kill()

        tree = Unkillable(run.claim_id, run.main)

        async def story() -> None:
            async with anyio.create_task_group() as group:
                group.start_soon(tree.end, 0.0, clock, said.append)
                await anyio.sleep(0.2)
                assert said == []
                for _ in range(3):
                    clock.pass_s(11)
                    await anyio.sleep(1.1)
                assert len(said) == 1
                tree.held = False

        anyio.run(story)
        assert run.living() == set()


def test_a_run_is_frozen_and_thawed() -> None:
    with lineage("plain", "session", "double_fork", "bare_fork") as run:
        tree = ProcessTree(run.claim_id, run.main)
        tree.freeze()
        states = {row.state for pid in tree.pids() if (row := read_row(pid))}
        assert states == {"T"}
        tree.thaw()
        states = {row.state for pid in tree.pids() if (row := read_row(pid))}
        assert "T" not in states
        tree.freeze()
        anyio.run(tree.end, 5.0)
        assert run.living() == set()


def test_a_process_id_that_is_another_s_now_is_let_alone() -> None:
    with lineage("plain") as other:
        earlier = Process(other.main.pid, other.main.ticks - 1)
        tree = ProcessTree(uuid.uuid4().hex, earlier)
        assert not earlier.alive
        assert tree.pids() == []
        assert earlier.send(signal.SIGKILL) is False
        assert other.living() == {"plain"}


def test_a_process_whose_first_thread_has_ended_is_alive() -> None:
    program = (
        "import ctypes, threading, signal, sys\n"
        "threading.Thread(target=sys.stdin.read).start()\n"
        "print(flush=True)\n"
        "ctypes.CDLL(None).pthread_exit(None)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        for _ in range(200):
            row = read_row(process.pid)
            assert row is not None
            if row.state == "Z":
                break
            threading.Event().wait(0.02)
        assert row.state == "Z"
        assert row.alive
        process.kill()


@pytest.mark.parametrize("name", ["sh", "a) R 1 1 (b", "two words", ")", "("])
def test_a_name_may_be_anything(name: str) -> None:
    program = (
        "import pathlib, sys\n"
        f"pathlib.Path('/proc/self/comm').write_text({name!r})\n"
        "print(flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        row = read_row(process.pid)
        assert row is not None
        assert (row.name, row.parent) == (name, os.getpid())


def row(pid: int, parent: int = 1, session: int = 1, ticks: int = 100, alive: bool = True) -> Row:
    return Row(Process(pid, ticks), "x", "S", parent, session, session, alive)


def table(*found: Row) -> dict[int, Row]:
    return {one.process.pid: one for one in found}


def test_a_family_is_what_descends_and_what_is_in_its_sessions() -> None:
    now = table(row(10, session=10), row(11, 10, 10), row(12, 1, 10), row(13, 11, 13), row(14, 1, 13), row(20, 1, 20))
    found = family(now, {10}, Members())
    assert {one.pid for one in found.processes} == {10, 11, 12, 13, 14}
    assert found.sessions == {10, 13}
    later = family(table(row(14, 1, 13), row(12, 1, 10), row(20, 1, 20)), (), found)
    assert {one.pid for one in later.processes} == {12, 14}, "the leaders have gone"
    reused = family(table(row(14, 1, 13), row(13, 1, 13, ticks=900), row(30, 13, 13)), (), found)
    assert {one.pid for one in reused.processes} == {14}, "session 13 is another's now"
    assert family(table(row(10, ticks=900)), (), found).processes == frozenset()
    assert family(table(row(10, alive=False)), {10}, found).processes == frozenset()
    assert family(now, {10}, Members(), never=(11,)).processes.isdisjoint({now[11].process, now[13].process})


def test_a_fork_has_its_claim_where_others_read_it() -> None:
    """A forked run has the environment block of its parent, which was started with room for it."""
    claim_id = uuid.uuid4().hex
    program = (
        "import os, sys\n"
        "from trimtab_work_pools.launchers.mark import write_mark\n"
        "write_mark(sys.argv[1])\n"
        "child = os.fork()\n"
        "print(open(f'/proc/{os.getpid()}/environ').read().split(chr(0)).count('TRIMTAB_CLAIM=' + sys.argv[1]))\n"
    )
    for env, times in ((with_room({"A": "b"}), "1"), ({"A": "b"}, "0"), (with_room({"TRIMTAB_CLAIM": "other"}), "1")):
        done = subprocess.run(
            [sys.executable, "-c", program, claim_id], env=env, capture_output=True, text=True, timeout=30, check=True
        )
        assert done.stdout.split() == [times, times], "it and its child"
    write_mark("too short")


@pytest.fixture
def groups(tmp_path: Path) -> Iterator[Path]:
    """A group of version 2 in which groups may be made, as a delegated one."""
    mounted = tmp_path / "cgroup"
    mounted.mkdir()
    done = subprocess.run(["mount", "-t", "cgroup2", "none", str(mounted)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"control groups of version 2 cannot be mounted here: {done.stderr.strip()}")
    base = mounted / f"trimtab-test-{os.getpid()}"
    base.mkdir()
    try:
        yield base
    finally:
        for folder in sorted(base.rglob("*"), reverse=True):
            if folder.is_dir():
                folder.rmdir()
        base.rmdir()
        subprocess.run(["umount", str(mounted)], check=True)


def test_a_group_holds_even_what_has_no_other_mark(groups: Path) -> None:
    """A daemon with an empty environment, whose parents have gone."""
    claim_id = uuid.uuid4().hex
    group = RunGroup.make(claim_id, groups)
    assert group is not None
    program = (
        "import subprocess\n"
        "sleep = ['sleep', '1000']\n"
        "print(subprocess.Popen(sleep, env={}, start_new_session=True, stdout=subprocess.DEVNULL).pid)\n"
    )
    shell = ["sh", "-c", 'read go; exec "$@"', "sh", sys.executable, "-c", program]
    with subprocess.Popen(shell, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as run:
        assert group.enter(run.pid)
        out, _ = run.communicate("go\n")
    daemon = find(int(out))
    assert daemon.alive
    tree = ProcessTree(claim_id, None, group)
    assert tree.pids() == [daemon.pid]
    tree.freeze()
    assert (group.folder / "cgroup.freeze").read_text().strip() == "1"
    anyio.run(tree.end, 2.0)
    assert not daemon.alive
    assert not group.folder.exists()


def test_without_a_group_of_ours_there_is_none(tmp_path: Path) -> None:
    """What systemd manages is left alone unless it was delegated; what cannot be written is not tried."""

    def host(group: str, mounted: bool = True) -> Path:
        root = tmp_path / uuid.uuid4().hex
        (root / "proc/self").mkdir(parents=True)
        (root / "proc/self/cgroup").write_text(f"9:name=systemd:/\n0::{group}\n")
        line = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n" if mounted else ""
        (root / "proc/self/mountinfo").write_text(f"1 1 0:1 / / rw - ext4 /dev/x rw\nan odd line\n{line}")
        folder = root / "sys/fs/cgroup" / group.lstrip("/")
        folder.mkdir(parents=True)
        (folder / "cgroup.procs").touch()
        return root

    plain = host("/")
    assert own_group(plain) == plain / "sys/fs/cgroup"
    assert own_group(host("/", mounted=False)) is None
    assert own_group(host("/system.slice/trimtab-worker.service")) is None
    assert own_group(tmp_path / "nowhere") is None
    delegated = host("/system.slice/trimtab-worker.service")
    folder = delegated / "sys/fs/cgroup/system.slice/trimtab-worker.service"
    try:
        os.setxattr(folder, "user.delegate", b"1")
    except OSError:
        return  # this file system has no such attributes
    assert own_group(delegated) == folder


def test_every_process_is_seen() -> None:
    assert rows()[os.getpid()].process == find(os.getpid())
    assert find(2**22 + 5).ticks == 0
    assert find(0).ticks == 0
