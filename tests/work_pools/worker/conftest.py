"""Real workers under `prefect worker start`, on a pool of their own of the session's real server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import FlowRun
from prefect.states import Scheduled

HERE = Path(__file__).parent


def until(what: Callable[[], Any], seconds: float, said: str) -> Any:
    """What it returns when that is something, asked every fifth of a second: the server has no call that waits."""
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, f"{said}: not within {seconds} s"
        time.sleep(0.2)
    return found


def stands_still(process: psutil.Process) -> bool:
    """By SIGSTOP, or with its control group, where runs have one."""
    if process.status() == psutil.STATUS_STOPPED:
        return True
    lines = Path(f"/proc/{process.pid}/cgroup").read_text().splitlines()
    group = next((line[4:] for line in lines if line.startswith("0::/")), "")
    files = [Path(base, group, "cgroup.events") for base in ("/sys/fs/cgroup/unified", "/sys/fs/cgroup")]
    return any(file.exists() and "frozen 1" in file.read_text() for file in files)


@dataclass
class Pool:
    """A gpu-process pool, a deployment a test makes on it, and the workers it starts."""

    client: SyncPrefectClient
    name: str
    folder: Path
    env: dict[str, str]
    type: str = "gpu-process"
    workers: list[subprocess.Popen[str]] = field(default_factory=list)

    def deploy(self, name: str, flow: str = "recorded_flow.py:recorded", **resources: Any) -> Any:
        """A deployment of a flow of this folder that asks for `resources`; its id."""
        flow_id = self.client.create_flow_from_name(flow.partition(":")[2])
        return self.client.create_deployment(
            flow_id=flow_id,
            name=f"{name}-{self.name}",
            work_pool_name=self.name,
            entrypoint=f"{HERE / flow}",
            path=str(HERE),
            pull_steps=[{"prefect.deployments.steps.set_working_directory": {"directory": str(HERE)}}],
            job_variables={"resources": resources, "working_dir": str(HERE)},
        )

    def run(self, deployment: Any, seconds: float = 0.0, **more: Any) -> str:
        """A run of a deployment, due now; its id."""
        parameters = {"folder": str(self.folder), "seconds": seconds, **more.pop("parameters", {})}
        made = self.client.create_flow_run_from_deployment(deployment, parameters=parameters, state=Scheduled(), **more)
        return str(made.id)

    def worker(
        self,
        node: str,
        more: dict[str, str] | None = None,
        program: Sequence[str] = ("-m", "prefect"),
        name: str = "",
        **env: Any,
    ) -> subprocess.Popen[str]:
        """Starts a worker on a node of its own, with devices and claims of its own; `TRIMTAB_...` by keyword."""
        folder = self.folder / f"host-{node}"
        settings = {f"TRIMTAB_{name.upper()}": str(value) for name, value in env.items()}
        settings = {"TRIMTAB_NODE_NAME": node, "TRIMTAB_HOST_DIR": str(folder), **settings, **(more or {})}
        command = [sys.executable, *program, "worker", "start", "--pool", self.name]
        command += ["--type", self.type, "--name", name or f"{node}-{len(self.workers)}"]
        log = (self.folder / f"worker-{node}-{len(self.workers)}.log").open("w")
        started = subprocess.Popen(
            command, env={**self.env, **settings}, stdout=log, stderr=subprocess.STDOUT, text=True, cwd=self.folder
        )
        log.close()
        self.workers.append(started)
        return started

    def state(self, run_id: str) -> FlowRun:
        return self.client.read_flow_run(uuid.UUID(run_id))

    def lines(self, run_id: str) -> list[dict[str, Any]]:
        """What the run has written down so far."""
        path = self.folder / f"{run_id}.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def await_started(self, run_id: str, times: int = 1, seconds: float = 90) -> dict[str, Any]:
        """The line of its start (the nth of its starts)."""

        def starts() -> list[dict[str, Any]]:
            found = [line for line in self.lines(run_id) if line["what"] == "start"]
            return found if len(found) >= times else []

        return until(starts, seconds, f"start {times} of run {run_id}; {self.logs()}")[times - 1]

    def await_state(self, run_id: str, name: str, seconds: float = 60, final: bool = False) -> FlowRun:
        """`final`: not while it waits to be started again for that."""

        def there() -> FlowRun | None:
            run = self.state(run_id)
            return run if run.state_name == name and not (final and run.state and run.state.is_scheduled()) else None

        end = time.monotonic() + seconds
        while not (found := there()):
            if time.monotonic() >= end:
                now = self.state(run_id)
                history = [f"{one.name}: {one.message}" for one in self.client.read_flow_run_states(now.id)]
                pytest.fail(f"run {run_id} not {name} within {seconds} s, but {history}\n{self.logs()}")
            time.sleep(0.2)
        return found

    def logs(self) -> str:
        return "\n".join(path.read_text()[-1500:] for path in sorted(self.folder.glob("worker-*.log")))


@pytest.fixture
def pool(environment: dict[str, str], tmp_path: Path) -> Iterator[Pool]:
    from trimtab_work_pools.worker import GpuProcessWorker

    name = f"gpu-{uuid.uuid4().hex[:8]}"
    of_the_stack = ("PREFECT__", "TRIMTAB_DRAIN_SECONDS", "TRIMTAB_STOP_GRACE_SECONDS")
    env = {key: value for key, value in os.environ.items() if not key.startswith(of_the_stack)}
    with get_client(sync_client=True) as client:
        template = GpuProcessWorker.get_default_base_job_template()
        client.create_work_pool(WorkPoolCreate(name=name, type="gpu-process", base_job_template=template))
        made = Pool(client, name, tmp_path, env)
        try:
            yield made
        finally:
            for worker in made.workers:
                if worker.poll() is None:
                    worker.send_signal(signal.SIGTERM)
            for worker in made.workers:
                try:
                    worker.wait(30)
                except subprocess.TimeoutExpired:
                    worker.kill()
                    worker.wait()
            client.delete_work_pool(name)
