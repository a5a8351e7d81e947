"""`trimtab migrate`: killed in the middle, run again, and nothing is lost, doubled or renumbered."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import psycopg2
import pytest
from mlflow.tracking import MlflowClient

from blocks.s3_server import BUCKET, why_not
from topology.parts import HOST, missing
from topology.production import Production
from trimtab_blocks.stores import DirectoryStore
from trimtab_infra.stack.state import StateFolder

BLOBS = 120

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
    connection = psycopg2.connect(host=HOST, port=backing.ports["postgresql"], user="postgres", dbname="mlflow")
    try:
        cursor = connection.cursor()
        cursor.execute("select count(*) from trimtab_migration")
        assert cursor.fetchone() == (1,)
    finally:
        connection.close()
    assert mlflow.__version__.startswith("3.17"), "the tables were copied of this version"
