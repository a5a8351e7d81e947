"""Runs on several nodes at once: the run itself is rank 0, on the node of the worker that claimed it; for every other
node that worker makes a run of the same deployment, pinned to the node, with the same parameters and its own rank.

All or nothing: no rank begins before all hold their devices (`gangs` says how), and one that is lost ends the gang, and
rank 0 waits again; also when rank 0 has failed over that by itself. Each worker watches what it runs: rank 0 its
members, a member rank 0. What belongs together is kept with the runs (a tag, a label), so that a worker that was
started again knows it too.
"""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any, cast
from urllib.parse import urlsplit
from uuid import UUID

import anyio
import httpx
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId, FlowRunFilterTags
from prefect.client.schemas.objects import FlowRun, State
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound
from prefect.logging import get_logger
from prefect.states import Cancelled, Failed, Pending, Scheduled
from prefect.types._datetime import DateTime, from_timestamp

from trimtab_blocks.paging import PAGE, all_by_offset
from trimtab_blocks.settings import read as read_settings
from trimtab_work_pools.devices_env import GangMember, gang_environment
from trimtab_work_pools.gangs import (
    CONFIRMED,
    FOLLOWS_WITHIN_S,
    GATHERING,
    RESERVES_WITHIN_S,
    WORD,
    WORD_WITHIN_S,
    Member,
    Step,
    Verdict,
    follows,
    gathered,
    leader_ended,
    leader_failed,
    members_say,
    word_given,
)
from trimtab_work_pools.server.demands import UnknownDemand
from trimtab_work_pools.wishes import DemandError
from trimtab_work_pools.worker.control_plane import ControlPlane, persistently
from trimtab_work_pools.worker.picking import AWAITING, GANG, NODE

__all__ = ["Gangs", "address_towards"]

_LOOK_S = 2.0
_GATHERING_LOOK_S = 0.5
_WRITES_WITHIN_S = 15.0
"""The word, and what is written before it."""
_BACKOFF_S, _BACKOFF_AT_MOST_S = 1.0, 60.0
_BROKEN, _FAILED, _ENDED = "GangBroken", "GangFailed", "GangEnded"
_BROKEN_BEFORE = "trimtab.started-again.GangBroken"

Stop = Callable[[str, str, str], None]
"""Stops a run of this worker: its id, the name of its next state, why."""


class Gangs:
    """The gangs that have a member under one worker."""

    def __init__(
        self,
        client: PrefectClient,
        control: ControlPlane,
        claim_of: Callable[[str], str],
        stop: Stop,
        told: Callable[[str], bool],
        let_go: Callable[[UUID], None],
    ) -> None:
        """`told`: whether a run was told to stop. `let_go`: frees what a run holds here."""
        self._client, self._control = client, control
        self._claim_of, self._stop, self._told_to_stop, self._let_go = claim_of, stop, told, let_go
        self._tries: dict[str, int] = {}
        self._environments: dict[str, dict[str, str]] = {}
        self._logger = get_logger("trimtab.worker")

    async def assembled(self, run: FlowRun, nodes: Sequence[str], gpus: int) -> bool:
        """Whether a run that was just claimed may begin: at once, if it is one of no gang; else when all others hold
        their devices. If it may not, what it holds here has been let go, and it waits again (a member is called off).
        """
        if nodes:
            return await self._leads(run, nodes, gpus)
        leader = run.labels.get(GANG)
        return not leader or await self._follows(run, UUID(str(leader)))

    def environment(self, run_id: UUID) -> dict[str, str]:
        """What rank 0 of an assembled gang is told, once."""
        return self._environments.pop(str(run_id), {})

    async def _leads(self, run: FlowRun, nodes: Sequence[str], gpus: int) -> bool:
        why = "its gang could not be gathered"
        try:
            with anyio.move_on_after(_WRITES_WITHIN_S):
                await self._say(run.id, GATHERING, f"waits until {len(nodes)} other members hold their nodes")
                self._environments[str(run.id)] = await self._gather(run, nodes, gpus)
                why = ""
            why = why or await self._until(run, len(nodes), gathered)
            if not why:
                why = "the word could not be given"
                with anyio.move_on_after(_WRITES_WITHIN_S):
                    await self._say(run.id, WORD, "all members hold their nodes")
                    why = ""
            why = why or await self._until(run, len(nodes), follows)
        except (UnknownDemand, DemandError) as error:
            why = f"what it asks for cannot be read any more ({error})"
        except (httpx.HTTPError, ObjectNotFound) as error:
            why = f"the server does not answer, or refuses ({error})"
        if not why:
            self._tries.pop(str(run.id), None)
            return True
        self._environments.pop(str(run.id), None)
        self._let_go(run.id)
        self._logger.info("Gang of run %s is not started: %s", run.id, why)
        await persistently(lambda: self._called_off(run, why), f"the gang of {run.id} is called off")
        return False

    async def _until(
        self, run: FlowRun, expected: int, judge: Callable[[Sequence[Member], int, float], Verdict]
    ) -> str:
        """Returns why rank 0 may not begin; "" if it may."""
        began_s = time.monotonic()
        while True:
            if self._told_to_stop(str(run.id)):
                return "it was told to stop"
            verdict = Verdict(Step.GO_ON)
            try:
                own = (await self._client.read_flow_run(run.id)).state
                if own is None or own.type.value != "PENDING":
                    return f"it is {own.name.lower() if own and own.name else 'not there any more'}"
                members = await self._seen(run.id)
                verdict = judge(members, expected, time.monotonic() - began_s)
            except ObjectNotFound:
                return "it is not there any more"
            except httpx.HTTPError:  # nothing is known, but how long it has been so
                if time.monotonic() - began_s > max(RESERVES_WITHIN_S, FOLLOWS_WITHIN_S):
                    raise
            if verdict.step is not Step.GO_ON:
                return verdict.text if verdict.step is Step.AGAIN else ""
            await anyio.sleep(_GATHERING_LOOK_S)

    async def _called_off(self, run: FlowRun, why: str) -> None:
        """The members first: one that still waits for the word must not get that of the next try."""
        await self._dismiss(await self._members(run.id), "its gang was not started", everybody=True)
        try:
            state = (await self._client.read_flow_run(run.id)).state
        except ObjectNotFound:
            return
        if state is None or state.type.value != "PENDING":
            return
        tries = self._tries[str(run.id)] = self._tries.get(str(run.id), 0) + 1
        pause_s = min(_BACKOFF_AT_MOST_S, _BACKOFF_S * 2**tries) * random.uniform(0.5, 1.0)
        due = cast(DateTime, from_timestamp(self._control.now_s() + pause_s, tz="UTC"))
        waits: Any = Scheduled(name=AWAITING, message=f"all nodes at once: {why}", scheduled_time=due)
        await self._client.set_flow_run_state(run.id, waits, force=True)

    async def _follows(self, run: FlowRun, leader_id: UUID) -> bool:
        began_s, why = time.monotonic(), "rank 0 gave no word"
        verdict = Verdict(Step.GO_ON)
        confirmed = False
        while verdict.step is Step.GO_ON:
            waited_s = time.monotonic() - began_s
            try:
                own, leader = await self._states(run.id, leader_id)
                verdict = word_given(*_kind(own), *_kind_and_name(leader), waited_s)
                if not confirmed and verdict.step is Step.GO_ON:
                    await self._say(run.id, CONFIRMED, "holds its devices; waits for the rest of its gang")
                    confirmed = True
            except httpx.HTTPError as error:
                if waited_s > WORD_WITHIN_S:
                    verdict = Verdict(Step.AGAIN, f"the server does not answer ({error})")
            if self._told_to_stop(str(run.id)):
                verdict = Verdict(Step.AGAIN, "its worker was told to stop it")
            if verdict.step is Step.GO_ON:
                await anyio.sleep(_GATHERING_LOOK_S)
        if verdict.step is Step.START:
            return True
        why = verdict.text
        self._let_go(run.id)
        self._logger.info("Run %s is not started: %s", run.id, why)
        await persistently(lambda: self._ended(run.id, why), f"member {run.id} of a gang is called off")
        return False

    async def _ended(self, run_id: UUID, why: str) -> None:
        try:
            state = (await self._client.read_flow_run(run_id)).state
        except ObjectNotFound:
            return
        if state is not None and state.type.value == "PENDING":
            ended: Any = Cancelled(name=_ENDED, message=why)
            await self._client.set_flow_run_state(run_id, ended, force=True)

    async def _say(self, run_id: UUID, name: str, message: str) -> None:
        """Of a claimed run, what it waits for. Raises httpx.HTTPError."""
        state: Any = Pending(name=name, message=message)
        await self._client.set_flow_run_state(run_id, state, force=True)

    async def _states(self, run_id: UUID, leader_id: UUID) -> tuple[State | None, State | None]:
        both = FlowRunFilter(id=FlowRunFilterId(any_=[run_id, leader_id]))
        states = {one.id: one.state for one in await self._client.read_flow_runs(flow_run_filter=both)}
        return states.get(run_id), states.get(leader_id)

    async def _gather(self, run: FlowRun, nodes: Sequence[str], gpus: int) -> dict[str, str]:
        """Makes a run for each of the other `nodes`; returns what rank 0 is told."""
        await self._dismiss(await self._members(run.id), "a gang of before", everybody=True)
        address, port = address_towards(str(self._client.api_url)), _free_port()
        told = [
            gang_environment(GangMember(rank, len(nodes) + 1, address, port), gpus) for rank in range(len(nodes) + 1)
        ]
        variables = await self._control.job_variables(run)
        wishes = {**variables["resources"], "nodes": 1}  # said, or the deployment's would make a gang of each member
        assert run.deployment_id is not None
        for rank, node in enumerate(nodes, start=1):
            own = {"resources": wishes, "env": {**(variables.get("env") or {}), **told[rank]}}
            await self._client.create_flow_run_from_deployment(
                run.deployment_id,
                parameters=run.parameters,
                state=Scheduled(message=f"member {rank} of the gang of {run.name}, for node {node}"),
                name=f"{run.name}-rank-{rank}",
                tags=["trimtab-gang", _tag(run.id)],
                work_queue_name=run.work_queue_name,
                job_variables={**(run.job_variables or {}), **own},
                labels={GANG: str(run.id), NODE: node},
            )
        return told[0]

    async def watch_again(self, run_id: str) -> None:
        """`watch` for a run that an earlier worker started, if it is one of a gang."""
        try:
            run = await self._client.read_flow_run(UUID(run_id))
            members = await self._members(run.id)
        except (ObjectNotFound, httpx.HTTPError):
            return
        if members or GANG in run.labels:
            await self.watch(run, len(members))

    async def watch(self, run: FlowRun, members: int) -> None:
        """Until the run has left this worker: rank 0 its `members`, or (0) a member rank 0."""
        leader = run.labels.get(GANG)
        began_s = time.monotonic()
        claim = self._claim_of(str(run.id))  # the run may soon be here again, with other members
        while claim and self._claim_of(str(run.id)) == claim:
            try:
                if leader:
                    await self._watch_leader(run, UUID(str(leader)))
                else:
                    await self._watch_members(run, members, time.monotonic() - began_s)
            except (httpx.HTTPError, ObjectNotFound) as error:  # without the server nothing is known: the gang goes on
                self._logger.info("Gang of run %s: the server does not answer, or one was deleted (%s)", run.id, error)
            await anyio.sleep(_LOOK_S)
        if not leader and not self._claim_of(str(run.id)):
            await persistently(lambda: self._leader_left(run), f"the gang of {run.id} ends")

    async def _watch_members(self, run: FlowRun, expected: int, waited_s: float) -> None:
        claim = self._claim_of(str(run.id))
        verdict = members_say(await self._seen(run.id), expected, waited_s, _broken_before(run))
        if verdict.step is Step.GO_ON or self._claim_of(str(run.id)) != claim:  # it has left meanwhile
            return
        if verdict.step is Step.AGAIN:
            self._stop(str(run.id), _BROKEN, verdict.text)
            await self._client.update_flow_run_labels(run.id, {_BROKEN_BEFORE: _broken_before(run) + 1})
        else:
            self._stop(str(run.id), _FAILED, verdict.text)

    async def _leader_left(self, began: FlowRun) -> None:
        """Rank 0 is not here any more: the gang ends with it, or starts again if it was the loss of another. `began`:
        as it was at the start, or a break that was seen before would count twice.
        """
        while True:
            run = await self._client.read_flow_run(began.id)
            state = run.state
            if state is None or state.name == _FAILED or not (state.is_failed() or state.is_crashed()):
                break
            verdict = leader_failed(await self._seen(run.id), self._since_s(run), _broken_before(began))
            if verdict.step is not Step.GO_ON:
                await self._judged(run, verdict, _broken_before(began))
                break
            await anyio.sleep(_LOOK_S)
        await self._dismiss(await self._members(began.id), "rank 0 of its gang has ended")

    async def _judged(self, run: FlowRun, verdict: Verdict, broken_before: int) -> None:
        """The state of a rank 0 that has failed says what of."""
        state: Any = run.state
        if verdict.step is Step.AGAIN:
            await self._client.update_flow_run_labels(run.id, {_BROKEN_BEFORE: broken_before + 1})
            state = Scheduled(name=_BROKEN, message=f"{verdict.text} Then rank 0: {state.message}")
        elif verdict.text:
            state = Failed(name=_FAILED, message=f"{verdict.text} Then rank 0: {state.message}")
        else:
            return  # of itself
        await self._client.set_flow_run_state(run.id, state, force=True)

    async def _watch_leader(self, run: FlowRun, leader_id: UUID) -> None:
        own, state = await self._states(run.id, leader_id)
        if own and own.is_cancelled():  # rank 0 gathers another gang
            self._stop(str(run.id), _ENDED, own.message or "called off")
            return
        since_s = self._control.now_s() - state.timestamp.timestamp() if state else 0.0
        if why := leader_ended(state.type.value if state else "", since_s):
            self._stop(str(run.id), _ENDED, why)

    async def _members(self, leader_id: UUID) -> list[FlowRun]:
        tagged = FlowRunFilter(tags=FlowRunFilterTags(all_=[_tag(leader_id)]))
        runs = await all_by_offset(
            lambda offset: self._client.read_flow_runs(
                flow_run_filter=tagged, sort=FlowRunSort.ID_DESC, limit=PAGE, offset=offset
            )
        )
        return [run for run in runs if not (run.state and run.state.is_cancelled())]

    async def _seen(self, leader_id: UUID) -> list[Member]:
        """As `gangs` judges them."""
        return [
            Member(
                run.name,
                run.state.type.value if run.state else "",
                run.run_count > 0,
                run.state.message or "" if run.state else "",
                self._since_s(run),
                run.state.name or "" if run.state else "",
            )
            for run in await self._members(leader_id)
        ]

    def _since_s(self, run: FlowRun) -> float:
        """How long the run has been in its state."""
        return self._control.now_s() - run.state.timestamp.timestamp() if run.state else 0.0

    async def _dismiss(self, members: Sequence[FlowRun], why: str, everybody: bool = False) -> None:
        """Those that wait are called off. Those that run are ended by their own worker, which watches rank 0; with
        `everybody` they are called off too, and their workers see that.
        """
        for member in members:
            if member.state and (member.state.is_scheduled() or everybody):
                if not member.state.is_final():
                    state: Any = Cancelled(name=_ENDED, message=why)
                    await self._client.set_flow_run_state(member.id, state, force=True)
                await self._client._client.patch(f"/flow_runs/{member.id}", json={"tags": ["trimtab-gang"]})


def address_towards(url: str) -> str:
    """The address of this host that others reach it by: TRIMTAB_NODE_ADDRESS, or that of the way to `url`."""
    if given := read_settings().node_address:
        return given
    parts = urlsplit(url)
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:  # nothing is sent
            probe.connect((parts.hostname or "127.0.0.1", parts.port or 80))
            return str(probe.getsockname()[0])
    except OSError:
        return socket.gethostname()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def _kind(state: State | None) -> tuple[str]:
    return (state.type.value if state else "",)


def _kind_and_name(state: State | None) -> tuple[str, str]:
    return (state.type.value, state.name or "") if state else ("", "")


def _broken_before(run: FlowRun) -> int:
    return int(str(run.labels.get(_BROKEN_BEFORE, 0)))


def _tag(leader_id: UUID) -> str:
    return f"trimtab-gang:{leader_id}"
