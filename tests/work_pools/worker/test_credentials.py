"""A server that is started again with another auth string is away: nothing is lost, nothing runs twice."""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.settings.context import get_current_settings

from trimtab_work_pools.host.outbox import Outbox, Outcome
from trimtab_work_pools.host.process import find
from trimtab_work_pools.server.credentials import Credentials

from .auth_server import AuthServer
from .conftest import Pool, until

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AuthServer]:
    made = AuthServer(tmp_path_factory.mktemp("auth"))
    try:
        made.start("admin:first")
        yield made
    finally:
        made.stop()


def client_of(server: AuthServer) -> SyncPrefectClient:
    return SyncPrefectClient(server.url, auth_string=server.string)


@pytest.fixture
def guarded(server: AuthServer, tmp_path: Path) -> Iterator[Pool]:
    """A pool on that server; its workers have what is in the file `secret` of its folder."""
    from trimtab_work_pools.worker import GpuProcessWorker

    (tmp_path / "secrets").mkdir()
    tell(tmp_path, server.string)
    name = f"gpu-{uuid.uuid4().hex[:8]}"
    env = server.environment() | {
        "TRIMTAB_SECRETS_DIR": str(tmp_path / "secrets"),
        "PREFECT_WORKER_QUERY_SECONDS": "2",
        "PREFECT_WORKER_HEARTBEAT_SECONDS": "2",
    }
    with client_of(server) as client:
        template = GpuProcessWorker.get_default_base_job_template()
        client.create_work_pool(WorkPoolCreate(name=name, type="gpu-process", base_job_template=template))
        made = Pool(client, name, tmp_path, env)
        try:
            yield made
        finally:
            for worker in made.workers:
                worker.terminate()
            for worker in made.workers:
                try:
                    worker.wait(20)
                except subprocess.TimeoutExpired:
                    worker.kill()
                    worker.wait()


def tell(folder: Path, string: str) -> None:
    """Workers may know it."""
    (folder / "secrets" / "trimtab_api_auth_string").write_text(string)


def outbox(pool: Pool) -> list[Path]:
    return list((pool.folder / "host-only" / "outbox").glob("*.json"))


@pytest.mark.parametrize("killed", [False, True], ids=["the worker goes on", "the worker is killed meanwhile"])
def test_runs_outlive_a_change_of_the_auth_string(guarded: Pool, server: AuthServer, killed: bool) -> None:
    """One run ends while the server refuses everybody, another after that; both once, and both are told."""
    pool = guarded
    deployment = pool.deploy("any", cpus=1)
    worker = pool.worker("only", node_cpus=2)
    ends, longer = pool.run(deployment, seconds=12), pool.run(deployment, seconds=45)
    pids = {run_id: pool.await_started(run_id)["pid"] for run_id in (ends, longer)}
    server.start(f"admin:{uuid.uuid4().hex}")
    until(lambda: outbox(pool), 60, f"the end of a run is remembered; {pool.logs()}")
    until(lambda: not find(pids[ends]).ticks, 30, "its process has gone")
    log = pool.folder / "worker-only-0.log"
    until(lambda: "refuses the credentials" in log.read_text(), 30, "it is said")
    assert worker.poll() is None, log.read_text()[-3000:]
    assert find(pids[longer]).ticks, "what runs goes on"
    if killed:
        worker.kill()
        worker.wait()
        refused = pool.worker("only", node_cpus=2)
        assert refused.wait(60) == 1
        said = (pool.folder / "worker-only-1.log").read_text()
        assert "This worker does not start: the Prefect server at" in said
        assert "refuses the credentials (401)" in said
        assert "Traceback" not in said
        assert said.count("This worker does not start") == 1
    tell(pool.folder, server.string)
    if killed:
        pool.worker("only", node_cpus=2)
    with client_of(server) as client:
        pool.client = client
        pool.await_state(ends, "Completed", 60)
        pool.await_state(longer, "Completed", 90)
        after = pool.run(deployment)
        pool.await_state(after, "Completed", 60)
        for run_id in (ends, longer):
            assert [line["what"] for line in pool.lines(run_id)] == ["start", "end"], "once"
            assert pool.state(run_id).run_count == 1
    assert outbox(pool) == []
    assert log.read_text().count("refuses the credentials") == 1
    assert "was lost" not in pool.logs()


def test_what_is_remembered_is_read_again(tmp_path: Path) -> None:
    box = Outbox(tmp_path)
    outcome = Outcome("r1", "c1", 1, "http://here/api", {"type": "COMPLETED", "name": "Completed"})
    assert box.all("http://here/api") == []
    box.put(outcome)
    (tmp_path / "outbox" / "half.json").write_text('{"run_id":')
    assert box.all("http://here/api/") == [outcome]
    assert box.all("http://elsewhere/api") == []
    assert box.of("http://here/api", "r1") == outcome
    assert box.of("http://here/api", "r2") is None
    box.delivered("r1")
    box.delivered("r1")
    assert box.all("http://here/api") == []


def test_credentials_are_read_again_and_never_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TRIMTAB_SECRETS_DIR", str(tmp_path))
    secret = tmp_path / "trimtab_api_auth_string"
    secret.write_text("admin:one")
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "admin:zero")
    monkeypatch.setattr(get_current_settings().api, "auth_string", None)
    known = Credentials()
    first = known.other_than("")
    assert first == "Basic YWRtaW46b25l"
    assert os.environ["PREFECT_API_AUTH_STRING"] == "admin:one", "runs have it too"
    assert known.other_than(first) is None
    secret.write_text("admin:two\n")
    assert known.other_than(first) == "Basic YWRtaW46dHdv"
    for _ in range(3):
        known.was_refused(401, "http://here/api")
    known.was_accepted()
    known.was_accepted()
    assert "admin" not in caplog.text
