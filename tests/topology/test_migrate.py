"""`trimtab migrate`: killed in the middle, run again, and nothing is lost, doubled or renumbered."""

from __future__ import annotations

import hashlib
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import mlflow
import psycopg2
import pytest
from mlflow.tracking import MlflowClient

from blocks.s3_server import BUCKET, why_not
from infra.conftest import Command
from topology.parts import HOST, missing
from topology.production import Production
from trimtab_blocks.stores import DirectoryStore
from trimtab_infra.stack.services import PREFECT
from trimtab_infra.stack.state import StateFolder

ROOT = Path(__file__).parents[2]
#: So many that a migration is not through with them before it is seen to have begun.
BLOBS = 600

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(300),
    # MLflow's own queries, which these tests make in this process.
    pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning"),
]


@pytest.fixture(scope="module")
def backing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Production]:
    """PostgreSQL and S3 only, with an empty database."""
    if absent := {"postgresql"} & set(missing()):
        pytest.skip(f"needs {absent}")
    if reason := why_not():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("backing")
    made = Production(folder, folder)
    try:
        made.back()
        yield made
    finally:
        made.down()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with the deployments of a recipe that trains in milliseconds."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copy(ROOT / "tests" / "toy_recipe.py", folder)
    made = subprocess.run(
        [sys.executable, "-m", "trimtab_infra", "init", "toy_recipe:toy"], cwd=folder, capture_output=True, check=False
    )
    assert made.returncode == 0, made.stderr
    return folder


@pytest.fixture(scope="module")
def lived_in(project: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[StateFolder, str]:
    """The state folder of an embedded stack that took a model through its life, and what it said of its lineage."""
    trimtab = Command(project, tmp_path_factory.mktemp("lived-in") / "state")
    try:
        assert trimtab("up").returncode == 0
        api = f"{trimtab.stack.urls()[PREFECT]}/api"
        deployment = httpx.get(f"{api}/deployments/name/lifecycle/toy").json()["id"]
        parameters = {"recipe": "toy_recipe:toy", "as_of": "2024-04-02T00:00:00"}
        asked = httpx.post(f"{api}/deployments/{deployment}/create_flow_run", json={"parameters": parameters})
        run, end = asked.json()["id"], time.monotonic() + 300
        while (state := httpx.get(f"{api}/flow_runs/{run}", timeout=30).json()["state"])["type"] != "COMPLETED":
            assert time.monotonic() < end, state
            assert state["type"] not in ("FAILED", "CRASHED"), state
            time.sleep(0.5)
        lineage = trimtab("lineage", "toy/1")
        assert lineage.returncode == 0, lineage.stderr
    finally:
        trimtab.end()
    return StateFolder(trimtab.state), lineage.stdout


@pytest.fixture(scope="module")
def production(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Production]:
    """The whole production stack, where nothing has been done yet."""
    if absent := missing():
        pytest.skip(f"needs {absent}")
    if reason := why_not():
        pytest.skip(reason)
    made = Production(tmp_path_factory.mktemp("production"), project, workers=1)
    try:
        made.up()
        yield made
    finally:
        made.down()


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> StateFolder:
    """A state folder with two versions of a model, metrics, artifacts and blobs, made by MLflow's own client."""
    folder = StateFolder(tmp_path_factory.mktemp("embedded") / "state")
    folder.claim()
    folder.prepare()
    client = MlflowClient(f"sqlite:///{folder.mlflow / 'mlflow.db'}")
    experiment = client.create_experiment("toy", artifact_location="mlflow-artifacts:/1")
    client.create_registered_model("toy")
    for number in (1, 2):
        run = client.create_run(experiment, tags={"trimtab.manifest": "ab" * 32}).info.run_id
        client.log_param(run, "C", "1.0")
        for step in range(50):
            client.log_metric(run, "performance/auc", 0.5 + step / 100, step=step)
        client.log_metric(run, "nan", float("nan"))
        client.set_terminated(run)
        client.create_model_version("toy", f"mlflow-artifacts:/1/{run}/artifacts/model", run)
        file = folder.mlflow / "artifacts" / "1" / run / "artifacts" / "model" / "model.txt"
        file.parent.mkdir(parents=True)
        file.write_text(f"model {number}")
    client.set_registered_model_alias("toy", "champion", "2")
    store = DirectoryStore(path=folder.store)
    for number in range(BLOBS):
        store.write_once(f"manifests/{number:064x}.json", f"manifest {number}".encode())
    return folder


def command(backing: Production, folder: StateFolder) -> tuple[list[str], dict[str, str]]:
    database = f"postgresql+psycopg2://postgres@{HOST}:{backing.ports['postgresql']}/mlflow"
    options = ["--to", "production", "--database", database, "--artifacts", f"s3://{BUCKET}/mlflow"]
    program = [sys.executable, "-m", "trimtab_infra", "migrate", *options, "--state", str(folder.path)]
    return program, backing.setup_env


def migrate(backing: Production, folder: StateFolder) -> subprocess.CompletedProcess[str]:
    program, env = command(backing, folder)
    done = subprocess.run(program, env=env, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stdout + done.stderr
    return done


def keys(backing: Production, prefix: str) -> list[str]:
    found = backing.s3.client().list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])
    return [one["Key"] for one in found]


def objects(backing: Production, prefix: str) -> dict[str, str]:
    """SHA-256 of each object below a prefix, by the rest of its name."""
    client = backing.s3.client()
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
    names = [one["Key"] for page in pages for one in page.get("Contents", ())]
    read = {name: client.get_object(Bucket=BUCKET, Key=name)["Body"].read() for name in names}
    return {name.removeprefix(prefix): hashlib.sha256(data).hexdigest() for name, data in read.items()}


def files(folder: Path) -> dict[str, str]:
    """SHA-256 of each file below a folder, by its name there."""
    found = (one for one in folder.rglob("*") if one.is_file() and not one.name.startswith("."))
    return {one.relative_to(folder).as_posix(): hashlib.sha256(one.read_bytes()).hexdigest() for one in found}


def all_runs(client: MlflowClient) -> dict[str, Any]:
    """Everything that MLflow knows of every run."""
    experiments = sorted(client.search_experiments(), key=lambda one: one.experiment_id)
    runs = client.search_runs([one.experiment_id for one in experiments], max_results=1000)
    histories = {
        (run.info.run_id, name): [
            (p.step, p.value, p.timestamp) for p in client.get_metric_history(run.info.run_id, name)
        ]
        for run in runs
        for name in run.data.metrics
    }
    return {
        "experiments": [(one.experiment_id, one.name, one.artifact_location) for one in experiments],
        "runs": {run.info.run_id: run.to_dictionary() for run in runs},
        "metrics": histories,
        "aliases": {one.name: dict(one.aliases) for one in client.search_registered_models()},
        "versions": {(one.name, one.version): dict(one.tags) for one in client.search_model_versions()},
    }


def begun(production: Production) -> bool:
    """Whether the migration has got as far as to write."""
    try:
        return bool(production.query("mlflow", "select count(*) from trimtab_migration")[0][0])
    except psycopg2.errors.UndefinedTable:
        return False


def facts(client: MlflowClient) -> dict[str, Any]:
    """What a model's history is, ids included."""
    versions = sorted(client.search_model_versions("name = 'toy'"), key=lambda one: int(one.version))
    runs = [client.get_run(str(one.run_id)) for one in versions]
    return {
        "versions": [(one.version, one.run_id, one.source, one.creation_timestamp) for one in versions],
        "champion": client.get_model_version_by_alias("toy", "champion").version,
        "runs": [(run.info.start_time, run.info.status, run.data.params, run.data.tags) for run in runs],
        "metrics": [
            [
                (one.step, one.value, one.timestamp)
                for one in client.get_metric_history(run.info.run_id, "performance/auc")
            ]
            for run in runs
        ],
    }


def test_killed_in_the_middle_and_run_again_it_is_whole(backing: Production, embedded: StateFolder) -> None:
    program, env = command(backing, embedded)
    process = subprocess.Popen(program, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 120
    while not len(keys(backing, "store/manifests/")) >= 5:
        assert process.poll() is None, "it ended before it was killed"
        assert time.monotonic() < end
    process.kill()
    process.wait()
    assert len(keys(backing, "store/manifests/")) < BLOBS, "it was killed too late; this shows nothing"

    done = migrate(backing, embedded)
    assert done.returncode == 0, done.stderr
    assert f"{BLOBS} blobs" in done.stdout
    assert len(keys(backing, "store/manifests/")) == BLOBS
    assert len(keys(backing, "mlflow/1/")) == 2
    there = MlflowClient(f"postgresql+psycopg2://postgres@{HOST}:{backing.ports['postgresql']}/mlflow")
    here = MlflowClient(f"sqlite:///{embedded.mlflow / 'mlflow.db'}")
    assert facts(there) == facts(here)
    # Numbers that the database gives out go on.
    assert int(there.create_experiment("new")) > 1
    there.set_registered_model_alias("toy", "champion", "1")

    again = migrate(backing, embedded)
    assert (again.returncode, "migrated before" in again.stdout) == (0, True)
    champion = there.get_model_version_by_alias("toy", "champion")
    assert str(champion.version) == "1", "production was set back"


def test_what_is_refused(backing: Production, embedded: StateFolder, tmp_path: Path) -> None:
    other = StateFolder(tmp_path / "other")
    other.claim()
    other.prepare()
    MlflowClient(f"sqlite:///{other.mlflow / 'mlflow.db'}").create_registered_model("other")
    refused = migrate(backing, other)
    assert (refused.returncode, len(refused.stderr.splitlines())) == (2, 1)
    assert "not from here" in refused.stderr
    nothing = migrate(backing, StateFolder(tmp_path / "nothing"))
    assert nothing.returncode == 2
    assert "nothing to migrate" in nothing.stderr
    assert backing.query("mlflow", "select count(*) from trimtab_migration") == [(1,)]
    assert mlflow.__version__.startswith("3.17"), "the tables were copied of this version"


@pytest.mark.timeout(1200)
def test_a_model_with_its_history_moves_and_is_made_again_bit_for_bit(
    production: Production, lived_in: tuple[StateFolder, str]
) -> None:
    """Killed at random points, run again until it is through; then the life of the model goes on there."""
    folder, lineage = lived_in
    program, env = command(production, folder)
    here = MlflowClient(f"sqlite:///{folder.mlflow / 'mlflow.db'}")
    killed = []
    for _ in range(3):
        process = subprocess.Popen(program, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and not begun(production):
            time.sleep(0.02)
        pause_s = random.uniform(0, 2)
        with suppress(subprocess.TimeoutExpired):
            process.wait(pause_s)
        if process.poll() is None:
            process.kill()
            killed.append(round(pause_s, 2))
        process.wait()
    print(f"killed after {killed} s of work")
    assert killed, "it was never killed; this shows nothing"
    done = migrate(production, folder)
    assert done.returncode == 0, done.stderr

    there = MlflowClient(f"postgresql+psycopg2://postgres@{HOST}:{production.ports['postgresql']}/mlflow")
    assert all_runs(there) == all_runs(here)
    assert facts(there) == facts(here)
    store = files(folder.store)
    assert {key.partition("/")[0] for key in store} >= {"snapshots", "manifests", "lineage", "catalog"}
    assert {key: digest for key, digest in objects(production, "store/").items() if key in store} == store
    assert objects(production, "mlflow/") == files(folder.mlflow / "artifacts")

    assert production.run("trimtab_infra", "lineage", "toy/1") == lineage
    assert "Bit for bit the same" in production.run("trimtab_infra", "replay", "toy/1", cwd=production.project)
    deployment = production.ask("/deployments/name/lifecycle/toy")["id"]
    parameters = {"recipe": "toy_recipe:toy", "as_of": "2024-05-02T00:00:00"}
    run = production.ask(f"/deployments/{deployment}/create_flow_run", {"parameters": parameters})["id"]
    assert production.await_run(str(run), 400).startswith("COMPLETED"), production.parts["node-0"].tail()
    assert production.finished("monitor") == ["monitor 2024-03", "monitor 2024-04"]
    assert production.finished("train")[0] == "train 2024-01..2024-02"
