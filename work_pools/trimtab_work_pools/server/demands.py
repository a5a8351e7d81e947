"""What runs ask for: the pool's template and the job variables of deployments, kept until they change."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
from prefect.client.schemas.objects import FlowRun

from trimtab_work_pools.demand.layers import layers_of, nested
from trimtab_work_pools.demand.merge import Asked, merge

__all__ = ["RETRY_ASKS", "Demands", "UnknownDemand", "asked_by", "merged_variables", "of_retry"]

RETRY_ASKS = "trimtab.retry-asks"
"""Label of a run: what of its resources a retry put there, as JSON."""
_PAGE = 200


class UnknownDemand(LookupError):
    """What a run asks for is not known now: its deployment cannot be read. That is not to ask for nothing."""


class Demands:
    """Of the runs of one work pool."""

    def __init__(self, client: PrefectClient, pool: str) -> None:
        self._client, self._pool = client, pool
        self._deployments: dict[UUID, dict[str, Any]] = {}
        self._template: dict[str, Any] | None = None

    async def know(self, deployments: Collection[UUID]) -> None:
        """Reads what is not known yet, 200 deployments at a time. One that is not there stays unknown."""
        if self._template is None:
            self._template = (await self._client.read_work_pool(self._pool)).base_job_template or {}
        ids = sorted(set(deployments) - self._deployments.keys(), key=str)
        for start in range(0, len(ids), _PAGE):
            wanted = DeploymentFilter(id=DeploymentFilterId(any_=ids[start : start + _PAGE]))
            for one in await self._client.read_deployments(deployment_filter=wanted, limit=_PAGE):
                self._deployments[one.id] = one.job_variables or {}

    def forget(self, deployment: UUID | None = None) -> None:
        """Have it read again since it has changed: this deployment, or all of them and the pool's template."""
        if deployment is not None:
            self._deployments.pop(deployment, None)
            return
        self._deployments.clear()
        self._template = None

    def asked(self, run: FlowRun) -> Asked:
        """Raises DemandError if it makes no sense, UnknownDemand if the deployment is not known (`know`)."""
        return asked_by(run, self._of(run.deployment_id), self._template)

    def asked_by_deployment(self, deployment: UUID) -> Asked:
        """What its runs ask for, if they say nothing themselves. Raises DemandError, UnknownDemand."""
        return merge(layers_of(self._template, self._of(deployment), {}))

    def job_variables(self, run: FlowRun) -> dict[str, Any]:
        """Of its deployment with those of the run over them, and the resources that result of all that ask for some.
        Raises DemandError, UnknownDemand.
        """
        return merged_variables(run, self._of(run.deployment_id), self.asked(run))

    def _of(self, deployment: UUID | None) -> dict[str, Any]:
        if deployment is None:
            return {}
        try:
            return self._deployments[deployment]
        except KeyError:
            raise UnknownDemand(f"deployment {deployment} cannot be read") from None


def asked_by(run: FlowRun, deployment: Mapping[str, Any], template: Mapping[str, Any] | None) -> Asked:
    """What a run asks for, by the job variables of its deployment and the template of its pool. Raises DemandError."""
    return merge(layers_of(template, deployment, run.job_variables or {}, of_retry(run.labels)))


def merged_variables(run: FlowRun, deployment: Mapping[str, Any], asked: Asked) -> dict[str, Any]:
    """Job variables as Prefect merges them, but for the resources, which are merged key by key."""
    variables = {**nested(deployment), **nested(run.job_variables or {})}
    return {**variables, "resources": dict(asked.resources)}


def of_retry(labels: Mapping[str, Any]) -> dict[str, Any]:
    """What of a run's resources its retries have put there, by the labels of the run."""
    try:
        found = json.loads(str(labels.get(RETRY_ASKS, "{}")))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
