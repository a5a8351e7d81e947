"""A test process as a client of the session's stack, which serves the project's own prefect.yaml."""

from __future__ import annotations

import re

import pytest
from prefect.client.orchestration import get_client

from conftest import ROOT
from trimtab_blocks.mlflow import MlflowTracking
from trimtab_blocks.stores import DirectoryStore
from trimtab_infra.stack.stack import Stack


def test_every_deployment_of_the_project_is_made(environment: dict[str, str]) -> None:
    declared = re.findall(r"^    entrypoint: (?:\w+\.)+(\w+)$", (ROOT / "prefect.yaml").read_text(), re.MULTILINE)
    with get_client(sync_client=True) as client:
        assert str(client.api_url).rstrip("/") == environment["PREFECT_API_URL"]
        flows = {flow.id: flow.name for flow in client.read_flows()}
        # Other tests leave deployments whose pool they have removed.
        found = [deployment for deployment in client.read_deployments() if deployment.work_pool_name]
        made = sorted(flows[deployment.flow_id] for deployment in found)
        assert {deployment.work_pool_name for deployment in found} == {"trimtab"}
    assert len(declared) >= 9
    assert made == sorted(name.replace("_", "-") for name in declared)  # as Prefect names flows


def test_the_blocks_point_into_the_stack(stack: Stack, environment: dict[str, str]) -> None:
    assert MlflowTracking.load("default").tracking_uri == environment["MLFLOW_TRACKING_URI"]
    assert DirectoryStore.load("default").path == stack.folder.store


@pytest.mark.parametrize("address", ["", "127.0.0.1:5000", "file:///tmp/runs"])
def test_an_address_of_mlflow_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="must start with http:// or https://"):
        MlflowTracking(tracking_uri=address)
