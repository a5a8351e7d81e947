"""`trimtab runs`: which runs had a GPU or a node, and when, from the labels that workers leave with each run."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import cast
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterEndTime
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import FlowRunSort
from prefect.types._datetime import DateTime
from rich.table import Table

from trimtab_blocks.paging import PAGE, all_by_offset
from trimtab_infra.errors import UserError
from trimtab_infra.fleet import connected
from trimtab_work_pools.runs.device_record import Attempt, attempts_of

__all__ = ["Had", "read_since", "runs_with", "shown"]

_UNITS_S = {"m": 60, "h": 3600, "d": 86_400, "w": 604_800}


@dataclass(frozen=True)
class Had:
    """An attempt of a run on the devices that were asked about."""

    run: FlowRun
    attempt: Attempt


def read_since(text: str, now: datetime) -> datetime:
    """`7d`, `12h`, or a time (UTC unless it names its zone). Raises UserError."""
    number, unit = text[:-1], text[-1:]
    if unit in _UNITS_S and number.isdigit() and len(number) < 6:
        return now - timedelta(seconds=int(number) * _UNITS_S[unit])
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise UserError(
            f"--since {text!r} must be so many minutes, hours, days or weeks (30m, 12h, 7d, 2w), or a time, like"
            " 2026-03-01 or 2026-03-01T08:00:00+00:00"
        ) from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


async def runs_with(gpu: str, node: str, since: datetime) -> list[Had]:
    """Attempts that had the GPU (its UUID, or how that begins) or were on the node, or both, in order of their time."""
    found: list[Had] = []
    async with connected() as client:
        for run in (await _not_ended_before(client, since)).values():
            for attempt in attempts_of(run.labels):
                has = not gpu or any(one.startswith(gpu) for one in attempt.gpus)
                if has and node in ("", attempt.node) and attempt.within(since.timestamp()):
                    found.append(Had(run, attempt))
    return sorted(found, key=lambda had: (had.attempt.from_s, str(had.run.id)))


def shown(found: list[Had]) -> Table:
    """For a terminal."""
    table = Table("run", "id", "state now", "attempt", "node", "GPUs", "from", "to")
    for had in found:
        attempt = had.attempt
        to = _clock(attempt.to_s) if attempt.to_s is not None else "-"
        table.add_row(
            *(had.run.name, str(had.run.id), had.run.state_name or "", str(attempt.number), attempt.node),
            *("\n".join(attempt.gpus) or "-", _clock(attempt.from_s), to),
        )
    return table


async def _not_ended_before(client: PrefectClient, since: datetime) -> dict[UUID, FlowRun]:
    """By id: also one that waits now may have had the GPU before."""
    found: dict[UUID, FlowRun] = {}
    for ends in (FlowRunFilterEndTime(after_=cast(DateTime, since)), FlowRunFilterEndTime(is_null_=True)):
        wanted = FlowRunFilter(end_time=ends)
        runs = await all_by_offset(
            lambda offset, wanted=wanted: client.read_flow_runs(  # type: ignore[misc]
                flow_run_filter=wanted, sort=FlowRunSort.ID_DESC, limit=PAGE, offset=offset
            )
        )
        found |= {run.id: run for run in runs}
    return found


def _clock(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d %H:%M:%S")
