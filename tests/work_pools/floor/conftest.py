"""One pool of Prefect's own process worker and one of ours, on one real server, with the same workers on both."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.objects import FlowRun
from prefect.states import Cancelling, Scheduled
from prefect.workers.base import BaseWorker

HERE = Path(__file__).parent


def until(what: Callable[[], Any], seconds: float, said: str) -> Any:
    """What it returns when that is something, asked every tenth of a second: the server has no call that waits."""
    end_s = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end_s, f"{said}: not within {seconds} s"
        time.sleep(0.1)
    return found


@dataclass
class Floor:
    """A pool of one `kind` of worker, what a test deploys on it, and the workers that it starts."""

    client: SyncPrefectClient
    kind: str
    name: str
    folder: Path
    env: dict[str, str]
    workers: list[subprocess.Popen[str]] = field(default_factory=list)

    def deploy(self, flow: str, entrypoint: str = "", pull: list[dict[str, Any]] | None = None, **more: Any) -> Any:
        step = {"prefect.deployments.steps.set_working_directory": {"directory": str(HERE)}}
        return self.client.create_deployment(
            flow_id=self.client.create_flow_from_name(flow),
            name=f"{flow}-{uuid.uuid4().hex[:8]}",
            work_pool_name=self.name,
            entrypoint=entrypoint or f"{HERE / 'floor_flow.py'}:{flow}",
            path=str(HERE),
            pull_steps=[step, *(pull or [])],
            **more,
        )

    def run(self, deployment: Any, **parameters: Any) -> str:
        more = parameters.pop("more", {})
        parameters = {"folder": str(self.folder), **parameters}
        made = self.client.create_flow_run_from_deployment(deployment, parameters=parameters, state=Scheduled(), **more)
        return str(made.id)

    def worker(self, *options: str, **env: str) -> subprocess.Popen[str]:
        number = len(self.workers)
        node = f"{self.kind}-{number}"
        own = {"TRIMTAB_NODE_NAME": node, "TRIMTAB_HOST_DIR": str(self.folder / f"host-{node}")}
        command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", self.name, "--type", self.kind]
        with (self.folder / f"worker-{number}.log").open("w") as log:
            started = subprocess.Popen(
                [*command, "--name", node, *options],
                env={**self.env, **own, "PREFECT_WORKER_QUERY_SECONDS": "1", **env},
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
                cwd=self.folder,
            )
        self.workers.append(started)
        return started

    def state(self, run_id: str) -> FlowRun:
        return self.client.read_flow_run(uuid.UUID(run_id))

    def cancel(self, run_id: str) -> None:
        self.client.set_flow_run_state(uuid.UUID(run_id), Cancelling())

    def lines(self, run_id: str, what: str = "") -> list[dict[str, Any]]:
        path = self.folder / f"{run_id}.jsonl"
        found = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [line for line in found if what in ("", line["what"])]

    def started(self, run_id: str, what: str = "start") -> dict[str, Any]:
        found = until(lambda: self.lines(run_id, what), 90, f"{self.kind}: {what} of run {run_id}; {self.logs()}")
        return dict(found[0])

    def becomes(self, run_id: str, kind: str, seconds: float = 60) -> FlowRun:
        """`kind`: a type of state."""

        def there() -> FlowRun | None:
            run = self.state(run_id)
            return run if run.state_type and run.state_type.value == kind else None

        try:
            found: FlowRun = until(there, seconds, f"{self.kind}: run {run_id} {kind}")
        except AssertionError:
            states = [f"{one.name}: {one.message}" for one in self.client.read_flow_run_states(uuid.UUID(run_id))]
            pytest.fail(f"{self.kind}: run {run_id} not {kind} within {seconds} s, but {states}\n{self.logs()}")
        return found

    def enough(self, run_id: str) -> None:
        (self.folder / f"{run_id}.enough").touch()

    def change(self, **what: Any) -> None:
        self.client.update_work_pool(self.name, WorkPoolUpdate(**what))

    def logs(self, whole: bool = False) -> str:
        texts = [path.read_text() for path in sorted(self.folder.glob("worker-*.log"))]
        return "\n".join(text if whole else text[-1500:] for text in texts)


def _pool(kind: str, folder: Path) -> Iterator[Floor]:
    worker = BaseWorker.get_worker_class_from_type(kind)
    assert worker is not None
    name = f"floor-{kind}-{uuid.uuid4().hex[:6]}"
    left_out = ("PREFECT__", "TRIMTAB_DRAIN_SECONDS", "TRIMTAB_STOP_GRACE_SECONDS", "PREFECT_WORKER_")
    env = {key: value for key, value in os.environ.items() if not key.startswith(left_out)}
    with get_client(sync_client=True) as client:
        template = worker.get_default_base_job_template()
        client.create_work_pool(WorkPoolCreate(name=name, type=kind, base_job_template=template))
        made = Floor(client, kind, name, folder, env)
        try:
            yield made
        finally:
            running = [one for one in made.workers if one.poll() is None]
            for one in running:
                one.send_signal(signal.SIGTERM)
            for one in running:
                try:
                    one.wait(30)
                except subprocess.TimeoutExpired:
                    one.kill()
                    one.wait()
            client.delete_work_pool(name)


KINDS = (pytest.param("process", marks=pytest.mark.long), "gpu-process")
"""What is right is proved on the stock worker by `make test-long`; `make test` holds ours to it."""


@pytest.fixture(scope="module", params=KINDS)
def floor(request: pytest.FixtureRequest, environment: dict[str, str], tmp_path_factory: Any) -> Iterator[Floor]:
    """A pool with one worker that the tests of a module share."""
    for made in _pool(request.param, tmp_path_factory.mktemp(request.param)):
        made.worker()
        yield made


@pytest.fixture(params=KINDS)
def empty(request: pytest.FixtureRequest, environment: dict[str, str], tmp_path: Path) -> Iterator[Floor]:
    """A pool of one test's own, without a worker."""
    yield from _pool(request.param, tmp_path)
