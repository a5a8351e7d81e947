"""Which data a run will read, told to the scheduler: it then goes to a host whose cache holds that, where it can."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.exceptions import PrefectHTTPStatusError

from trimtab_flows import runtime
from trimtab_flows.catalog import NotIngested
from trimtab_flows.ingest import FEATURES
from trimtab_flows.loading import load_recipe
from trimtab_flows.windows import Window

__all__ = ["reads", "tell_reads"]


def reads(recipe: str, windows: str) -> list[str]:
    """Digests of the features of these windows, oldest first; those that are not ingested yet are left out."""
    found = load_recipe(recipe).recipe
    catalog = runtime.catalog(found.name)
    entries = (catalog.find(FEATURES, window) for window in found.windows(Window.parse(windows)))
    return [entry.digest for entry in entries if entry is not None]


def tell_reads(client: SyncPrefectClient, run_id: UUID, digests: list[str]) -> bool:
    """Add what a run reads to what it asks for; False if it has been picked already, or says itself what it reads.

    Raises:
        NotIngested: there is nothing to read.
    """
    if not digests:
        raise NotIngested("nothing of these windows has been ingested")
    run = client.read_flow_run(run_id)
    if run.state is None or not run.state.is_scheduled():
        return False
    resources: dict[str, Any] = {}
    if run.deployment_id:
        resources |= (client.read_deployment(run.deployment_id).job_variables or {}).get("resources", {})
    own = dict(run.job_variables or {})
    resources |= own.get("resources", {})  # a run's own take the place of the deployment's, all at once
    if resources.get("reads"):
        return False
    own["resources"] = {**resources, "reads": digests}
    try:
        client.update_flow_run(run_id, job_variables=own)
    except PrefectHTTPStatusError as error:
        if error.response.status_code not in (400, 409):
            raise
        return False  # picked meanwhile
    return True
