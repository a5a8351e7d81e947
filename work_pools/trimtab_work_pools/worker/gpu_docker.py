"""`prefect worker start --type gpu-docker`: Prefect's Docker worker that knows its host and picks runs by fit."""

from __future__ import annotations

import sys
from typing import Any

import anyio
import anyio.abc
import anyio.to_thread
from prefect.client.schemas.objects import FlowRun
from prefect_docker.worker import DockerWorker, DockerWorkerJobConfiguration, DockerWorkerResult
from pydantic import Field

from trimtab_work_pools.worker.container_output import Shown
from trimtab_work_pools.worker.container_settings import confine
from trimtab_work_pools.worker.containers import Containers
from trimtab_work_pools.worker.gpu_worker import GpuWorker
from trimtab_work_pools.worker.host_claims import HostClaim
from trimtab_work_pools.worker.lives import End
from trimtab_work_pools.worker.merged_resources import MergedResources
from trimtab_work_pools.worker.resources_form import DEVICE_IDS, DeviceIds, Resources

__all__ = ["GpuDockerJobConfiguration", "GpuDockerResult", "GpuDockerVariables", "GpuDockerWorker"]

_LAST_OUTPUT_S, _LAST_EVENT_S = 30.0, 5.0
"""What the engine still has to give of a container that has ended is waited for so long."""


class GpuDockerJobConfiguration(MergedResources, DockerWorkerJobConfiguration):
    """A container, and what it needs."""

    resources: dict[str, Any] = Field(default_factory=dict)
    device_ids: DeviceIds = Field(default="uuid")


class GpuDockerVariables(DockerWorkerJobConfiguration):
    """Shown as a form where a pool or a deployment is edited."""

    resources: Resources = Field(
        default_factory=Resources, title="Resources", description="What the run needs of the node that it is to run on."
    )
    device_ids: DeviceIds = Field(default="uuid", title="Device ids", description=DEVICE_IDS)


class GpuDockerResult(DockerWorkerResult):
    """`oom_killed`: the kernel ended a process of the container for want of memory."""

    oom_killed: bool = False


class GpuDockerWorker(GpuWorker, DockerWorker):
    """A DockerWorker in which `Dispatcher` decides what is submitted; the container gets what the run was given."""

    type = "gpu-docker"
    job_configuration = GpuDockerJobConfiguration
    job_configuration_variables = GpuDockerVariables
    _description = "Runs flows in containers on hosts with GPUs: picks the runs that fit the host best, exact devices."
    _display_name = "GPU Docker (Trimtab)"

    _containers: Containers

    def _open_lives(self) -> Containers:
        self._containers = Containers()
        return self._containers

    async def teardown(self, *exc_info: Any) -> None:
        await super().teardown(*exc_info)
        if hasattr(self, "_containers"):  # else it was never set up
            self._containers.close()

    async def run(
        self,
        flow_run: FlowRun,
        configuration: DockerWorkerJobConfiguration,
        task_status: anyio.abc.TaskStatus[Any] | None = None,
    ) -> GpuDockerResult:
        in_gang = await self._equip(flow_run, configuration)
        claim, cpus = self._dispatcher.claim(flow_run.id), self._dispatcher.own_cpus(flow_run.id)
        configuration.labels |= self._containers.labels(claim)
        for changed in confine(configuration, claim, cpus, in_gang):
            self._logger.warning("Run %s: %s", flow_run.id, changed)
        remove, configuration.auto_remove = configuration.auto_remove, False  # it is to say how it ended, before
        container, created = await self._start(configuration, claim)
        identifier = self._get_infrastructure_pid(container_id=container.id)
        now = await self._containers.look(claim)
        self._dispatcher.started(flow_run.id, now.pid if now else 0, container.id)
        if task_status is not None:
            task_status.started(identifier)
        end = await self._watch(flow_run, claim, container, configuration, created)
        if remove:
            await anyio.to_thread.run_sync(self._containers.discard, claim.claim_id)
        told = self._dispatcher.stopping.told(str(flow_run.id))
        # What was told to stop goes back to the queue next, or is another host's by now: it has not crashed.
        code = 0 if told else -1 if end.exit_code is None else end.exit_code
        return GpuDockerResult(status_code=code, identifier=identifier, oom_killed=end.oom_killed)

    async def _start(self, configuration: DockerWorkerJobConfiguration, claim: HostClaim) -> Any:
        """The container, and the event of its making. One that cannot be started is not left lying."""
        started = False
        try:
            made = await anyio.to_thread.run_sync(self._create_and_start_container, configuration)
            started = True
            return made
        finally:
            if not started:
                with anyio.CancelScope(shield=True):
                    await anyio.to_thread.run_sync(self._containers.discard, claim.claim_id)

    async def _watch(
        self,
        flow_run: FlowRun,
        claim: HostClaim,
        container: Any,
        configuration: DockerWorkerJobConfiguration,
        made: Any,
    ) -> End:
        """Shows what the container prints until it ends, and that it has ended; how, says the engine."""
        shown = Shown(_write)
        waits = self._containers.waits
        silent = configuration.model_copy(update={"stream_output": False})

        async def run(what: str, function: Any, *arguments: Any) -> None:
            try:
                await anyio.to_thread.run_sync(function, *arguments, limiter=waits, abandon_on_cancel=True)
            except Exception as error:  # noqa: BLE001 - what cannot be shown does not end a run
                self._logger.warning("Run %s: %s any more: %s", flow_run.id, what, error)

        async def tell() -> None:
            await run("its container's events are not told", self._watch_container_safe, container, silent, made)
            told.set()

        async def show() -> None:
            await run("its output is not shown", self._containers.follow, container.id, shown)
            followed.set()

        followed, told = anyio.Event(), anyio.Event()
        async with anyio.create_task_group() as group:
            group.start_soon(tell)
            if configuration.stream_output:
                group.start_soon(show)
            end = await self._containers.end(claim)
            with anyio.move_on_after(_LAST_OUTPUT_S) as late:
                if configuration.stream_output:
                    await followed.wait()
                    await self._rest(flow_run, container.id, shown)
            if late.cancelled_caught:
                self._logger.warning(
                    "Run %s: its last output is not shown, for the engine did not give it within %g s; docker logs %s",
                    *(flow_run.id, _LAST_OUTPUT_S, container.id[:12]),
                )
            with anyio.move_on_after(_LAST_EVENT_S):
                await told.wait()
            group.cancel_scope.cancel()
        return end

    async def _rest(self, flow_run: FlowRun, container_id: str, shown: Shown) -> None:
        try:
            await self._containers.show_rest(container_id, shown)
        except Exception as error:  # noqa: BLE001 - it was removed, or its logging driver can't be read
            self._logger.warning("Run %s: its last output cannot be shown: %s", flow_run.id, error)


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
