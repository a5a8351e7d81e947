"""`trimtab fleet` and `trimtab why`: the fleet as its workers see it, and why a run waits, from the Prefect server."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import UUID

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectNotFound
from rich.console import Group
from rich.table import Table

from trimtab_infra.errors import TrimtabError, UserError
from trimtab_work_pools.advertise import Advertisement, current
from trimtab_work_pools.worker.control_plane import ControlPlane
from trimtab_work_pools.worker.fleet_table import fleet_rows
from trimtab_work_pools.worker.learning import Learning
from trimtab_work_pools.worker.picking import pick
from trimtab_work_pools.worker.pool_policy import PolicyError

__all__ = ["FleetView", "read_fleet", "why"]


@dataclass(frozen=True)
class FleetView:
    """The fleet of a pool at one moment."""

    pool: str
    fleet: tuple[Advertisement, ...]
    waiting: int
    problems: tuple[str, ...]

    def shown(self) -> Group:
        """For a terminal."""
        table = Table(title=f"work pool {self.pool}: {len(self.fleet)} nodes, {self.waiting} runs waiting")
        rows = fleet_rows(self.fleet)
        for column in rows[0] if rows else ("no worker advertises a node",):
            table.add_column(column)
        for row in rows:
            table.add_row(*map(str, row.values()))
        return Group(table, *self.problems)


async def read_fleet(pool: str) -> FleetView:
    """Raises UserError if there is no server, or no such pool."""
    async with _client() as client:
        await _pool(client, pool)
        control = ControlPlane(client, pool)
        board = await control.board()
        waiting = await control.waiting(0.0, (await control.queues(set())).priorities)
        return FleetView(pool, current(board.advertisements, control.now_s()), len(waiting), board.problems)


async def why(run: str) -> str:
    """Sentences on what a run is doing or waiting for. Raises UserError if there is no such run."""
    async with _client() as client:
        found = await _run(client, run)
        state = found.state_name or "without a state"
        said = f"{found.name} is {state}" + (f": {found.state.message}" if found.state and found.state.message else "")
        if found.state is None or not found.state.is_scheduled() or not found.work_pool_name:
            return said
        pool = await client.read_work_pool(found.work_pool_name)
        if not pool.type.startswith("gpu-"):
            return f"{said}\nIts work pool {pool.name} is of type {pool.type}: no Trimtab worker plans it."
        return f"{said}\n{await _planned(ControlPlane(client, pool.name), Learning(client), found)}"


async def _planned(control: ControlPlane, learning: Learning, run: FlowRun) -> str:
    """What the plan says of it now, made here from what every worker reads."""
    waiting = await control.waiting(0.0, (await control.queues(set())).priorities)
    mine = next((one for one in waiting if one.flow_run.id == run.id), None)
    if mine is None:
        return "It is not due yet, or its work queue is paused."
    if mine.problem:
        return f"Its demand cannot be read: {mine.problem}"
    try:
        policy = await control.policy()
    except PolicyError as error:
        raise TrimtabError(str(error)) from None
    fleet = current((await control.board()).advertisements, control.now_s())
    if not fleet:
        return "No worker of its pool advertises a node. Start one: prefect worker start --type gpu-process --pool ..."
    queued = [one.queued for one in waiting if one.queued is not None]
    picked = pick("", fleet, queued, policy, control.now_s(), limits=await control.limits())
    told = picked.reasons().get(str(run.id))
    less = await learning.suggestion(run, mine.queued.demand) if mine.queued else ""
    learnt = f"\nIt {less}." if less else ""
    return (f"Now: {told[1]}." if told else "Now: there is room for it; a worker is about to take it.") + learnt


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


async def _pool(client: PrefectClient, name: str) -> None:
    try:
        await client.read_work_pool(name)
    except ObjectNotFound:
        raise UserError(f"there is no work pool {name!r} on {client.api_url}; see: prefect work-pool ls") from None


@asynccontextmanager
async def _client() -> AsyncIterator[PrefectClient]:
    """The Prefect client of PREFECT_API_URL. Raises UserError if it does not answer."""
    async with get_client() as client:
        if (error := await client.api_healthcheck()) is not None:
            url = os.environ.get("PREFECT_API_URL", "the address in Prefect's profile")
            raise UserError(f"no Prefect server answers at {url} ({type(error).__name__}); is it up?")
        yield client
