"""The plugin together with MLflow's own basic-auth app."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from infra.metric_events.conftest import ADMIN
from infra.metric_events.servers import Server
from trimtab_infra.metric_events.outbox import segments
from trimtab_infra.metric_events.points import Point

pytestmark = pytest.mark.timeout(240)


def written(outbox: Path) -> list[Point]:
    return [point for segment in segments(outbox) for point in segment.read(0)[0]]


def test_only_those_who_may_log_are_heard(servers: tuple[Server, Server, Server]) -> None:
    server = servers[2]
    outbox = server.log.parent / "later" / "outbox"
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
