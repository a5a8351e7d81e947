"""What gpu-process and gpu-docker have in common: `Dispatcher` decides what a worker of Prefect's submits.

What Prefect does with a run then is unchanged.
"""

from __future__ import annotations

import contextlib
import sys
import uuid
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any, Self

import anyio
import anyio.abc
import httpx
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL

from trimtab_blocks.host_cache import CacheSettingError
from trimtab_blocks.settings import SettingError
from trimtab_work_pools.devices_env import UUID as BY_UUID
from trimtab_work_pools.host.directory import HostDirError
from trimtab_work_pools.inventory.host import LabelError
from trimtab_work_pools.launchers.prefect_hooks import renew_credentials
from trimtab_work_pools.queue.workload import WorkloadError
from trimtab_work_pools.resources import CapacityError
from trimtab_work_pools.runs.device_record import given_text
from trimtab_work_pools.server.credentials import CREDENTIALS, refused_text
from trimtab_work_pools.server.device_labels import DeviceLabels
from trimtab_work_pools.worker.admission import NotAdmitted, not_started
from trimtab_work_pools.worker.claiming import PREPARES_WITHIN_S, Preparation, server_was_away
from trimtab_work_pools.worker.control_plane import server_answers
from trimtab_work_pools.worker.dispatcher import Dispatcher
from trimtab_work_pools.worker.drain import Drain
from trimtab_work_pools.worker.host_claims import HostClaim
from trimtab_work_pools.worker.lives import Lives, Processes
from trimtab_work_pools.worker.picking import GANG
from trimtab_work_pools.worker.prefect_hooks import Entry, forget_submission, worker_labels
from trimtab_work_pools.worker.resources_form import misplaced_keys
from trimtab_work_pools.worker.this_node import NodeSettings

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient
    from prefect.client.schemas.responses import WorkerFlowRunResponse
    from prefect.workers.base import BaseJobConfiguration, BaseWorker

    Base = BaseWorker[Any, Any, Any]
else:
    Base = object  # Prefect's registry of worker types is to know nothing of this class

__all__ = ["GpuWorker"]

_REFUSALS = (SettingError, LabelError, CacheSettingError, NotAdmitted, HostDirError)
"""Why a worker does not start, in a sentence for whoever started it."""

_AGAIN_S = 5.0
_PATIENCE = ("PREFECT_CLIENT_MAX_RETRIES", "8")
"""A run whose code has ended and cannot say so is run again. Prefect's clients wait twice as long before each try: with
8 tries an outage of the server of eight minutes is waited for, with Prefect's own 5 one minute."""


@contextlib.contextmanager
def _refusal_is_said() -> Iterator[None]:
    """Ends a worker that starts, and that the server does not let in, with one line."""
    try:
        yield
    except httpx.HTTPStatusError as error:
        if error.response.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            not_started(refused_text(error.response.status_code, str(PREFECT_API_URL.value())))
        raise


class GpuWorker(Base):
    """To be put before a worker class of Prefect's."""

    _dispatcher: Dispatcher
    _device_labels: DeviceLabels
    _drain: Drain
    _joined = False
    _handed_over: dict[uuid.UUID, Preparation]
    """Runs that are claimed, and are on their way to their start or beyond it."""
    _adopted: set[str]
    """Ids of runs of an earlier worker whose stretch here is not closed yet."""

    @classmethod
    def get_default_base_job_template(cls) -> dict[str, Any]:
        """Prefect's, made strict: the server refuses an unknown key, and one of a demand that stands beside
        `resources`, when a deployment or a run is made.
        """
        template = super().get_default_base_job_template()
        variables = template["variables"]
        definitions = variables.get("definitions") or variables.get("$defs") or {}
        if "Resources" in definitions:  # a class of somebody's own on this one may ask for nothing
            definitions["Resources"]["additionalProperties"] = False
            variables["patternProperties"] = misplaced_keys(variables["properties"])
        return template

    def _open_lives(self) -> Lives:
        """What runs live in; opened before anything else is."""
        return Processes()

    async def _admitted(self) -> None:
        """Done when the worker has joined its pool, before it takes over what an earlier one left."""

    async def __aenter__(self) -> Self:
        try:
            NodeSettings.from_environment()  # a wrong setting is said before anything is started
        except _REFUSALS as error:
            not_started(str(error))
            raise
        CREDENTIALS.begin()
        renew_credentials()
        with _refusal_is_said():
            await server_answers()
            return await super().__aenter__()

    async def sync_with_backend(self) -> None:
        """A server that is away or refuses the credentials is asked again, for as long as that lasts."""
        try:
            await super().sync_with_backend()
        except httpx.HTTPError as error:
            if not self._joined:
                raise
            self._away(error)

    def _away(self, error: httpx.HTTPError) -> None:
        """The stock worker gives up after some of these; this one holds devices, and its runs go on."""
        if not CREDENTIALS.refused:  # that is said already
            why = str(error) or type(error).__name__
            self._logger.warning(
                "The Prefect server does not answer (%s); what runs goes on, and it is asked again", why
            )

    async def setup(self) -> None:
        try:
            await self._leave()  # it may be set up once more: its name and its devices are its own
            self._handed_over = {}
            self._adopted = set()
            lives = self._open_lives()
            await super().setup()
            await self._join(lives)
        except _REFUSALS as error:
            not_started(str(error))
            raise
        self._joined = True
        self._drain = Drain(self._dispatcher, self._logger)
        self._drain.watch_signals()
        assert self._runs_task_group is not None
        for claim in self._dispatcher.adopted():
            run_id = claim.holding.run_id
            self._adopted.add(run_id)
            self._runs_task_group.start_soon(self._guarded, self._await_adopted, claim)
            self._runs_task_group.start_soon(self._guarded, self._dispatcher.gangs.watch_again, run_id)
        self._runs_task_group.start_soon(self._listen)

    async def _await_adopted(self, claim: HostClaim) -> None:
        try:
            await self._dispatcher.await_adopted(claim)
            await self._device_labels.ended(uuid.UUID(claim.holding.run_id))
        finally:
            self._adopted.discard(claim.holding.run_id)
            self._dispatcher.wake()  # it may be for this worker again

    async def _join(self, lives: Lives) -> None:
        """What Prefect's setup has opened is closed again if the worker may not join, or is ended before it could."""
        try:
            self._dispatcher = Dispatcher(self.name, self._work_pool_name, self.client, set(self._work_queues), lives)
            self._device_labels = DeviceLabels(self.client, self._dispatcher.now_s)
            await self._dispatcher.join(self.type)
            await self._admitted()
            await self._dispatcher.take_over()
        except _REFUSALS as error:
            not_started(str(error))
            await super().teardown(None, None, None)  # with the error, it would be raised in groups
            raise
        except BaseException:
            await super().teardown(*sys.exc_info())
            raise

    async def teardown(self, *exc_info: Any) -> None:
        await self._leave()
        await super().teardown(*exc_info)

    async def _leave(self) -> None:
        """Peers and this host are told; nothing if it has not joined, or has left."""
        if not self._joined:
            return
        self._joined = False
        with anyio.CancelScope(shield=True):
            self._drain.stop_watching()
            with contextlib.suppress(Exception):  # the server may be the reason why it stops
                await self._dispatcher.withdraw()
            self._dispatcher.close()

    async def _listen(self) -> None:
        """Plans as soon as something has happened, rather than at the next poll."""
        with anyio.CancelScope() as scope:
            self._scheduled_task_scopes.add(scope)
            async with anyio.create_task_group() as listeners:
                for watch in (
                    self._dispatcher.listen,
                    self._dispatcher.watch_usage,
                    self._dispatcher.watch_neglected,
                    self._dispatcher.fencing.watch,
                ):
                    listeners.start_soon(self._for_ever, watch)
                async for _ in self._dispatcher.wakes():
                    try:
                        await self.get_and_submit_flow_runs()
                    except Exception:
                        self._logger.exception("Could not plan; it is tried again at the next poll")

    async def _get_scheduled_flow_runs(self) -> list[WorkerFlowRunResponse]:
        """Only what this worker is to start now, in order of the plan."""
        if self._work_pool is None:
            return []
        room = int(self.limiter.available_tokens) if self._limiter else None
        try:
            limited = self.work_pool.concurrency_limit is not None
            # Also runs whose last stretch here is still being closed: its end would take the new claim with it.
            busy = {str(run_id) for run_id in (*self._submitting_flow_run_ids, *self._handed_over)}
            busy |= self._adopted | self._dispatcher.claiming.resting()
            picked = await self._dispatcher.pick(
                float(self._prefetch_seconds), limited, room, busy, self.work_pool.is_paused
            )
        except httpx.HTTPError as error:
            self._away(error)
            return []
        except ObjectNotFound as error:  # it was deleted between two calls: what is known of it is read again
            self._logger.info("Something that was planned with is not there any more (%s); planned again", error)
            return []
        except (WorkloadError, CapacityError) as error:
            self._logger.error("What the workers of the pool advertise does not hold together (%s); read again", error)
            return []
        except Exception:
            self._logger.exception("Nothing is picked in this round; what runs goes on, and it is tried again")
            return []
        return [Entry(run) for run in picked]  # type: ignore[misc]

    async def _submit_scheduled_flow_runs(self, flow_run_response: list[WorkerFlowRunResponse]) -> list[FlowRun]:
        """What the worker's own --limit has no place for any more, since another round was picked meanwhile, gives its
        devices back at once.
        """
        submitted = await super()._submit_scheduled_flow_runs(flow_run_response)
        for run_id in {one.flow_run.id for one in flow_run_response} - {run.id for run in submitted}:
            self._dispatcher.lost(run_id)
        return submitted

    async def _submit_run(self, flow_run: FlowRun) -> None:
        """Whatever breaks before the run is claimed, is let go: the worker and its other runs go on."""
        try:
            await super()._submit_run(flow_run)
        except Exception as error:
            if not server_was_away(error):
                self._logger.exception("Run %s could not be submitted", flow_run.id)
            else:
                self._logger.warning("Run %s is not submitted now: the server does not answer (%s)", flow_run.id, error)
            forget_submission(self, flow_run.id)
            self._dispatcher.claiming.rest(flow_run.id)
        finally:
            if flow_run.id not in self._handed_over:
                self._dispatcher.lost(flow_run.id)

    async def _submit_run_and_capture_errors(
        self, flow_run: FlowRun, task_status: anyio.abc.TaskStatus[int | Exception] | None = None
    ) -> Any:
        """Until the run begins, nothing is held for longer than the server takes to answer, if it is well."""
        result, away = None, ""
        preparation = self._handed_over[flow_run.id] = Preparation()
        try:
            with preparation.scope:
                result = await super()._submit_run_and_capture_errors(flow_run, task_status)
            away = await self._not_prepared(flow_run, preparation, result, task_status)
        except Exception:
            self._logger.exception("What became of run %s could not be told", flow_run.id)
        except BaseException:
            if self._drain.forced:  # else an error ends the worker, and the run is the next worker's by its claim
                with anyio.CancelScope(shield=True):
                    await self._guarded(self._dispatcher.ended, flow_run.id)
            raise
        code, oom_killed = getattr(result, "status_code", None), getattr(result, "oom_killed", False)
        with anyio.CancelScope(shield=True):
            if away:
                await self._guarded(self._dispatcher.claiming.give_back, flow_run.id, away)
            else:
                await self._guarded(self._dispatcher.ended, flow_run.id, code, oom_killed)
            await self._guarded(self._device_labels.ended, flow_run.id)
        self._handed_over.pop(flow_run.id, None)
        self._dispatcher.wake()  # it may be for this worker again
        return result

    async def _not_prepared(
        self,
        flow_run: FlowRun,
        preparation: Preparation,
        result: Any,
        task_status: anyio.abc.TaskStatus[int | Exception] | None,
    ) -> str:
        """Why a run did not come to its start, if that is for want of a server that is well; else ""."""
        if preparation.scope.cancelled_caught:
            late = TimeoutError(f"the Prefect server did not tell within {PREPARES_WITHIN_S:g} s what the start needs")
            if task_status is not None:
                task_status.started(late)
            return str(late)
        if preparation.over or not isinstance(result, Exception):
            return ""
        if server_was_away(result):
            return f"the Prefect server did not answer: {result}"
        await super()._propose_crashed_state(flow_run, preparation.crash)
        return ""

    async def _propose_crashed_state(
        self, flow_run: FlowRun, message: str, client: PrefectClient | None = None
    ) -> None:
        """Of a run that did not come to its start it is said when it is known why."""
        preparation = self._handed_over.get(flow_run.id)
        if preparation is not None and not preparation.over:
            preparation.crash = message
        else:
            await super()._propose_crashed_state(flow_run, message, client)

    async def _give_worker_labels_to_flow_run(self, flow_run_id: uuid.UUID) -> None:
        """With the devices that it was given, in the same call. A run that was sent past the queue holds none."""
        try:
            claim = self._dispatcher.claim(flow_run_id)
        except LookupError:
            await super()._give_worker_labels_to_flow_run(flow_run_id)
            return
        gpus = [device for device, _ in claim.devices]
        await self._device_labels.began(flow_run_id, claim.holding.placement.node, gpus, worker_labels(self))

    async def _guarded(self, do: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        """No error of ours ends the runs of this worker."""
        try:
            await do(*arguments)
        except Exception:
            self._logger.exception("Could not be done, and what runs goes on: %s%s", do.__qualname__, arguments)

    async def _for_ever(self, watch: Callable[[], Awaitable[None]]) -> None:
        while True:
            await self._guarded(watch)
            await anyio.sleep(_AGAIN_S)

    async def _propose_pending_state(self, flow_run: FlowRun) -> bool:
        """The claim; of a gang, the claims of all. One that is lost gives the devices back at once."""
        won = False
        self._device_labels.seen(flow_run)
        nodes, gpus = self._dispatcher.other_nodes(flow_run.id), self._dispatcher.gpus(flow_run.id)
        try:
            won = await self._dispatcher.claiming.won(flow_run.id, self._dispatcher.mark(flow_run.id))
            won = (
                won
                and not await self._dispatcher.one_too_many(flow_run)
                and await self._dispatcher.gangs.assembled(flow_run, nodes, gpus)
            )
        except (httpx.HTTPError, ObjectNotFound) as error:
            won = False
            await self._dispatcher.claiming.give_back(flow_run.id, f"the Prefect server did not answer: {error}")
        finally:
            if not won:
                self._dispatcher.lost(flow_run.id)
        return won

    async def _equip(self, flow_run: FlowRun, configuration: BaseJobConfiguration) -> bool:
        """Tells the run of its devices, and of the others if it is one of a gang; returns whether it is.

        Raises LookupError if it was not picked here, or a device of it has gone.
        """
        preparation = self._handed_over.get(flow_run.id)
        if preparation is not None:
            preparation.begins()
        claim = self._dispatcher.claim(flow_run.id)
        given = given_text(claim.devices, claim.holding.placement.node)
        self.get_flow_run_logger(flow_run).info("%s", given)
        configuration.env.setdefault(*_PATIENCE)
        own = {name: value for name, value in configuration.env.items() if value is not None}
        device_ids = getattr(configuration, "device_ids", BY_UUID)
        configuration.env |= self._dispatcher.environment(flow_run.id, own, device_ids)
        nodes = self._dispatcher.other_nodes(flow_run.id)
        configuration.env |= self._dispatcher.gangs.environment(flow_run.id)
        in_gang = bool(nodes) or GANG in flow_run.labels
        if in_gang:
            assert self._runs_task_group is not None
            self._runs_task_group.start_soon(self._guarded, self._dispatcher.gangs.watch, flow_run, len(nodes))
        return in_gang
