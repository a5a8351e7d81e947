"""One owner of a device on a host, whichever worker asks; a claim lives as long as a process of its run."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from trimtab_work_pools.host.clock import SYSTEM
from trimtab_work_pools.host.directory import HostDirError
from trimtab_work_pools.host.process import find
from trimtab_work_pools.ledger import Holding
from trimtab_work_pools.resources import Demand, Grant, Placement
from trimtab_work_pools.worker import host_claims
from trimtab_work_pools.worker.host_claims import HostClaim, HostClaims, claim_from_text, claim_to_text


def claim(run_id: str, *devices: tuple[str, int], worker: str = "w1") -> HostClaim:
    grants = tuple(Grant(index, share) for index, (_, share) in enumerate(devices))
    held = Holding(run_id, Demand(gpus=len(devices)), Placement("a", grants), 0.0, time.time(), f"claim-{run_id}")
    own = find(os.getpid())
    return HostClaim(held.claim_id, worker, own.pid, own.ticks, "pool", held, devices, SYSTEM.boot_id)


def with_process(claim: HostClaim, pid: int) -> HostClaim:
    return replace(claim, pid=pid, pid_ticks=find(pid).ticks)


def test_a_device_has_one_owner_and_shares_add_up_to_one(tmp_path: Path) -> None:
    claims, other = HostClaims(tmp_path), HostClaims(tmp_path)
    assert claims.acquire(claim("r1", ("GPU-0", 1000)))
    assert not other.acquire(claim("r2", ("GPU-0", 1), worker="w2"))
    assert other.acquire(claim("r2", ("GPU-1", 600)))
    assert not claims.acquire(claim("r3", ("GPU-1", 500)))
    assert claims.acquire(claim("r3", ("GPU-1", 400)))
    assert not claims.acquire(claim("r3", ("GPU-2", 1000))), "a run is claimed once"
    claims.release("r1", "claim-of-somebody-else")
    assert not other.acquire(claim("r4", ("GPU-0", 1000)))
    claims.release("r1", "claim-r1")
    assert other.acquire(claim("r4", ("GPU-0", 1000)))


def test_of_many_at_once_one_wins(tmp_path: Path) -> None:
    claims = [HostClaims(tmp_path) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda n: claims[n].acquire(claim(f"r{n}", ("GPU-0", 1000))), range(8)))
    assert sum(won) == 1


def test_a_claim_ends_with_its_process_and_is_an_orphan_without_its_worker(tmp_path: Path) -> None:
    claims = HostClaims(tmp_path)
    with subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE) as run:
        made = claim("r1", ("GPU-0", 1000))
        assert claims.acquire(made)
        claims.started(with_process(made, run.pid))
        assert claims.orphans("", "pool") == []
        assert claims.all()[0].running
        dead = replace(claims.all()[0], worker_pid=2**22 - 1, worker_ticks=1)
        claims.release("r1", "claim-r1")
        assert claims.acquire(dead)
        assert [one.holding.run_id for one in claims.orphans("", "pool")] == ["r1"]
        adopted = claims.adopt(dead, "w2")
        assert adopted is not None
        assert (adopted.worker, adopted.worker_pid, adopted.pid) == ("w2", os.getpid(), run.pid)
        assert claims.adopt(dead, "w3") is None, "another was first"
        assert claims.orphans("", "pool") == []
    assert not claims.all()[0].counts
    assert claims.acquire(claim("r2", ("GPU-0", 1000))), "its process has gone"


def test_a_claim_without_a_process_lasts_as_long_as_its_worker() -> None:
    """However long a start takes: a host that slept meanwhile gives its devices to nobody else."""
    fresh = claim("r1", ("GPU-0", 1000))
    assert fresh.counts
    assert not replace(fresh, worker_ticks=fresh.worker_ticks + 1).counts, "the worker's process id is another's now"
    assert not replace(fresh, boot_id="an earlier start of the host").counts


def test_a_claim_outlives_its_first_process_while_others_of_the_run_live(tmp_path: Path) -> None:
    claims = HostClaims(tmp_path)
    made = replace(claim("r1", ("GPU-0", 1000)), claim_id=uuid.uuid4().hex)
    env = {**os.environ, "TRIMTAB_CLAIM": made.claim_id}
    shell = "sleep 1000 >/dev/null & echo $!"
    with subprocess.Popen(["sh", "-c", shell], env=env, stdout=subprocess.PIPE, start_new_session=True) as run:
        assert claims.acquire(made)
        claims.started(with_process(made, run.pid))
        assert run.stdout is not None
        left = find(int(run.stdout.readline()))
    assert not claims.all()[0].running
    assert claims.all()[0].counts
    assert not claims.acquire(claim("r2", ("GPU-0", 1000)))
    psutil.Process(left.pid).kill()
    while left.alive:
        time.sleep(0.01)
    assert claims.acquire(claim("r2", ("GPU-0", 1000)))


@pytest.mark.parametrize("stepped_s", [0.0, 3600.0, -3600.0])
def test_a_claim_of_the_version_before_is_read(tmp_path: Path, stepped_s: float) -> None:
    """It named processes by their time of creation, which moves when the wall clock is stepped."""
    now = replace(claim("0123456789abcdef", ("GPU-0", 1000)), claim_id=uuid.uuid4().hex)
    env = {**os.environ, "TRIMTAB_CLAIM": now.claim_id}
    with subprocess.Popen(["sh", "-c", "echo there; sleep 1000 <&-"], env=env, stdout=subprocess.PIPE) as run:
        assert run.stdout is not None
        run.stdout.readline()
        process = psutil.Process(run.pid)
        older = json.loads(claim_to_text(now))
        for name in ("boot_id", "worker_ticks", "pid_ticks", "group"):
            del older[name]
        older |= {"pid": run.pid, "pid_created_s": process.create_time() + stepped_s, "claimed_s": time.time()}
        older["worker_created_s"] = psutil.Process().create_time() + stepped_s
        (tmp_path / "0123456789abcdef.json").write_text(json.dumps(older))
        found = HostClaims(tmp_path).all()[0]
        assert found.main == find(run.pid)
        assert found.counts
        assert found.has_worker is (stepped_s == 0.0)
        assert not HostClaims(tmp_path).acquire(claim("r2", ("GPU-0", 1000)))
        psutil.Process(run.pid).children()[0].kill()
        run.kill()
        run.wait()
        assert not HostClaims(tmp_path).all()[0].counts
    assert claim_from_text('{"worker_created_s": "x"}') is None


def test_what_is_no_claim_is_passed_over(tmp_path: Path) -> None:
    claims = HostClaims(tmp_path)
    (tmp_path / "broken.json").write_text("{")
    assert claims.all() == []
    assert claims.acquire(claim("r1", ("GPU-0", 1000)))


def test_the_directory_is_this_user_s_own(tmp_path: Path) -> None:
    claims = HostClaims(tmp_path / "new")
    assert claims.directory.stat().st_mode & 0o777 == 0o700


def test_each_run_of_a_host_has_a_port_of_its_own(tmp_path: Path) -> None:
    claims = [HostClaims(tmp_path) for _ in range(6)]
    for number in range(6):
        assert claims[number].acquire(claim(f"r{number}", (f"GPU-{number}", 1000)))
    with ThreadPoolExecutor(6) as pool:
        ports = list(pool.map(lambda number: claims[number].take_port(f"r{number}").port, range(6)))
    assert len(set(ports)) == 6
    assert [claims[0].take_port(f"r{number}").port for number in range(6)] == ports, "the same when asked again"
    claims[0].started(with_process(claims[0].take_port("r1"), os.getpid()))
    assert {one.holding.run_id: one.port for one in claims[0].all()}["r1"] == ports[1]
    with pytest.raises(LookupError, match="run r9 holds nothing of this host"):
        claims[0].take_port("r9")


def test_a_port_that_somebody_listens_on_is_passed_over(tmp_path: Path) -> None:
    claims = HostClaims(tmp_path)
    assert claims.acquire(claim("r1", ("GPU-0", 1000)))
    port = claims.take_port("r1").port
    claims.release("r1", "claim-r1")
    assert claims.acquire(claim("r1", ("GPU-0", 1000)))
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        assert claims.take_port("r1").port != port


def test_a_process_that_is_stopped_with_the_lock_holds_up_nobody_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_claims, "_LOCK_S", 0.2)
    code = (
        "import fcntl, sys, pathlib; lock = (pathlib.Path(sys.argv[1]) / 'lock').open('w');"
        "fcntl.flock(lock, fcntl.LOCK_EX); print('held', flush=True); sys.stdin.read()"
    )
    claims = HostClaims(tmp_path)
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdin=pipe, stdout=pipe) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        holder.send_signal(signal.SIGSTOP)
        with pytest.raises(HostDirError, match="a process that does not go on holds its lock"):
            claims.all()
        holder.kill()
    assert claims.all() == []
