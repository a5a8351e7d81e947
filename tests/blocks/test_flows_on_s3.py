"""Flows on an S3 store: a block that is saved takes the directory's place, and its secrets are kept encrypted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from blocks.s3_server import ACCESS_KEY, SECRET_KEY
from trimtab_blocks.s3 import S3Store


@pytest.mark.timeout(300)  # Prefect starts a server of its own for it
def test_snapshots_and_lineage_on_a_saved_block(s3: Callable[..., S3Store], tmp_path: Path) -> None:
    store = s3()
    settings = {**store.model_dump(mode="json"), "access_key_id": ACCESS_KEY, "secret_access_key": SECRET_KEY}
    own = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "TRIMTAB_", "AWS_"))}
    prefect = {
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_LOCAL_STORAGE_PATH": str(tmp_path / "results"),
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "150",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    }
    done = subprocess.run(
        [sys.executable, str(Path(__file__).parent / "flow_on_s3.py")],
        env={**own, **prefect, "PYTHONPATH": ":".join(sys.path)},
        input=json.dumps(settings),
        capture_output=True,
        text=True,
        timeout=240,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    first, second = said["digests"]
    assert said == {
        "store": str(store),
        "same": True,
        "digests": [first, second],
        "found": sorted([first, second]),
        "came from": [second, first],
    }
    assert len(list(store.keys("snapshots/"))) == 4
    assert len(list(store.keys("lineage/"))) == 2
    assert len(list(store.keys("manifests/"))) == 1
    for key in [blob.key for blob in store.blobs()]:
        assert SECRET_KEY.encode() not in store.read(key), f"{key} holds the secret"
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.suffix == ".db" for path in left)
    for path in left:
        assert SECRET_KEY.encode() not in path.read_bytes(), f"{path} holds the secret in plain text"
    assert SECRET_KEY not in done.stdout + done.stderr
    assert not (tmp_path / "not-this-one").exists()
