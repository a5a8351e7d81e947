"""The job configuration of a run says the same of its resources as the plan: merged key by key, not replaced."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Self
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, WorkPool
from prefect.client.schemas.responses import DeploymentResponse

from trimtab_work_pools.server.demands import asked_by

if TYPE_CHECKING:
    from prefect.workers.base import BaseJobConfiguration

    Base = BaseJobConfiguration
else:
    Base = object

__all__ = ["MergedResources"]


class MergedResources(Base):
    """To be put before a job configuration of Prefect's."""

    @classmethod
    async def resolve_for_flow_run(
        cls,
        flow_run: FlowRun,
        *,
        client: PrefectClient,
        work_pool: WorkPool,
        worker_name: str,
        worker_id: UUID | None = None,
        deployment: DeploymentResponse | None = None,
    ) -> Self:
        """Prefect's, with what the run asks for as `resources`. Raises DemandError if that makes no sense."""
        if deployment is None and flow_run.deployment_id:
            deployment = await client.read_deployment(flow_run.deployment_id)
        of_deployment = copy.deepcopy((deployment.job_variables if deployment else None) or {})
        asked = asked_by(
            flow_run, of_deployment, work_pool.base_job_template
        )  # before: Prefect empties what it is given
        configuration = await super().resolve_for_flow_run(
            flow_run,
            client=client,
            work_pool=work_pool,
            worker_name=worker_name,
            worker_id=worker_id,
            deployment=deployment,
        )
        configuration.resources = dict(asked.resources)  # type: ignore[attr-defined]
        return configuration
