"""A worker's own error never costs a run: its node is withdrawn, or the worker goes and leaves its runs to the next."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from trimtab_work_pools.host.directory import HostDirError, try_out
from trimtab_work_pools.host.process import find
from trimtab_work_pools.worker.host_claims import HostClaims

from .conftest import HERE, Pool, until
from .test_host_claims import claim

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> None:
    with (folder / "filler").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            return


def empty(folder: Path) -> None:
    (folder / "filler").unlink()


def lose(folder: Path) -> None:
    shutil.rmtree(folder / "claims")
    (folder / "claims").write_text("a file, where the folder was")


def find_again(folder: Path) -> None:
    (folder / "claims").unlink()


FAULTS = [
    pytest.param(fill, empty, "host dir full: 0 MiB free in", id="full"),
    pytest.param(lose, find_again, "host dir is no folder", id="missing"),
]


@pytest.mark.parametrize(("spoil", "heal", "said"), FAULTS)
def test_a_node_whose_folder_fails_takes_nothing_new_and_heals(
    pool: Pool, small_disk: Path, spoil: Callable[[Path], None], heal: Callable[[Path], None], said: str
) -> None:
    """One run goes on all the while, one ends meanwhile, one that is submitted meanwhile starts when it is healed."""
    claims = small_disk / "claims"
    deployment = pool.deploy("any", cpus=1)
    worker = pool.worker("only", {"PREFECT_WORKER_QUERY_SECONDS": "1"}, node_cpus=3, host_dir=claims)
    goes_on, ends = pool.run(deployment, seconds=1000), pool.run(deployment, seconds=8)
    pids = {run_id: pool.await_started(run_id)["pid"] for run_id in (goes_on, ends)}
    spoil(small_disk)
    waits = pool.run(deployment)
    until(lambda: said in pool.logs(), 60, f"the reason is said; {pool.logs()}")
    until(lambda: said in str(getattr(pool.state(waits).state, "message", "")), 60, "why it waits")
    pool.await_state(ends, "Completed", 60)
    until(lambda: not find(pids[ends]).ticks, 30, "its process has gone")
    assert pool.lines(waits) == []
    assert worker.poll() is None, pool.logs()
    assert find(pids[goes_on]).ticks
    heal(small_disk)
    pool.await_state(waits, "Completed", 60)
    assert "takes runs again" in (pool.folder / "worker-only-0.log").read_text()
    assert find(pids[goes_on]).ticks
    until(lambda: [one.stem for one in claims.glob("*.json")] == [goes_on], 30, "the claims are what is held")
    assert [line["what"] for line in pool.lines(ends)] == ["start", "end"]
    log = (pool.folder / "worker-only-0.log").read_text()
    assert log.count(said) <= 2, "once, and when it is right again"
    assert "Traceback" not in log


@pytest.mark.parametrize("launch", ["fork", "process"])
def test_a_worker_that_ends_by_an_error_leaves_its_runs_to_the_next(pool: Pool, launch: str) -> None:
    mark = pool.folder / "mark"
    program = [str(HERE / "failing_worker.py"), str(mark)]
    worker = pool.worker("only", {"PREFECT_WORKER_QUERY_SECONDS": "1"}, program, node_cpus=1, launch=launch)
    run_id = pool.run(pool.deploy("any", cpus=1), seconds=20)
    pid = pool.await_started(run_id)["pid"]
    mark.touch()
    assert worker.wait(60) != 0
    assert find(pid).ticks, "as after kill -9"
    pool.worker("only", node_cpus=1, launch=launch)
    until(lambda: "goes on as" in pool.logs(), 60, "adopted")
    pool.await_state(run_id, "Completed", 60)
    assert [line["what"] for line in pool.lines(run_id)] == ["start", "end"]


def test_what_is_wrong_with_the_folder_is_said_in_words(tmp_path: Path, small_disk: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(HostDirError, match="host dir is no folder, and cannot be made"):
        HostClaims(file)
    claims = HostClaims(small_disk / "claims")
    try_out(claims.directory)
    fill(small_disk)
    with pytest.raises(HostDirError, match="host dir full: 0 MiB free in"):
        try_out(claims.directory)
    with pytest.raises(HostDirError, match="host dir full: 0 MiB free in"):
        claims.acquire(claim("r1", ("GPU-0", 1000)))
    assert not list(claims.directory.glob("*.json"))
    assert not list(claims.directory.glob("r*")), "nothing half written"
    empty(small_disk)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for use in (claims.all, lambda: claims.release("r1", "c1"), lambda: claims.take_name("w", "p", "")):
        with pytest.raises(HostDirError, match="host dir is read-only:"):
            use()
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    assert claims.acquire(claim("r1", ("GPU-0", 1000)))


def test_what_is_on_file_becomes_what_is_held(tmp_path: Path) -> None:
    claims = HostClaims(tmp_path)
    held, gone, others = (claim(name, (f"GPU-{name}", 1000)) for name in ("r1", "r2", "r3"))
    assert claims.acquire(gone)
    other = HostClaims(tmp_path)
    assert other.acquire(replace(others, worker="w2"))
    claims.settle("w1", "pool", "", [held])
    assert [one.holding.run_id for one in claims.all()] == ["r1", "r3"]
    shutil.rmtree(tmp_path)
    claims.settle("w1", "pool", "", [held])
    assert [one.holding.run_id for one in claims.all()] == ["r1"]
    assert claims.directory.stat().st_mode & 0o777 == 0o700
