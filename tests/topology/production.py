"""The production stack as plain processes of this machine: what infra/compose.yaml says, without containers."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psycopg2

from blocks.s3_server import ACCESS_KEY, BUCKET, SECRET_KEY, S3Server, free_ports
from topology.parts import HOST, READY_S, Part, as_postgres, nginx_config, postgres_bin

POOL = "trimtab"
_PORTS = ("postgresql", "redis", "gateway", "api-a", "api-b", "mlflow")
_PYTHON = [sys.executable, "-m"]


@dataclass
class Production:
    """PostgreSQL, Redis, S3, two Prefect API servers behind nginx, Prefect's services, MLflow, workers."""

    folder: Path
    project: Path
    workers: int = 3
    ports: dict[str, int] = field(default_factory=lambda: free_ports(_PORTS))
    parts: dict[str, Part] = field(default_factory=dict)
    took: dict[str, float] = field(default_factory=dict)
    _sent: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.s3 = S3Server(self.folder / "s3")
        # The tests' own folder is closed to the user that PostgreSQL runs as.
        self.data = Path(tempfile.mkdtemp(prefix="trimtab-postgres-"))

    def url(self, part: str) -> str:
        return f"http://{HOST}:{self.ports[part]}"

    @property
    def env(self) -> dict[str, str]:
        """What clients and workers know: the one address of Prefect, and nothing of what is behind it."""
        foreign = ("PREFECT_", "MLFLOW_", "TRIMTAB_", "AWS_")
        own = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        own.pop("PYTHONDONTWRITEBYTECODE", None)
        return own | {
            "NO_PROXY": f"{HOST},localhost",
            "no_proxy": f"{HOST},localhost",
            "DO_NOT_TRACK": "true",
            "PREFECT_HOME": str(self.folder / "prefect-home"),
            "PREFECT_API_URL": f"{self.url('gateway')}/api",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "PREFECT_WORKER_HEARTBEAT_SECONDS": "5",
            "PREFECT_CLI_COLORS": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
            "TRIMTAB_STACK": "production",
            "TRIMTAB_POOL": POOL,
            "TRIMTAB_DRAIN_SECONDS": "0",
            "TRIMTAB_STOP_GRACE_SECONDS": "3",
        }

    @property
    def setup_env(self) -> dict[str, str]:
        """What only `trimtab setup` is told."""
        return self.env | {
            "TRIMTAB_MLFLOW_TRACKING_URI": self.url("mlflow"),
            "TRIMTAB_STORE_BUCKET": BUCKET,
            "TRIMTAB_STORE_PREFIX": "store",
            "TRIMTAB_STORE_ENDPOINT_URL": self.s3.url,
            "TRIMTAB_STORE_REGION": "us-east-1",
            "TRIMTAB_STORE_ACCESS_KEY_ID": ACCESS_KEY,
            "TRIMTAB_STORE_SECRET_ACCESS_KEY": SECRET_KEY,
        }

    @property
    def server_env(self) -> dict[str, str]:
        """What Prefect's servers and services are told."""
        redis = self.ports["redis"]
        return self.env | {
            "PREFECT_API_DATABASE_CONNECTION_URL": f"postgresql+asyncpg://postgres@{HOST}:{self.ports['postgresql']}/prefect",
            "PREFECT_API_DATABASE_MIGRATE_ON_START": "false",
            "PREFECT_MESSAGING_BROKER": "prefect_redis.messaging",
            "PREFECT_MESSAGING_CACHE": "prefect_redis.messaging",
            "PREFECT_SERVER_EVENTS_CAUSAL_ORDERING": "prefect_redis.ordering",
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect_redis.lease_storage",
            "PREFECT_SERVER_WORKER_CHANNEL_CLEANUP_QUEUE_STORAGE": "prefect_redis.cleanup_queue",
            "PREFECT_REDIS_MESSAGING_HOST": HOST,
            "PREFECT_REDIS_MESSAGING_PORT": str(redis),
            "PREFECT_REDIS_WORKER_CLEANUP_QUEUE_URL": f"redis://{HOST}:{redis}/0",
            "PREFECT_SERVER_DOCKET_URL": f"redis://{HOST}:{redis}/1",
            "PREFECT_UI_API_URL": "/api",
        }

    def up(self) -> None:
        """Starts everything, each as soon as what it needs is there. ``took`` says how long each was waited for."""
        began = time.monotonic()
        self._begin(self._redis())
        self.back()
        self._begin(self._mlflow())
        self.run("prefect", "server", "database", "upgrade", "-y", env=self.server_env)
        # One first: two that start on an empty database register the same block types.
        self._begin(self._api("a"), self._gateway())
        self._await("api-a")
        self._begin(self._api("b"), self._services())
        self.run("trimtab_infra", "setup", env=self.setup_env)
        self._await("redis", "gateway", "api-b", "mlflow")
        self.took["the whole stack, without workers"] = time.monotonic() - began
        self._begin(*(self.worker(f"node-{number}") for number in range(self.workers)))
        self.run("prefect", "--no-prompt", "deploy", "--all", cwd=self.project)
        for number in range(self.workers):
            self._await(f"node-{number}")
        self.took["the whole stack, with workers and deployments"] = time.monotonic() - began

    def back(self) -> None:
        """Starts PostgreSQL, with empty databases, and S3."""
        self._begin(self._postgresql())
        self.s3.start()
        self._await("postgresql")
        for name in ("prefect", "mlflow"):
            self._sql(f"create database {name}")

    def down(self) -> None:
        """Workers stop by themselves, with their runs; the rest is killed: nobody needs its data any more."""
        nodes = [part for name, part in self.parts.items() if name.startswith("node")]
        for part in nodes:
            part.ask_to_stop()
        for part in nodes:
            part.stop()
        for part in self.parts.values():
            if part.process is not None:
                part.kill()
        if self.s3.process is not None:
            self.s3.kill()
        shutil.rmtree(self.data, ignore_errors=True)

    def run(self, *command: str, env: dict[str, str] | None = None, cwd: Path | None = None) -> str:
        """Runs `python -m ...` as a client to its end; what it said."""
        done = self.call(*command, env=env, cwd=cwd)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def call(
        self, *command: str, env: dict[str, str] | None = None, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        where = cwd or self.folder
        # prefect.yaml names the folder by $PWD, as a shell sets it.
        env = (env or self.env) | {"PWD": str(where)}
        return subprocess.run([*_PYTHON, *command], env=env, cwd=where, capture_output=True, text=True, check=False)

    def ask(self, path: str, content: object = None) -> Any:
        """Asks Prefect at its one address, once."""
        method = "GET" if content is None else "POST"
        answer = httpx.request(method, f"{self.url('gateway')}/api{path}", json=content, timeout=10)
        return answer.raise_for_status().json()

    def patiently(self, path: str, content: object = None, seconds: float = 60) -> Any:
        """As Prefect's own client: asks again while a server goes."""
        end = time.monotonic() + seconds
        while True:
            try:
                return self.ask(path, content)
            except httpx.HTTPError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.1)

    def worker(self, node: str) -> Part:
        env = self.env | {"TRIMTAB_NODE_NAME": node, "TRIMTAB_HOST_DIR": str(self.folder / f"host-{node}")}
        command = [*_PYTHON, "prefect", "worker", "start", "--pool", POOL, "--type", "gpu-process", "--name", node]
        made = Part(node, command, env, self.folder, lambda: self._beats(made), cwd=self.project)
        return made

    def _beats(self, node: Part) -> bool:
        """Since it was started, not only from an earlier life."""
        found = self.ask(f"/work_pools/{POOL}/workers/filter", {"workers": None})
        beats = [one["last_heartbeat_time"] for one in found if one["name"] == node.name]
        return bool(beats) and datetime.fromisoformat(beats[0]) > node.started_at

    def keeps_events(self, marker: str) -> bool:
        """Whether an event gets through: to an API server, Redis, the services, PostgreSQL."""
        name = f"trimtab.tests.{marker}"
        now = datetime.now(UTC)
        if marker not in self._sent:
            event = {"id": str(uuid.uuid4()), "occurred": now.isoformat(), "event": "trimtab.tests.probe"}
            resource = {"prefect.resource.id": name}
            answer = httpx.post(
                f"{self.url('gateway')}/api/events", json=[event | {"resource": resource, "payload": {}}], timeout=10
            )
            answer.raise_for_status()
            self._sent.add(marker)
        within = {"since": (now - timedelta(hours=1)).isoformat(), "until": (now + timedelta(hours=1)).isoformat()}
        found = self.ask("/events/filter", {"filter": {"resource": {"id": [name]}, "occurred": within}, "limit": 1})
        return bool(found["events"])

    def _begin(self, *parts: Part) -> None:
        for part in parts:
            self.parts[part.name] = part
            part.start()

    def _await(self, *names: str) -> None:
        for name in names:
            self.took[name] = self.parts[name].ready()

    def _listens(self, name: str) -> bool:
        with socket.create_connection((HOST, self.ports[name]), 1):
            return True

    def _postgresql(self) -> Part:
        bin_folder = postgres_bin()
        assert bin_folder is not None
        if not os.getuid():
            shutil.chown(self.data, "postgres", "postgres")
        init = [str(bin_folder / "initdb"), "-D", str(self.data / "db"), "-U", "postgres", "--auth=trust", "-N"]
        subprocess.run(as_postgres(init), check=True, capture_output=True, cwd=self.data)
        command = [str(bin_folder / "postgres"), "-D", str(self.data / "db"), "-p", str(self.ports["postgresql"])]
        command += ["-h", HOST, "-c", "unix_socket_directories=", "-c", "fsync=off", "-c", "max_connections=200"]
        return Part("postgresql", as_postgres(command), os.environ, self.folder, self._sql_answers, cwd=self.data)

    def _sql_answers(self) -> bool:
        try:
            self._sql("select 1")
        except psycopg2.OperationalError:
            return False
        return True

    def _sql(self, statement: str) -> None:
        self.query("postgres", statement)

    def query(self, database: str, statement: str) -> list[tuple[Any, ...]]:
        """Rows that a statement gives, of which some give none."""
        connection = psycopg2.connect(
            host=HOST, port=self.ports["postgresql"], user="postgres", dbname=database, connect_timeout=2
        )
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement)
                return list(cursor.fetchall()) if cursor.description else []
        finally:
            connection.close()

    def _redis(self) -> Part:
        folder = self.folder / "redis"
        folder.mkdir(exist_ok=True)
        command = ["redis-server", "--port", str(self.ports["redis"]), "--bind", HOST, "--dir", str(folder)]
        return Part("redis", [*command, "--appendonly", "yes"], os.environ, self.folder, self._redis_answers)

    def _redis_answers(self) -> bool:
        with socket.create_connection((HOST, self.ports["redis"]), 1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(5) == b"+PONG"

    def _gateway(self) -> Part:
        config = nginx_config(self.folder, self.ports["gateway"], [self.ports["api-a"], self.ports["api-b"]])
        command = ["nginx", "-c", str(config), "-p", str(self.folder)]
        return Part("gateway", command, os.environ, self.folder, lambda: self.ask("/health") is True)

    def _api(self, letter: str) -> Part:
        name = f"api-{letter}"
        command = [*_PYTHON, "prefect", "server", "start", "--no-services", "--host", HOST]
        command += ["--port", str(self.ports[name])]
        address = f"{self.url(name)}/api/health"
        return Part(name, command, self.server_env, self.folder, lambda: httpx.get(address, timeout=2).json() is True)

    def _services(self) -> Part:
        command = [*_PYTHON, "prefect", "server", "services", "start"]
        return Part("services", command, self.server_env, self.folder, lambda: self.keeps_events("services"))

    def _mlflow(self) -> Part:
        database = f"postgresql+psycopg2://postgres@{HOST}:{self.ports['postgresql']}/mlflow"
        env = self.env | {
            "MLFLOW_S3_ENDPOINT_URL": self.s3.url,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_DEFAULT_REGION": "us-east-1",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "TRIMTAB_METRIC_OUTBOX": str(self.folder / "outbox"),
        }
        command = [*_PYTHON, "mlflow", "server", "--host", HOST, "--port", str(self.ports["mlflow"]), "--workers", "1"]
        command += ["--backend-store-uri", database, "--artifacts-destination", f"s3://{BUCKET}/mlflow"]
        command += ["--app-name", "trimtab-metrics"]
        search = f"{self.url('mlflow')}/api/2.0/mlflow/experiments/search?max_results=1"
        return Part("mlflow", command, env, self.folder, lambda: httpx.get(search, timeout=5).is_success)

    def await_run(self, run_id: str, seconds: float) -> str:
        """Name of the state that a run ends in."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            state = self.patiently(f"/flow_runs/{run_id}")["state"]
            if state["type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"):
                return f"{state['type']} {state['message'] or ''}".strip()
            time.sleep(0.5)
        return f"not ended after {seconds} s"

    def finished(self, stage: str) -> list[str]:
        """Names of the finished MLflow runs of a stage, sorted."""
        api = f"{self.url('mlflow')}/api/2.0/mlflow"
        found = httpx.post(f"{api}/experiments/search", json={"max_results": 100}).json()["experiments"]
        query = {
            "experiment_ids": [one["experiment_id"] for one in found],
            "filter": f"tags.`trimtab.stage` = '{stage}' and tags.`trimtab.done` = 'yes'",
        }
        runs = httpx.post(f"{api}/runs/search", json=query, timeout=30).json().get("runs", [])
        return sorted(run["info"]["run_name"] for run in runs)


__all__ = ["POOL", "READY_S", "Production"]
