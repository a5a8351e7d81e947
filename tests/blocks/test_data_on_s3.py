"""Tiering and garbage collection on a real S3 server: by the deployment of the project, and on the command line."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_TASKS_REFRESH_CACHE, temporary_settings

from blocks.s3_server import ACCESS_KEY, SECRET_KEY
from trimtab_blocks import MlflowTracking
from trimtab_blocks.keys import is_data
from trimtab_blocks.s3 import S3Store
from trimtab_flows import gc as collecting
from trimtab_flows import runtime
from trimtab_flows.gc import gc
from trimtab_flows.ingest import ingest
from trimtab_flows.replay import replay
from trimtab_flows.retrain import retrain
from trimtab_flows.snapshots.library import SnapshotNotFound

pytestmark = [pytest.mark.long, pytest.mark.timeout(600), pytest.mark.usefixtures("environment")]

TOY, MODEL = "toy_recipe:on_s3", "toy-on-s3"
POLICY = """
currency: EUR
tiers:
  - {{name: hot, gib_month: 0.023}}
  - {{name: cold, store: trimtab-s3-store/{cold}, gib_month: 0.004, gib_read: 0.03, wait_s: 5, gib_s: 20}}
rules:
  - {{cold_after_days: 0}}
"""


@dataclass(frozen=True)
class Bucket:
    """The blocks of this test, and the two places in the bucket that they name."""

    name: str
    hot: S3Store
    cold: S3Store

    def data(self, store: S3Store) -> set[str]:
        return {key for key in store.keys("snapshots/") if is_data(key)}


def forget() -> None:
    """As another process would see it."""
    for found in (runtime.hot_store, runtime.tiering, runtime.store, runtime._tiered):
        found.cache_clear()


@pytest.fixture
def bucket(
    environment: dict[str, str], s3: Callable[..., S3Store], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Bucket]:
    name = f"s3-{uuid.uuid4().hex[:8]}"
    monkeypatch.setattr(runtime, "BLOCKS", name)
    monkeypatch.setenv("TRIMTAB_BLOCKS", name)
    keys = {"access_key_id": ACCESS_KEY, "secret_access_key": SECRET_KEY}
    made = Bucket(name, s3(**keys), s3(**keys, storage_class="GLACIER_IR"))
    made.hot.save(name)
    made.cold.save(f"{name}-cold")
    MlflowTracking(tracking_uri=environment["MLFLOW_TRACKING_URI"]).save(name)
    forget()
    with temporary_settings({PREFECT_TASKS_REFRESH_CACHE: True}):  # what other tests did is in another store
        yield made
    forget()


def trimtab(*command: str) -> str:
    program = str(Path(sys.executable).parent / "trimtab")
    env = {**os.environ, "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run(
        [program, "data", *command], env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def deployed(client: SyncPrefectClient, flow: str, blocks: str) -> FlowRun:
    """A run of the project's deployment by the worker of the stack, to its end."""
    found = client.read_deployment_by_name(f"{flow}/flights")
    run = client.create_flow_run_from_deployment(found.id, job_variables={"env": {"TRIMTAB_BLOCKS": blocks}})
    end = time.monotonic() + 240
    while not ((now := client.read_flow_run(run.id)).state and now.state.is_final()):
        assert time.monotonic() < end, now.state
        time.sleep(0.5)
    assert now.state.is_completed(), now.state
    return now


def logs_of(client: SyncPrefectClient, run_id: Any, text: str) -> list[str]:
    """Lines of a run's log that have a text; logs are sent in the background."""
    asked = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run_id]))
    end = time.monotonic() + 30
    while not (found := [log.message for log in client.read_logs(asked) if text in log.message]):
        assert time.monotonic() < end, f"no line with {text!r}"
        time.sleep(0.2)
    return found


def test_data_moves_by_the_deployment_and_what_a_model_needs_outlives_the_collection(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for window in ("2024-01", "2024-02"):
        ingest(TOY, window)
    trained = retrain(TOY, "2024-01..2024-02")
    garbage = runtime.library().put(pl.DataFrame({"a": [1, 2, 3]})).digest
    needed = bucket.data(bucket.hot) - set(bucket.hot.keys(f"snapshots/{garbage[:2]}/{garbage}/"))
    assert needed

    policy = tmp_path / "policy.yaml"
    policy.write_text(POLICY.format(cold=f"{bucket.name}-cold"))
    trimtab("policy", str(policy))
    forget()
    count = len(needed) + 1
    shown = trimtab("tier", "--dry-run")
    assert f"{count} of {count} snapshots would move" in shown
    assert "EUR less" in shown
    assert bucket.data(bucket.cold) == set()

    with get_client(sync_client=True) as client:
        deployed(client, "tier", bucket.name)
        assert bucket.data(bucket.hot) == set()
        assert needed < bucket.data(bucket.cold)
        moved = list(bucket.cold.blobs())
        deployed(client, "tier", bucket.name)
        assert list(bucket.cold.blobs()) == moved, "the second run did something"
        assert f"0 of {count} snapshots would move" in trimtab("tier", "--dry-run")

        price = trimtab("price", TOY, "2024-01..2024-02")
        assert "2 of the snapshots" in price
        assert "EUR and takes about 10 s" in price
        seen: list[str] = []
        again = replay.with_options(on_completion=[lambda flow, flow_run, state: seen.append(str(flow_run.id))])
        assert again(f"{MODEL}/{trained.version}").same
        assert "EUR and takes about" in logs_of(client, seen[0], "lie cold")[0]

    class InAMonth(datetime):
        """S3 lets nobody write an older date to an object: so the clock of the collection is set forward."""

        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime.now(tz) + timedelta(days=30)

    for key in list(bucket.hot.keys("catalog/")):
        bucket.hot.remove(key)  # only the model and its manifest name the data now
    with monkeypatch.context() as later:
        later.setattr(collecting, "datetime", InAMonth)
        assert gc(dry_run=True).garbage == 1
        assert list(bucket.cold.blobs()) == moved
        found = gc()
        assert (found.garbage, found.removed) == (1, 1)
        assert "a registered model version" in found.kept
        assert gc().garbage == 0
    assert bucket.data(bucket.cold) == needed
    with pytest.raises(SnapshotNotFound, match="it was removed at"):
        runtime.library().get(garbage)
    assert replay(f"{MODEL}/{trained.version}").same
