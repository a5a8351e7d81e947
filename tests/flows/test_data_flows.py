"""Tiering and garbage collection on real Prefect and MLflow servers, as flows and on the command line."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.settings import PREFECT_TASKS_REFRESH_CACHE, temporary_settings
from prefect.states import Scheduled

from trimtab_blocks import DirectoryStore, MlflowTracking, TieringPolicy
from trimtab_flows import runtime
from trimtab_flows.gc import gc
from trimtab_flows.ingest import ingest
from trimtab_flows.locality import reads, tell_reads
from trimtab_flows.replay import replay
from trimtab_flows.retrain import retrain
from trimtab_flows.snapshots.library import SnapshotNotFound
from trimtab_flows.tier import NoPolicy, policy, tier
from trimtab_flows.tiering.fetching import TooDear
from trimtab_flows.train import train

pytestmark = pytest.mark.usefixtures("environment", "own_store")

TOY, COLLECTED = "toy_recipe:tiered", "toy_recipe:collected"
POLICY = """
currency: EUR
tiers:
  - {name: hot, gib_month: 0.02}
  - {name: cold, store: trimtab-directory-store/cold, gib_month: 0.004, gib_read: 0.03, wait_s: 5, gib_s: 20}
rules:
  - {subject: toy-tiered, table: "raw.*", cold_after_days: 30, keep_days: 3650, why: a contract}
  - {cold_after_days: 60}
"""


def forget() -> None:
    """As another process would see it."""
    for found in (runtime.hot_store, runtime.tiering, runtime.store, runtime._tiered):
        found.cache_clear()


@pytest.fixture
def own_store(environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DirectoryStore]:
    """Blocks of this test's own: a store of its own, the session's MLflow."""
    name = f"data-{os.getpid()}-{abs(hash(str(tmp_path))) % 10**8}"
    monkeypatch.setattr(runtime, "BLOCKS", name)
    monkeypatch.setenv("TRIMTAB_BLOCKS", name)
    store = DirectoryStore(path=tmp_path / "hot")
    store.save(name)
    DirectoryStore(path=tmp_path / "cold").save("cold", overwrite=True)
    MlflowTracking(tracking_uri=environment["MLFLOW_TRACKING_URI"]).save(name)
    forget()
    with temporary_settings({PREFECT_TASKS_REFRESH_CACHE: True}):  # what other tests did is in another store
        yield store
    forget()


def age(store: DirectoryStore, days: float) -> None:
    at = (datetime.now(UTC) - timedelta(days=days)).timestamp()
    for key in store.keys("snapshots/"):
        os.utime(store.path / key, (at, at))
    for key in list(store.keys("used/")):
        store.remove(key)


def trimtab(*command: str) -> subprocess.CompletedProcess[str]:
    program = str(Path(sys.executable).parent / "trimtab")
    env = {**os.environ, "PYTHONPATH": ":".join(sys.path)}
    return subprocess.run([program, "data", *command], env=env, capture_output=True, text=True, timeout=120)


def test_data_goes_cold_comes_back_and_its_price_is_told_before(own_store: DirectoryStore, tmp_path: Path) -> None:
    with pytest.raises(NoPolicy, match="trimtab data policy FILE"):
        policy()
    file = tmp_path / "policy.yaml"
    file.write_text(POLICY)
    done = trimtab("policy", str(file))
    assert done.returncode == 0, done.stderr
    forget()
    for window in ("2024-01", "2024-02"):
        ingest(TOY, window)
    digests = reads(TOY, "2024-01..2024-03")
    assert len(digests) == 2
    age(own_store, 100)
    shown = trimtab("tier", "--dry-run")
    assert shown.returncode == 0, shown.stderr
    assert "2 of 2 snapshots would move" in shown.stdout
    assert "EUR less" in shown.stdout
    assert own_store.exists(runtime.library().file_of(digests[0]))
    moved = trimtab("tier")
    assert "2 of 2 moves done" in moved.stdout, moved.stderr
    assert [key for key in own_store.keys("snapshots/") if key.endswith(".parquet")] == []
    assert tier().moves == 0

    price = trimtab("price", TOY, "2024-01..2024-02")
    assert "2 of the snapshots" in price.stdout, price.stderr
    assert "EUR and takes about 10 s" in price.stdout
    assert [key for key in own_store.keys("snapshots/") if key.endswith(".parquet")] == []

    seen: list[str] = []
    run = train.with_options(on_completion=[lambda flow, flow_run, state: seen.append(str(flow_run.id))])
    run(TOY, "2024-01..2024-02")
    with get_client(sync_client=True) as client:
        for _ in range(50):
            logs = [log.message for log in client.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=seen)))]
            if any("lie cold" in line for line in logs):
                break
            time.sleep(0.2)  # logs are sent in the background
    assert len([line for line in logs if "lie cold: fetching them costs about" in line]) == 1, logs

    strict = yaml.safe_load(POLICY) | {"fetch_limit": 0.0}
    TieringPolicy(rules=strict).save(runtime.BLOCKS, overwrite=True)
    forget()
    with pytest.raises(TooDear, match="trimtab data fetch"):
        runtime.about_to_read(digests)
    back = trimtab("fetch", TOY, "2024-01..2024-02")
    assert "2 snapshots came back" in back.stdout, back.stderr
    runtime.about_to_read(digests)


def test_garbage_goes_and_what_a_model_needs_stays(own_store: DirectoryStore) -> None:
    library = runtime.library()
    for window in ("2024-01", "2024-02"):
        ingest(COLLECTED, window)
    trained = retrain(COLLECTED, "2024-01..2024-02")
    garbage = library.put(pl.DataFrame({"a": [1, 2, 3]})).digest
    for key in list(own_store.keys("catalog/")):
        own_store.remove(key)  # only the model and its manifest name the data now
    before = set(library.digests())
    age(own_store, 30)
    shown = trimtab("gc", "--dry-run")
    assert "1 snapshots and 0 groups of stray files would go" in shown.stdout, shown.stdout + shown.stderr
    assert set(library.digests()) == before
    found = gc()
    assert (found.garbage, found.removed) == (1, 1)
    assert set(library.digests()) == before - {garbage}
    assert "a registered model version" in found.kept
    with pytest.raises(SnapshotNotFound, match="it was removed at"):
        library.get(garbage)
    assert replay(f"toy-collected/{trained.version}").same


def test_a_cached_result_whose_data_is_gone_is_made_again(own_store: DirectoryStore) -> None:
    with temporary_settings({PREFECT_TASKS_REFRESH_CACHE: False}):
        first = ingest("toy_recipe:bad_features", "2024-03")
        for key in [*own_store.keys("snapshots/"), *own_store.keys("catalog/")]:
            own_store.remove(key)
        assert ingest("toy_recipe:bad_features", "2024-03") == first
    assert runtime.library().get(first.features.accepted).height == first.features.rows
    assert runtime.library().exists(first.features.quarantined or "")


def test_a_run_that_waits_is_told_what_it_reads(own_store: DirectoryStore) -> None:
    ingest(TOY, "2024-01")
    with get_client(sync_client=True) as client:
        found = client.read_deployment_by_name("retrain/flights")
        later = datetime.now(UTC) + timedelta(hours=1)
        run = client.create_flow_run_from_deployment(
            found.id, parameters={"recipe": TOY, "windows": "2024-01"}, state=Scheduled(scheduled_time=later)
        )
        digests = reads(TOY, "2024-01")
        assert tell_reads(client, run.id, digests) is True
        asked = client.read_flow_run(run.id).job_variables["resources"]
        assert asked == {**(found.job_variables or {})["resources"], "reads": digests}
        assert tell_reads(client, run.id, digests) is False  # it says so itself by now
        client.delete_flow_run(run.id)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tiers: [{name: hot, gib_month: 1}", "is no YAML"),
        ("tiers: [{name: hot, gib_month: 1, colour: red}]", "tiers.0.colour: Extra inputs"),
        ("{tiers: [{name: hot, gib_month: 1}, {name: cold, store: s3/x, gib_month: 1}]}", "names 's3/x'"),
        (
            "{tiers: [{name: hot, gib_month: 1}, {name: cold, store: trimtab-s3-store/no, gib_month: 1}]}",
            "save it first",
        ),
    ],
)
def test_a_policy_that_cannot_be_is_refused_in_a_line(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(text)
    done = trimtab("policy", str(file))
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr
