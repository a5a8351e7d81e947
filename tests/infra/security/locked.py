"""The production stack of tests/topology with a lock on every door, and a secret of its own for each."""

from __future__ import annotations

import subprocess
import sys
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import psycopg2

from blocks import s3_server
from infra.security.planted import Planted, plant
from topology.parts import HOST, Part, postgres_bin
from topology.production import Production

#: As it is shipped, with the cache of passwords: without it every request is a second of work.
BASIC_AUTH = Path(__file__).parents[3] / "infra" / "images" / "mlflow" / "basic_auth.ini"

#: Everything that takes a secret, by what it is for. One of PostgreSQL, Redis and S3 is also told to a client wrongly.
NAMES = (
    "S3 access key id",
    "S3 secret key",
    "S3 secret key of the standard chain",
    "Prefect auth string",
    "MLflow password",
    "MLflow session key",
    "postgres password",
    "Prefect's database password",
    "MLflow's database password",
    "Redis password",
    "webhook secret",
    "encryption key of blocks",
    "the recipe's own",
    "a notification block's",
    "a wrong S3 secret key",
    "a wrong Prefect auth string",
    "a wrong MLflow password",
    "a wrong database password",
)


def planted() -> Planted:
    found = {name: plant(name.replace(" ", "").replace("'", "")) for name in NAMES}
    found["S3 access key id"] = plant("AKIA", odd="")
    for name in ("Prefect auth string", "a wrong Prefect auth string"):
        found[name] = f"admin:{found[name]}"
    found["encryption key of blocks"] = b64encode(
        found["encryption key of blocks"].ljust(32, "k")[:32].encode()
    ).decode()
    return Planted(found)


@dataclass
class Locked(Production):
    """PostgreSQL, Redis, Prefect and MLflow ask for passwords; S3 does so anyway."""

    planted: Planted = field(default_factory=planted)

    def __getitem__(self, name: str) -> str:
        return self.planted.secrets[name]

    @property
    def env(self) -> dict[str, str]:
        """What a worker and its runs have."""
        temporary = self.folder / "tmp"
        temporary.mkdir(exist_ok=True)
        return super().env | {
            "TMPDIR": str(temporary),
            "HOME": str(self.folder / "home"),
            "PREFECT_API_AUTH_STRING": self["Prefect auth string"],
            "MLFLOW_TRACKING_USERNAME": "admin",
            "MLFLOW_TRACKING_PASSWORD": self["MLflow password"],
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
            "PREFECT_LOGGING_LEVEL": "DEBUG",
            # For the standard chain: the store's block has keys of its own, so these open nothing.
            "AWS_ACCESS_KEY_ID": "of-the-chain",
            "AWS_SECRET_ACCESS_KEY": self["S3 secret key of the standard chain"],
            "PLANTED_TOKEN": self["the recipe's own"],
        }

    @property
    def setup_env(self) -> dict[str, str]:
        secrets = self.folder / "secrets"
        secrets.mkdir(mode=0o700, exist_ok=True)
        for setting, name in (("access_key_id", "S3 access key id"), ("secret_access_key", "S3 secret key")):
            file = secrets / f"trimtab_store_{setting}"
            file.touch(mode=0o600)
            file.write_text(self[name])
        given = {name: text for name, text in super().setup_env.items() if "ACCESS_KEY" not in name}
        return given | {"TRIMTAB_SECRETS_DIR": str(secrets)}

    @property
    def server_env(self) -> dict[str, str]:
        redis = f"redis://:{quote(self['Redis password'], safe='')}@{HOST}:{self.ports['redis']}"
        given = {name: text for name, text in super().server_env.items() if not name.startswith("PREFECT_REDIS")}
        del given["PREFECT_API_DATABASE_CONNECTION_URL"], given["PLANTED_TOKEN"]
        return given | {
            "PREFECT_SERVER_DATABASE_DRIVER": "postgresql+asyncpg",
            "PREFECT_SERVER_DATABASE_HOST": HOST,
            "PREFECT_SERVER_DATABASE_PORT": str(self.ports["postgresql"]),
            "PREFECT_SERVER_DATABASE_NAME": "prefect",
            "PREFECT_SERVER_DATABASE_USER": "prefect",
            "PREFECT_SERVER_DATABASE_PASSWORD": self["Prefect's database password"],
            "PREFECT_SERVER_API_AUTH_STRING": self["Prefect auth string"],
            "PREFECT_SERVER_ENCRYPTION_KEY": self["encryption key of blocks"],
            "PREFECT_REDIS_MESSAGING_URL": f"{redis}/0",
            "PREFECT_REDIS_WORKER_CLEANUP_QUEUE_URL": f"{redis}/0",
            "PREFECT_SERVER_DOCKET_URL": f"{redis}/1",
        }

    def back(self) -> None:
        """Databases with an owner each."""
        self._begin(self._postgresql())
        self.s3.start()
        self._await("postgresql")
        for name, whose in (("prefect", "Prefect's database password"), ("mlflow", "MLflow's database password")):
            self._sql(f"create role {name} login password '{self[whose]}'")
            self._sql(f"create database {name} owner {name}")
        self._sql("create database mlflow_auth owner mlflow")

    def ask(self, path: str, content: object = None) -> Any:
        user, _, password = self["Prefect auth string"].partition(":")
        method = "GET" if content is None else "POST"
        address = f"{self.url('gateway')}/api{path}"
        answer = httpx.request(method, address, json=content, timeout=10, auth=(user, password))
        return answer.raise_for_status().json()

    def noted(self, name: str, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Runs `python -m ...` as a client; what it said is in a log, as a terminal or a service manager keeps it."""
        done = self.call(*command, env=self.env | variables, cwd=self.project)
        (self.folder / f"{name}.log").write_text(f"{done.stdout}\n{done.stderr}")
        return done

    def dump(self, database: str) -> bytes:
        """All that a database holds, as SQL."""
        folder = postgres_bin()
        assert folder is not None
        command = [str(folder / "pg_dump"), "--host", HOST, "--port", str(self.ports["postgresql"]), "-U", "postgres"]
        env = {"PGPASSWORD": self["postgres password"], "PATH": "/usr/bin:/bin"}
        # The form that shows bytes as they are, not as hex of hex: both spellings are looked for.
        return subprocess.run([*command, database], env=env, check=True, capture_output=True).stdout

    def roles(self) -> bytes:
        """What PostgreSQL itself keeps of passwords."""
        folder = postgres_bin()
        assert folder is not None
        command = [str(folder / "pg_dumpall"), "-g", "-h", HOST, "-p", str(self.ports["postgresql"]), "-U", "postgres"]
        env = {"PGPASSWORD": self["postgres password"], "PATH": "/usr/bin:/bin"}
        return subprocess.run(command, env=env, check=True, capture_output=True).stdout

    def server(self, name: str, command: list[str], answers: Callable[[], bool], **variables: str) -> Part:
        """One more part of the stack."""
        part = Part(name, [sys.executable, "-m", *command], self.env | variables, self.folder, answers, cwd=self.folder)
        self._begin(part)
        self._await(name)
        return part

    def _postgresql(self) -> Part:
        part = super()._postgresql()
        # Made without a password, for the time that it takes to set one.
        part.start()
        part.ready()
        self._sql(f"alter role postgres password '{self['postgres password']}'")
        part.stop()
        (self.data / "db" / "pg_hba.conf").write_text("host all all 127.0.0.1/32 scram-sha-256\n")
        return part

    def _redis(self) -> Part:
        part = super()._redis()
        config = self.folder / "redis" / "redis.conf"
        config.touch(mode=0o600)
        config.write_text(f'requirepass "{self["Redis password"]}"\n')
        part.command = [part.command[0], str(config), *part.command[1:]]
        return part

    def _redis_answers(self) -> bool:
        import redis

        with redis.Redis(HOST, self.ports["redis"], password=self["Redis password"]) as client:
            try:
                return bool(client.ping())
            except redis.ConnectionError:
                return False

    def _mlflow(self) -> Part:
        part = super()._mlflow()
        command = [word for word in part.command if not word.startswith("postgresql")]
        command.insert(command.index("--backend-store-uri") + 1, self.mlflow_database)
        command[command.index("--app-name") + 1] = "trimtab-metrics-basic-auth"
        auth = self.folder / "basic_auth.ini"
        auth.write_text(BASIC_AUTH.read_text().replace("@postgres/", f"@{HOST}:{self.ports['postgresql']}/"))
        env = dict(part.env) | {
            "PGPASSWORD": self["MLflow's database password"],
            "MLFLOW_AUTH_CONFIG_PATH": str(auth),
            "MLFLOW_AUTH_ADMIN_PASSWORD": self["MLflow password"],
            "MLFLOW_FLASK_SERVER_SECRET_KEY": self["MLflow session key"],
            "AWS_ACCESS_KEY_ID": self["S3 access key id"],
            "AWS_SECRET_ACCESS_KEY": self["S3 secret key"],
        }
        for name in (
            "PLANTED_TOKEN",
            "MLFLOW_TRACKING_PASSWORD",
            "MLFLOW_TRACKING_USERNAME",
            "PREFECT_API_AUTH_STRING",
        ):
            env.pop(name)
        answers = f"{self.url('mlflow')}/health"
        return Part("mlflow", command, env, self.folder, lambda: httpx.get(answers, timeout=5).is_success)

    @property
    def mlflow_database(self) -> str:
        return f"postgresql+psycopg2://mlflow@{HOST}:{self.ports['postgresql']}/mlflow"

    def _sql(self, statement: str) -> None:
        connection = psycopg2.connect(
            host=HOST,
            port=self.ports["postgresql"],
            user="postgres",
            password=self["postgres password"],
            dbname="postgres",
            connect_timeout=2,
        )
        try:
            connection.autocommit = True
            connection.cursor().execute(statement)
        finally:
            connection.close()


def make(folder: Path, project: Path) -> Locked:
    """The stack, not started; its S3 server has the planted key too."""
    found = Locked(folder, project, workers=1)
    s3_server.ACCESS_KEY, s3_server.SECRET_KEY = found["S3 access key id"], found["S3 secret key"]
    return found
