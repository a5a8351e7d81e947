"""Our three images, built once a session from a checkout in which secrets lie about."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from docker_engine import Engine
from infra.containers.bases import ROOT, CannotBuild, build, builder, index, python_base

SECRETS = {
    "pip.conf": "planted-6f1b0c-in-pip-conf",
    ".env": "planted-6f1b0c-in-env",
    "infra/secrets/prefect_auth_string": "planted-6f1b0c-in-secrets",
    ".trimtab/settings.json": "planted-6f1b0c-in-state",
    "infra/images/worker/.netrc": "planted-6f1b0c-beside-a-dockerfile",
}
"""A text for each place where a secret may stand when an image is built."""


@pytest.fixture(scope="session")
def context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout as somebody has it who uses it: with secrets lying about."""
    folder = tmp_path_factory.mktemp("checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    for name, text in SECRETS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture(scope="session")
def images(engine: Engine, context: Path) -> Iterator[dict[str, str]]:
    """Names of our three images."""
    try:
        builder()
        index()
        python_base(engine)
    except CannotBuild as why:
        pytest.skip(str(why))
    tag = uuid.uuid4().hex[:8]
    made: dict[str, str] = {}
    try:
        for name in ("prefect", "mlflow", "worker"):
            done = build(engine, name, f"trimtab-{name}:{tag}", context, SECRETS["pip.conf"])
            assert done.returncode == 0, f"{name}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
            made[name] = f"trimtab-{name}:{tag}"
        yield made
    finally:
        with contextlib.closing(engine.client()) as client:
            for image in made.values():
                client.images.remove(image, force=True)
