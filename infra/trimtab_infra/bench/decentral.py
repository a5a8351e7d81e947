"""`trimtab bench decentral`: the planner in every worker's hands, on stale snapshots, against one central planner."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from trimtab_work_pools.simulation.decentral import Outcome, Setting, simulate

__all__ = ["decentral"]


def decentral(
    workers: Annotated[str, typer.Option(help="Numbers of workers, one node each: 1,10,100.")] = "1,10,50,100",
    staleness: Annotated[str, typer.Option(help="Greatest ages of a snapshot (s): 0,10,30.")] = "0,10,30",
    seeds: Annotated[str, typer.Option(help="The mean over these seeds is shown.")] = "1",
    gangs: Annotated[bool, typer.Option(help="Include runs that need two whole nodes at once.")] = True,
) -> None:
    """Allocation and claims lost by deciding everywhere; the last line of output is JSON, one entry a setting."""
    sizes, ages, draws = (
        _numbers("--workers", workers, 1),
        _numbers("--staleness", staleness, 0),
        _numbers("--seeds", seeds, 0),
    )
    rows: list[dict[str, float | int | bool]] = []
    for size in sizes:
        central = [simulate(Setting(size, 0.0, central=True, gangs=gangs, seed=seed)) for seed in draws]
        for age in ages:
            spread = [simulate(Setting(size, float(age), gangs=gangs, seed=seed)) for seed in draws]
            rows.append(_row(size, age, gangs, central, spread))
    _show(rows)
    typer.echo(json.dumps({"seeds": draws, "settings": rows}))


def _numbers(option: str, text: str, least: int) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < least:
        typer.echo(
            f"bench decentral: {option} must be whole numbers of at least {least} with commas, not {text!r}", err=True
        )
        raise typer.Exit(2)
    return numbers


def _row(
    size: int, age: int, gangs: bool, central: list[Outcome], spread: list[Outcome]
) -> dict[str, float | int | bool]:
    claims = sum(one.claims for one in spread)
    best, got = (sum(one.allocated for one in outcomes) / len(outcomes) for outcomes in (central, spread))
    return {
        "workers": size,
        "staleness_s": age,
        "gangs": gangs,
        "central_allocated": best,
        "allocated": got,
        "points_lost": 100 * (best - got),
        "claims": claims,
        "claims_lost_share": sum(one.lost_claims for one in spread) / max(1, claims),
    }


def _show(rows: list[dict[str, float | int | bool]]) -> None:
    table = Table("workers", "snapshot age (s)", "central %", "decentral %", "points lost", "claims lost %")
    for row in rows:
        cells = [
            100 * row["central_allocated"],
            100 * row["allocated"],
            row["points_lost"],
            100 * row["claims_lost_share"],
        ]
        table.add_row(str(row["workers"]), f"0-{row['staleness_s']}", *(f"{cell:.2f}" for cell in cells))
    Console().print(table)
