"""The plugin together with MLflow's own basic-auth app."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from infra.metric_events.servers import Server, mlflow_server
from trimtab_infra.metric_events.outbox import segments
from trimtab_infra.metric_events.points import Point

ADMIN = ("admin", "a password of 24 letters")

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    folder = tmp_path_factory.mktemp("guarded")
    settings = {
        "TRIMTAB_METRIC_OUTBOX": str(folder / "later" / "outbox"),
        "TRIMTAB_METRIC_PREFIXES": "drift/, fairness/",
        "MLFLOW_AUTH_ADMIN_PASSWORD": ADMIN[1],
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "a key of this test",
    }
    # Where the outbox should be there is a file, until a test takes it away.
    (folder / "later").touch()
    server = mlflow_server(folder, "--app-name", "trimtab-metrics-basic-auth", environment=settings).start()
    yield server, folder / "later" / "outbox"
    server.stop()


def written(outbox: Path) -> list[Point]:
    return [point for segment in segments(outbox) for point in segment.read(0)[0]]


def test_only_those_who_may_log_are_heard(guarded: tuple[Server, Path]) -> None:
    server, outbox = guarded
    api = f"{server.url}/api/2.0/mlflow/runs"
    run = httpx.post(f"{api}/create", json={"experiment_id": "0"}, auth=ADMIN).raise_for_status().json()["run"]
    said = {"run_id": run["info"]["run_id"], "key": "fairness/gap", "value": 0.1, "timestamp": 1, "step": 2}
    assert httpx.post(f"{api}/log-metric", json=said).status_code == 401
    assert httpx.post(f"{api}/log-metric", json=said, auth=("admin", "another")).status_code == 401
    # Let in, and logged, although the outbox cannot be written.
    assert httpx.post(f"{api}/log-metric", json=said, auth=ADMIN).status_code == 200
    assert "logged and not noted" in server.log.read_text()
    outbox.parent.unlink()
    assert httpx.post(f"{api}/log-metric", json=said, auth=("admin", "another")).status_code == 401
    assert written(outbox) == []
    assert httpx.post(f"{api}/log-metric", json=said, auth=ADMIN).status_code == 200
    batch = {"run_id": said["run_id"], "metrics": [said | {"key": "performance/auc"}, said | {"key": "drift/a"}]}
    assert httpx.post(f"{api}/log-batch", json=batch, auth=ADMIN).status_code == 200
    assert written(outbox) == [Point(said["run_id"], key, 0.1, 2, 1) for key in ("fairness/gap", "drift/a")]
    assert httpx.get(f"{server.url}/api/2.0/mlflow/users/current", auth=ADMIN).status_code == 200
