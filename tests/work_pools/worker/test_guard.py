"""The runs of a worker that was killed stand still before a peer may start them again, without any worker."""

from __future__ import annotations

import os
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from prefect.events import emit_event
from prefect.states import Scheduled

from trimtab_work_pools.host.clock import SYSTEM, ManualClock
from trimtab_work_pools.host.fence_files import Heard
from trimtab_work_pools.host.guard import Guard, is_guarded
from trimtab_work_pools.host.heartbeats import Heartbeats, ServerAccess
from trimtab_work_pools.host.process import find
from trimtab_work_pools.host.process_tree import MARK
from trimtab_work_pools.ledger import Holding
from trimtab_work_pools.resources import Demand, Placement
from trimtab_work_pools.server.access import server_access
from trimtab_work_pools.worker.host_claims import HostClaim, HostClaims, tree_of

from .conftest import Pool, stands_still, until
from .refusing_proxy import RefusingProxy

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def proxy(environment: dict[str, str]) -> Iterator[RefusingProxy]:
    with RefusingProxy(os.environ["PREFECT_API_URL"]) as found:
        yield found


def killed(pool: Pool, env: dict[str, str], before: Callable[[], object] = lambda: None) -> tuple[str, psutil.Process]:
    """A run whose worker was killed, and its process, which the guard of the host has stand still."""
    run_id = pool.run(pool.deploy("any", cpus=1), seconds=20)
    worker = pool.worker("a", env, node_cpus=1, host_lost_seconds=8)
    process = psutil.Process(pool.await_started(run_id)["pid"])
    until(lambda: is_guarded(folder(pool)), 30, "a guard is there")
    before()
    worker.kill()
    worker.wait()
    until(lambda: stands_still(process), 30, "it stands still")
    assert list(folder(pool).glob("*.frozen"))
    until(lambda: f"Run {run_id} stands still: its worker is gone" in log(pool), 5, "it is said")
    return run_id, process


def folder(pool: Pool) -> Path:
    return pool.folder / "host-a"


def log(pool: Pool) -> str:
    return (folder(pool) / f"guard-{os.getuid()}.log").read_text()


def nothing_is_left(pool: Pool) -> None:
    """Neither a mark, nor a word of a worker, nor the guard."""
    for worker in pool.workers:
        worker.terminate()
        worker.wait(60)
    until(lambda: not is_guarded(folder(pool)), 30, "the guard has ended")
    assert not [*folder(pool).glob("*.frozen"), *folder(pool).glob("*.heard")]


def test_the_next_worker_has_the_run_of_a_killed_one_go_on(pool: Pool) -> None:
    run_id, process = killed(pool, {})
    done = pool.lines(run_id)
    pool.worker("a", node_cpus=1, host_lost_seconds=8)
    until(lambda: not stands_still(process), 90, f"it goes on; {pool.logs()}")
    assert pool.lines(run_id)[: len(done)] == done
    pool.await_state(run_id, "Completed", 60)
    assert [line["what"] for line in pool.lines(run_id)] == ["start", "end"]
    nothing_is_left(pool)


@pytest.mark.long
def test_the_next_worker_ends_a_run_that_was_given_to_others_meanwhile(proxy: RefusingProxy, pool: Pool) -> None:
    """The host is cut off when its worker dies."""
    env = {"PREFECT_API_URL": proxy.url, "PREFECT_CLIENT_MAX_RETRIES": "0"}
    run_id, process = killed(pool, env, before=lambda: proxy.refuse("."))
    pool.client.set_flow_run_state(uuid.UUID(run_id), Scheduled(name="LostHost"), force=True)
    done = pool.lines(run_id)
    proxy.rules.clear()
    pool.worker("a", env, node_cpus=1, host_lost_seconds=8)
    until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE, 90, f"ended; {pool.logs()}")
    assert pool.lines(run_id)[: len(done)] == done
    pool.await_state(run_id, "Completed", 90)
    assert [line["what"] for line in pool.lines(run_id)] == ["start", "start", "end"]
    nothing_is_left(pool)


@pytest.fixture
def orphan(tmp_path: Path, environment: dict[str, str]) -> Iterator[HostClaim]:
    """The claim of a living process, in `tmp_path`, whose worker is dead."""
    claim_id, server = f"c-{uuid.uuid4()}", os.environ["PREFECT_API_URL"]
    holding = Holding(str(uuid.uuid4()), Demand(), Placement("a"), 0.0, 0.0, claim_id)
    dead = subprocess.Popen(["true"])
    worker = find(dead.pid)
    dead.wait()
    command = ["sh", "-c", "sleep 600 & sleep 600"]
    with subprocess.Popen(command, env={**os.environ, MARK: claim_id}, start_new_session=True) as run:
        main = find(run.pid)
        claim = HostClaim(claim_id, "w", worker.pid, worker.ticks or 1, "p", holding, (), SYSTEM.boot_id)
        claim = replace(claim, pid=main.pid, pid_ticks=main.ticks, server=server)
        assert HostClaims(tmp_path).acquire(claim)
        try:
            yield claim
        finally:
            tree_of(claim).send(signal.SIGKILL)


def still(claim: HostClaim) -> set[str]:
    """States of all its processes."""
    return {psutil.Process(pid).status() for pid in tree_of(claim).pids()}


def test_a_run_goes_on_while_the_server_hears_of_itself(tmp_path: Path, orphan: HostClaim) -> None:
    """By its heartbeats, as peers do; from the last one on the time begins anew."""
    clock, said = ManualClock(boot_id=SYSTEM.boot_id), list[str]()
    who = (orphan.worker, orphan.pool, orphan.server, orphan.worker_pid, orphan.worker_ticks, clock.boot_id)
    Heard(*who, clock.boot_s(), time.time() - 200, 300.0).write(tmp_path)
    beats = Heartbeats(server_access())
    guard = Guard(tmp_path, beats, said.append, clock)
    emit_event("prefect.flow-run.heartbeat", {"prefect.resource.id": f"prefect.flow-run.{orphan.holding.run_id}"})
    clock.pass_s(200)

    def beat() -> bool:
        assert guard.look()
        return beats.last_s(orphan.holding.run_id) is not None

    until(beat, 60, "the server has it")
    clock.pass_s(100)
    guard.look()
    assert psutil.STATUS_STOPPED not in still(orphan), "300 s after its worker was heard of last, 100 s after itself"
    clock.pass_s(150)
    guard.look()
    until(lambda: still(orphan) == {psutil.STATUS_STOPPED}, 10, "all of it stands still")
    assert "the server has heard of neither for 2" in said[0]
    (frozen,) = tmp_path.glob("*.frozen")
    assert frozen.stem == orphan.claim_id
    assert float(frozen.read_text()) == pytest.approx(time.time() + 250, abs=60), "by the server's clock"
    tree_of(orphan).send(signal.SIGKILL)
    until(lambda: guard.look() is None, 10, "there is nothing to guard")
    HostClaims(tmp_path).release(orphan.holding.run_id, orphan.claim_id)
    assert guard.look() is None
    assert not [*tmp_path.glob("*.frozen"), *tmp_path.glob("*.heard")]


def test_a_server_that_does_not_answer_is_no_word_of_a_run(tmp_path: Path, orphan: HostClaim) -> None:
    """Nor is a folder that cannot be written a reason to let it go on; its next worker does not know then."""
    clock, said = ManualClock(boot_id=SYSTEM.boot_id), list[str]()
    guard = Guard(tmp_path, Heartbeats(ServerAccess("http://127.0.0.1:9/api")), said.append, clock)
    guard.look()
    (tmp_path / f"{orphan.claim_id}.{os.getpid()}").mkdir()  # in the place of its draft
    clock.pass_s(230)
    guard.look()
    assert not said
    clock.pass_s(20)
    guard.look()
    assert still(orphan) == {psutil.STATUS_STOPPED}
    assert "cannot be written down" in said[0]
    adopted = HostClaims(tmp_path).adopt(orphan, "next")
    assert adopted
    guard.look()
    assert psutil.STATUS_STOPPED not in still(orphan)
