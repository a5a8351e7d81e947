"""`trimtab fleet` and `trimtab why`: the fleet as its workers see it, and why a run waits, from the Prefect server."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType, WorkPool
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound
from rich.console import Group
from rich.table import Table

from trimtab_blocks.paging import PAGE, all_by_offset
from trimtab_infra.errors import TrimtabError, UserError
from trimtab_work_pools.advertise import Advertisement, current
from trimtab_work_pools.rules.known_nodes import away_from, last_seen, remembered
from trimtab_work_pools.rules.waiting_rules import paused_pool, queue_says, schedules_say
from trimtab_work_pools.worker.control_plane import ControlPlane
from trimtab_work_pools.worker.fleet_table import fleet_rows
from trimtab_work_pools.worker.learning import Learning
from trimtab_work_pools.worker.pace import ADVERTISED_S
from trimtab_work_pools.worker.picking import pick
from trimtab_work_pools.worker.pool_policy import PolicyError

__all__ = ["FleetView", "connected", "read_fleet", "why"]

_SHOWN = 20
"""Runs of one deployment that are explained."""


@dataclass(frozen=True)
class FleetView:
    """The fleet of a pool at one moment. `away` are nodes that were there in the last days; times are the server's."""

    pool: str
    fleet: tuple[Advertisement, ...]
    waiting: int
    problems: tuple[str, ...]
    away: tuple[Advertisement, ...] = ()
    paused: bool = False
    now_s: float = 0.0

    def shown(self) -> Group:
        """For a terminal."""
        paused = ", paused" if self.paused else ""
        title = f"work pool {self.pool}{paused}: {len(self.fleet)} nodes, {self.waiting} runs waiting"
        table = Table(title=title)
        rows = fleet_rows(self.fleet)
        for column in rows[0] if rows else ("no worker advertises a node",):
            table.add_column(column)
        for row in rows:
            table.add_row(*map(str, row.values()))
        gone = [f"{one.node.name}: {last_seen(one, self.now_s, ADVERTISED_S)}" for one in self.away]
        told = [f"Not there now: {'; '.join(gone)}"] if gone else []
        closed = [paused_pool(self.pool)] if self.paused else []
        return Group(table, *closed, *told, *self.problems)


async def read_fleet(pool: str) -> FleetView:
    """Raises UserError if there is no server, or no such pool."""
    async with connected() as client:
        found = await _pool(client, pool)
        control = ControlPlane(client, pool)
        board, gone = await control.board(), await control.gone()
        waiting = await control.waiting(0.0, (await control.queues(set())).priorities)
        now_s = control.now_s()
        fleet = current(board.advertisements, now_s)
        away = remembered(fleet, [*board.advertisements, *gone], now_s)
        return FleetView(pool, fleet, len(waiting), board.problems, away, found.is_paused, now_s)


async def why(run: str) -> str:
    """Sentences on what a run is doing or waiting for; of a deployment (FLOW/NAME), what keeps it from making runs, and
    why those that it made wait. Raises UserError if there is no such run or deployment.
    """
    async with connected() as client:
        if "/" in run:
            return await _why_deployment(client, run)
        return await _why_run(client, await _run(client, run))


async def _why_deployment(client: PrefectClient, name: str) -> str:
    try:
        deployment = await client.read_deployment_by_name(name)
    except ObjectNotFound:
        raise UserError(f"there is no deployment {name!r} on {client.api_url}; see: prefect deployment ls") from None
    scheduled = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED]))
    runs = await client.read_flow_runs(
        flow_run_filter=FlowRunFilter(state=scheduled),
        deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[deployment.id])),
        sort=FlowRunSort.NEXT_SCHEDULED_START_TIME_ASC,
        limit=_SHOWN,
    )
    said = [f"{line}." for line in _paused(deployment)]
    said += [await _why_run(client, run) for run in runs]
    return "\n".join(said or [f"Deployment {name!r} is not paused, and no run of it waits."])


async def _why_run(client: PrefectClient, run: FlowRun) -> str:
    state = run.state_name or "without a state"
    said = f"{run.name} is {state}" + (f": {run.state.message}" if run.state and run.state.message else "")
    if run.state is None or not run.state.is_scheduled():
        return said
    return "\n".join([said, *(f"{line[0].upper()}{line[1:]}." for line in await _why_it_waits(client, run))])


async def _why_it_waits(client: PrefectClient, run: FlowRun) -> list[str]:
    """First what people have paused or deleted; if nothing of that keeps it, what the plan says of it now."""
    try:
        deployment = await client.read_deployment(run.deployment_id) if run.deployment_id else None
    except ObjectNotFound:
        return [f"its deployment {run.deployment_id} was deleted: a worker will call it off"]
    notes = _paused(deployment) if deployment else []
    pool_name = run.work_pool_name or (deployment.work_pool_name if deployment else None)
    if pool_name is None:
        return [*notes, "it is in no work pool: its work queue or its pool was deleted; deploy it again, and run that"]
    pool = await _pool(client, pool_name)
    if not pool.type.startswith("gpu-"):
        return [*notes, f"its work pool {pool.name} is of type {pool.type}: no Trimtab worker plans it"]
    found = await all_by_offset(
        lambda offset: client.read_work_queues(work_pool_name=pool.name, limit=PAGE, offset=offset)
    )
    queues = {queue.name: bool(queue.is_paused) for queue in found}
    closed = [paused_pool(pool.name)] if pool.is_paused else []
    if keeps := queue_says(run.work_queue_name, pool.name, queues):
        closed.append(keeps)
    if closed:
        return [*notes, *closed]
    return [*notes, *await _planned(ControlPlane(client, pool.name), Learning(client), run)]


def _paused(deployment: DeploymentResponse) -> list[str]:
    schedules = [(_schedule(one.schedule), bool(one.active)) for one in deployment.schedules or ()]
    return schedules_say(deployment.name, bool(deployment.paused), schedules)


def _schedule(schedule: Any) -> str:
    for what in ("cron", "interval", "rrule"):
        if (value := getattr(schedule, what, None)) is not None:
            return f"{what} {value}"
    return str(schedule)


async def _planned(control: ControlPlane, learning: Learning, run: FlowRun) -> list[str]:
    """What the plan says of it now, made here from what every worker reads."""
    waiting = await control.waiting(0.0, (await control.queues(set())).priorities)
    mine = next((one for one in waiting if one.flow_run.id == run.id), None)
    if mine is None:
        due = run.next_scheduled_start_time
        return [f"it is due at {due:%Y-%m-%d %H:%M:%S %Z}" if due else "it is not due yet"]
    if mine.problem:
        return [f"its demand cannot be met as it is written: {mine.problem}"]
    try:
        policy = await control.policy()
    except PolicyError as error:
        raise TrimtabError(str(error)) from None
    board, gone, now_s = await control.board(), await control.gone(), control.now_s()
    fleet = current(board.advertisements, now_s)
    away = away_from(fleet, [*board.advertisements, *gone], now_s, ADVERTISED_S)
    queued = [one.queued for one in waiting if one.queued is not None]
    picked = pick("", fleet, queued, policy, now_s, limits=await control.limits())
    told = picked.reasons(away).get(str(run.id))
    less = await learning.suggestion(run, mine.queued.demand) if mine.queued else ""
    return [
        f"it asks for {mine.asks or 'nothing in particular: any node will do'}",
        *(
            ["no worker of its pool is there: start one (prefect worker start --type TYPE --pool POOL)"]
            if not fleet
            else []
        ),
        f"now: {told[1]}" if told else "now: there is room for it; a worker is about to take it",
        *([f"it {less}"] if less else []),
    ]


async def _run(client: PrefectClient, run: str) -> FlowRun:
    """By id, or by the name that the UI shows."""
    try:
        return await client.read_flow_run(UUID(run))
    except ObjectNotFound:
        raise UserError(f"there is no run {run} on {client.api_url}") from None
    except ValueError:
        pass
    body = {"flow_runs": {"name": {"any_": [run]}}, "limit": 2}
    found = (await client._client.post("/flow_runs/filter", json=body)).json()
    if len(found) != 1:
        many = "several runs have" if found else "no run has"
        raise UserError(f"{many} the name {run!r} on {client.api_url}; give the id")
    return await client.read_flow_run(UUID(found[0]["id"]))


async def _pool(client: PrefectClient, name: str) -> WorkPool:
    try:
        return await client.read_work_pool(name)
    except ObjectNotFound:
        raise UserError(f"there is no work pool {name!r} on {client.api_url}; see: prefect work-pool ls") from None


@asynccontextmanager
async def connected() -> AsyncIterator[PrefectClient]:
    """The Prefect client of PREFECT_API_URL. Raises UserError if it does not answer, or refuses the credentials."""
    async with get_client() as client:
        if (error := await client.api_healthcheck()) is not None:
            url = os.environ.get("PREFECT_API_URL", "the address in Prefect's profile")
            raise UserError(f"no Prefect server answers at {url} ({type(error).__name__}); is it up?")
        try:
            yield client
        except httpx.HTTPStatusError as refused:
            status = refused.response.status_code
            if status not in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
                raise
            raise UserError(
                f"the Prefect server at {client.api_url} refuses the credentials ({status}): put the right string into"
                " PREFECT_API_AUTH_STRING of the environment or the Prefect profile"
            ) from None
