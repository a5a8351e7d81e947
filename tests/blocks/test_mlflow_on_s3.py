"""MLflow's artifacts on S3: through its server, which alone has the credentials."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow.tracking import MlflowClient
from sklearn.linear_model import LogisticRegression

from blocks.s3_server import ACCESS_KEY, BUCKET, SECRET_KEY, S3Server

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]


@pytest.fixture
def tracking(s3_server: S3Server, tmp_path: Path) -> Iterator[str]:
    """An MLflow server whose artifacts go to the bucket."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    own = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "MLFLOW_"))}
    settings = {
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_REGION": "us-east-1",
        "MLFLOW_S3_ENDPOINT_URL": s3_server.url,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        f"sqlite:///{tmp_path}/mlflow.db",
        "--artifacts-destination",
        f"s3://{BUCKET}/mlflow",
    ]
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(command, env={**own, **settings}, stdout=log, stderr=subprocess.STDOUT, cwd=tmp_path)
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
                break
            except OSError:
                assert server.poll() is None, (tmp_path / "log").read_text()[-2000:]
                assert time.monotonic() < deadline
                time.sleep(0.2)  # it tells nobody that it is ready
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(30)


def test_a_model_is_logged_to_s3_and_comes_back(
    tracking: str, s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "MLFLOW_S3_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)  # clients need none
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(tracking)
    try:
        x, y = np.array([[0.0], [1.0], [2.0], [3.0]]), np.array([0, 0, 1, 1])
        model = LogisticRegression().fit(x, y)
        with mlflow.start_run() as run:
            logged = mlflow.sklearn.log_model(model, name="model", pip_requirements=["scikit-learn"])
            mlflow.log_dict({"a": 1}, "manifest.json")
        back = mlflow.sklearn.load_model(logged.model_uri)
        assert (back.predict_proba(x) == model.predict_proba(x)).all()
        assert mlflow.artifacts.load_dict(f"runs:/{run.info.run_id}/manifest.json") == {"a": 1}
        assert MlflowClient().get_run(run.info.run_id).info.artifact_uri.startswith("mlflow-artifacts:")
    finally:
        mlflow.set_tracking_uri(before)
    plain = s3_server.client()
    names = [entry["Key"] for entry in plain.list_objects_v2(Bucket=BUCKET, Prefix="mlflow/")["Contents"]]
    plain.close()
    assert any(name.endswith("MLmodel") for name in names)
    assert any(name.endswith("manifest.json") for name in names)
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or SECRET_KEY.encode() not in path.read_bytes(), f"{path} holds the secret"
