"""The compose stack for development, started for real: our images, and stand-ins for the public ones.

It needs an engine with networks, which has a network name space of its own; nothing is published on this host. `-s`
prints how long it took to start.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import docker_engine
from docker_engine import Engine
from infra.containers.bases import CannotBuild, stand_ins

COMPOSE = Path(sys.executable).parent / "docker-compose"

pytestmark = [pytest.mark.long, pytest.mark.timeout(2400)]


@dataclass(frozen=True)
class Composed:
    """The stack; `inside` is what a command begins with that is to reach its ports."""

    folder: Path
    environment: dict[str, str]
    inside: list[str]

    def compose(self, *words: str) -> str:
        """What compose prints, which must not fail."""
        done = subprocess.run(
            [str(COMPOSE), *words], cwd=self.folder, env=self.environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{words}: {done.stdout[-2000:]}{done.stderr[-3000:]}"
        return done.stdout

    def address(self, service: str) -> str:
        """Of its container, on a network that this host is on too."""
        container = self.compose("ps", "-q", service).strip()
        of_it = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}"
        asked = ["docker", "inspect", "--format", of_it, container]
        done = subprocess.run(asked, env=self.environment, capture_output=True, text=True, check=True)
        return done.stdout.split()[0]


@pytest.fixture(scope="module")
def composed(engine: Engine, images: dict[str, str], context: Path) -> Iterator[Composed]:
    if not COMPOSE.exists():
        pytest.skip("docker-compose is not installed (make check-infra installs the extra infra)")
    tag = images["worker"].partition(":")[2]
    folder = context / "infra"
    shutil.copy(folder / ".env.example", folder / ".env")
    shutil.rmtree(folder / "secrets")  # planted for the images
    own = {"S3_ACCESS_KEY_ID": "id-of-the-bucket", "S3_SECRET_ACCESS_KEY": "key-of-the-bucket"}
    subprocess.run(["./make-secrets.sh"], cwd=folder, env={**os.environ, **own}, check=True, capture_output=True)
    with contextlib.ExitStack() as stack:
        try:
            public = stand_ins(engine)
            other, inside = stack.enter_context(docker_engine.apart(engine, [*images.values(), *public]))
        except (CannotBuild, docker_engine.NoEngine) as why:
            pytest.skip(str(why))
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "TRIMTAB_"))}
        made = Composed(folder, {**kept, **other.environment(), "TRIMTAB_VERSION": tag}, inside)
        try:
            began_s = time.monotonic()
            made.compose("up", "--detach", "--wait", "--no-build", "--pull", "never")
            print(f"\nup after {time.monotonic() - began_s:.0f} s")
            yield made
        finally:
            subprocess.run(
                [str(COMPOSE), "down", "--volumes", "--timeout", "20"],
                cwd=folder,
                env=made.environment,
                capture_output=True,
            )


def test_smoke_finds_every_part_sound(composed: Composed) -> None:
    secrets = composed.folder / "secrets"
    login = {
        "PREFECT_API_AUTH_STRING": (secrets / "prefect_auth_string").read_text(),
        "MLFLOW_TRACKING_USERNAME": "admin",
        "MLFLOW_TRACKING_PASSWORD": (secrets / "mlflow_admin_password").read_text(),
    }
    urls = ["http://127.0.0.1:4200", "http://127.0.0.1:5000", f"http://{composed.address('s3')}:8333"]
    urls += [f"redis://{composed.address('redis')}", f"postgresql://{composed.address('postgres')}"]
    command = [*composed.inside, str(composed.folder / "smoke.sh"), *urls]
    done = subprocess.run(command, env={**os.environ, **login}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert [line.split()[:2] for line in done.stdout.splitlines()] == [
        ["ok", part] for part in ("prefect", "mlflow", "s3", "redis", "postgresql")
    ]
    done = subprocess.run(command, env={**os.environ, "PREFECT_API_AUTH_STRING": ""}, capture_output=True, text=True)
    assert done.returncode == 1, "without a login"
    page = [*composed.inside, "curl", "--silent", "--fail", "--location", "http://127.0.0.1:4200/"]
    assert b"<!DOCTYPE html>" in subprocess.run(page, capture_output=True, check=True).stdout, "the UI is served"


def test_a_recipe_goes_through_it(composed: Composed) -> None:
    """Deployed and run by the worker: data and models end in the bucket, metrics in MLflow's database."""
    steps = (
        "mkdir -p /tmp/project && cd /tmp/project && cp /source/tests/toy_recipe.py . && trimtab init toy_recipe:toy"
    )
    composed.compose("exec", "-T", "worker", "with-secrets", "sh", "-c", f"{steps} && prefect --no-prompt deploy --all")
    run = "prefect deployment run lifecycle/toy --param as_of=2024-05-02T00:00:00 --watch --watch-timeout 300"
    said = composed.compose("exec", "-T", "worker", "with-secrets", "sh", "-c", run)
    assert "Completed" in said
    champion = "import mlflow; print(mlflow.MlflowClient().get_model_version_by_alias('toy', 'champion').version)"
    found = composed.compose("exec", "-T", "worker", "with-secrets", "python", "-c", champion)
    assert int(found.split()[-1]) >= 1


def test_no_secret_is_in_a_container_s_configuration_or_in_a_log(composed: Composed) -> None:
    """Beside what Prefect and MLflow are told as variables of their own processes."""
    secrets = [path.read_text() for path in (composed.folder / "secrets").iterdir()]
    containers = composed.compose("ps", "--all", "-q").split()
    asked = ["docker", "inspect", *containers]
    shown = subprocess.run(asked, env=composed.environment, capture_output=True, text=True, check=True).stdout
    shown += composed.compose("logs", "--no-color") + composed.compose("config")
    assert [one for one in secrets if len(one) > 8 and one in shown] == []
