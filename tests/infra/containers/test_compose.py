"""The compose stack for development, started for real: our images, and stand-ins for the public ones. `-s` prints how
long it took to start.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.containers.composed import Composed, Networked, up

pytestmark = [pytest.mark.long, pytest.mark.timeout(2400)]


@pytest.fixture(scope="module")
def composed(networked: Networked, stack_folder: Path) -> Iterator[Composed]:
    shutil.copy(stack_folder / ".env.example", stack_folder / ".env")
    with up(Composed(networked, stack_folder, (), {"TRIMTAB_VERSION": networked.tag})) as stack:
        yield stack


def test_smoke_finds_every_part_sound(composed: Composed) -> None:
    urls = ["http://127.0.0.1:4200", "http://127.0.0.1:5000", f"http://{composed.address('s3')}:8333"]
    done = composed.smoke(*urls, *composed.backing(), **composed.login())
    assert done.returncode == 0, done.stdout
    assert [line.split()[:2] for line in done.stdout.splitlines()] == [
        ["ok", part] for part in ("prefect", "mlflow", "s3", "redis", "postgresql")
    ]
    assert composed.smoke(*urls, PREFECT_API_AUTH_STRING="").returncode == 1, "without a login"
    page = [*composed.engine.inside, "curl", "--silent", "--fail", "--location", "http://127.0.0.1:4200/"]
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
    assert composed.leaked() == []
