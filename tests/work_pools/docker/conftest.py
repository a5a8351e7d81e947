"""Real gpu-docker workers on a real engine, on a pool of their own of the session's real server."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.models.containers import Container
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from worker.conftest import HERE as FLOWS
from worker.conftest import Pool

from docker_engine import STATE_IN_CONTAINER, Engine

HERE = Path(__file__).parent


@dataclass
class DockerPool(Pool):
    """A gpu-docker pool; its runs have this checkout, and the folder they write into, mounted."""

    engine: Engine | None = None
    docker: docker.DockerClient | None = None

    def deploy(self, name: str, flow: str = "recorded_flow.py:recorded", **resources: Any) -> Any:
        folder = HERE if (HERE / flow.partition(":")[0]).exists() else FLOWS
        flow_id = self.client.create_flow_from_name(flow.partition(":")[2])
        return self.client.create_deployment(
            flow_id=flow_id,
            name=f"{name}-{self.name}",
            work_pool_name=self.name,
            entrypoint=f"{folder / flow}",
            path=str(folder),
            pull_steps=[{"prefect.deployments.steps.set_working_directory": {"directory": str(folder)}}],
            job_variables=self.variables(**resources),
        )

    def variables(self, **resources: Any) -> dict[str, Any]:
        """Job variables of a container in which this machine's Python and checkout are there."""
        assert self.engine is not None
        env = {"PATH": self.engine.path, "PREFECT_HOME": "/tmp/.prefect", "NVML_FAKE_STATE": STATE_IN_CONTAINER}
        return {
            "resources": resources,
            "image": self.engine.image,
            "image_pull_policy": "Never",
            "network_mode": "host",
            "volumes": [*self.engine.volumes, f"{self.folder}:{self.folder}"],
            "env": env,
        }

    def worker(
        self, node: str, more: dict[str, str] | None = None, kind: str = "", pool: str = "", **env: Any
    ) -> subprocess.Popen[str]:
        """Of this pool, or of another `kind` on another `pool`; all on one host, whatever their nodes are called."""
        assert self.engine is not None
        settings = {f"TRIMTAB_{name.upper()}": str(value) for name, value in env.items()}
        settings = {
            "TRIMTAB_NODE_NAME": node,
            "TRIMTAB_HOST_DIR": str(self.folder / "host"),
            **settings,
            **(more or {}),
        }
        name = f"{node}-{len(self.workers)}"
        command = [str(Path(sys.executable).parent / "prefect"), "worker", "start", "--name", name]
        command += ["--pool", pool or self.name, "--type", kind or "gpu-docker"]
        with (self.folder / f"worker-{name}.log").open("w") as log:
            started = subprocess.Popen(
                command,
                env={**self.env, **self.engine.environment(), **settings},
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
                cwd=self.folder,
            )
        self.workers.append(started)
        return started

    def container(self, run_id: str) -> Container | None:
        """Of a run; the last, if it had several."""
        assert self.docker is not None
        found = self.docker.containers.list(all=True, filters={"label": f"io.prefect.flow-run-id={run_id}"})
        return found[0] if found else None


@pytest.fixture
def docker_pool(environment: dict[str, str], engine: Engine, tmp_path: Path) -> Iterator[DockerPool]:
    from trimtab_work_pools.worker import GpuDockerWorker

    name = f"docker-{uuid.uuid4().hex[:8]}"
    of_the_stack = ("PREFECT__", "TRIMTAB_DRAIN_SECONDS", "TRIMTAB_STOP_GRACE_SECONDS")
    env = {key: value for key, value in os.environ.items() if not key.startswith(of_the_stack)}
    with get_client(sync_client=True) as client, contextlib.closing(engine.client()) as docker_client:
        template = GpuDockerWorker.get_default_base_job_template()
        client.create_work_pool(WorkPoolCreate(name=name, type="gpu-docker", base_job_template=template))
        made = DockerPool(client, name, tmp_path, env, engine=engine, docker=docker_client)
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
            for container in docker_client.containers.list(all=True, filters={"label": "trimtab.claim-id"}):
                container.remove(force=True)
            client.delete_work_pool(name)
