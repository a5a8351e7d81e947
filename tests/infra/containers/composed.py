"""A compose stack in an engine that has a network name space of its own: nothing is published on this host."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nvml_driver import Driver

__all__ = ["COMPOSE", "UP", "Composed", "Networked", "up"]

COMPOSE = Path(sys.executable).parent / "docker-compose"
UP = ("up", "--detach", "--wait", "--no-build", "--pull", "never")


@dataclass(frozen=True)
class Networked:
    """An engine with networks; `inside` is what a command begins with that is to reach its ports, `tag` is our images'.
    `driver` is the stand-in NVIDIA driver of its host.
    """

    environment: dict[str, str]
    inside: list[str]
    tag: str
    driver: Driver | None

    def docker(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(["docker", *words], env=self.environment, capture_output=True, text=True)
        assert not check or done.returncode == 0, f"{words}: {done.stdout[-2000:]}{done.stderr[-3000:]}"
        return done


@dataclass(frozen=True)
class Composed:
    """The stack of some compose files, with the variables of `settings`."""

    engine: Networked
    folder: Path
    files: tuple[str, ...]
    settings: dict[str, str]

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        named = [word for file in self.files for word in ("-f", file)]
        environment = {**self.engine.environment, **self.settings}
        return subprocess.run(
            [str(COMPOSE), *named, *words], cwd=self.folder, env=environment, capture_output=True, text=True
        )

    def compose(self, *words: str) -> str:
        """What compose prints, which must not fail."""
        done = self.run(*words)
        assert done.returncode == 0, f"{words}: {done.stdout[-2000:]}{done.stderr[-3000:]}"
        return done.stdout

    def containers(self, *services: str) -> list[dict[str, Any]]:
        """What the engine knows of each, also of those that have ended."""
        ids = self.compose("ps", "--all", "-q", *services).split()
        found: list[dict[str, Any]] = json.loads(self.engine.docker("inspect", *ids).stdout)
        return found

    def address(self, service: str) -> str:
        """Of its container, on a network that this host is on too."""
        networks = self.containers(service)[0]["NetworkSettings"]["Networks"]
        return str(next(iter(networks.values()))["IPAddress"])

    def secret(self, name: str) -> str:
        return (self.folder / "secrets" / name).read_text()

    def login(self) -> dict[str, str]:
        """What a person sets who uses the stack."""
        return {
            "PREFECT_API_AUTH_STRING": self.secret("prefect_auth_string"),
            "MLFLOW_TRACKING_USERNAME": "admin",
            "MLFLOW_TRACKING_PASSWORD": self.secret("mlflow_admin_password"),
        }

    def smoke(self, *urls: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """What infra/smoke.sh says of these."""
        command = [*self.engine.inside, str(self.folder / "smoke.sh"), *urls]
        return subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True)

    def backing(self) -> list[str]:
        """Addresses of Redis and PostgreSQL, for smoke.sh."""
        return [f"redis://{self.address('redis')}", f"postgresql://{self.address('postgres')}"]

    def leaked(self) -> list[str]:
        """Names of secrets that are in a container's configuration, in a log, or in what compose shows."""
        shown = json.dumps(self.containers()) + self.compose("logs", "--no-color") + self.compose("config")
        secrets = {path.name: path.read_text() for path in (self.folder / "secrets").iterdir()}
        return [name for name, secret in secrets.items() if len(secret) > 8 and secret in shown]


@contextlib.contextmanager
def up(stack: Composed) -> Iterator[Composed]:
    """Starts it, prints how long that took, and takes it down with its volumes."""
    try:
        began_s = time.monotonic()
        done = stack.run(*UP)
        took_s = time.monotonic() - began_s
        # What has no health check counts as up when it was started, also if it has ended since.
        ended = [
            one["Name"] for one in stack.containers() if not one["State"]["Running"] and one["State"]["ExitCode"] != 0
        ]
        if done.returncode or ended:
            said = stack.run("logs", "--no-color", "--tail", "15").stdout
            raise AssertionError(f"up: ended {ended}, {done.stderr[-3000:]}\n{said[-6000:]}")
        print(f"\nup after {took_s:.0f} s")
        yield stack
    finally:
        stack.run("down", "--volumes", "--timeout", "20")
