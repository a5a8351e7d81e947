"""`trimtab bench placement`: tasks of a recorded trace onto a recorded fleet, by our policy or a published one."""

from __future__ import annotations

import csv
import json
import statistics
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from trimtab_infra.bench.aims import aims_of
from trimtab_work_pools.rank.outlook import Aims
from trimtab_work_pools.resources import Inventory
from trimtab_work_pools.simulation.openb import (
    Outcome,
    Task,
    TraceError,
    arrivals,
    grown,
    read_nodes,
    read_tasks,
    renamed,
    run,
)
from trimtab_work_pools.simulation.published import PUBLISHED, PolicyName, ranking

__all__ = ["placement"]


class Protocol(StrEnum):
    file = "file"
    openb = "openb"


def placement(
    nodes: Annotated[Path, typer.Option(help="CSV with sn,cpu_milli,memory_mib,gpu,model.")],
    arrivals_file: Annotated[
        Path,
        typer.Option("--arrivals", help="CSV with name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec."),
    ],
    policy: Annotated[PolicyName, typer.Option(help="Who decides.")] = PolicyName.trimtab,
    decisions: Annotated[Path | None, typer.Option(help="Write name,node,gpus here (CSV).")] = None,
    seed: Annotated[int, typer.Option(help="Of the random policy.")] = 1,
    protocol: Annotated[
        Protocol, typer.Option(help="file: tasks in file order. openb: the published protocol, for --seeds.")
    ] = Protocol.file,
    workload: Annotated[
        str | None, typer.Option(help="Name of the task list in the published table; by default from the file's name.")
    ] = None,
    seeds: Annotated[str, typer.Option(help="Seeds of the published protocol: 42-51, or 1,2,3.")] = "42-51",
    rename: Annotated[bool, typer.Option(help="Give the nodes other names, in another order, by the seed.")] = False,
    aim: Annotated[
        list[str] | None, typer.Option("--set", help="A weight of the trimtab policy, e.g. scarcity=0; repeatable.")
    ] = None,
    copies: Annotated[float, typer.Option(min=0.01, help="So many times the fleet (2.5: two and a half).")] = 1.0,
) -> None:
    """Place tasks one at a time, with no look-ahead; none departs, each is tried once.

    The last line of output is JSON. `alloc_at_100` and `alloc_at_130` are the percent of the GPUs allocated when that
    much of their capacity has arrived, or at the end if less did (see `arrived`).
    """
    try:
        aims = Aims(**aims_of(Aims, aim or []))
        fleet, tasks = grown(read_nodes(nodes), copies), read_tasks(arrivals_file)
        if protocol is Protocol.openb:
            _published_protocol(fleet, tasks, policy, workload or _workload(arrivals_file), _seeds(seeds), rename, aims)
            return
        fleet = renamed(fleet, seed) if rename else fleet
        outcome = run(fleet, tasks, ranking(policy, tasks, seed, aims))
        if decisions is not None:
            _write(decisions, tasks, outcome)
    except (TraceError, ValueError, OSError) as error:
        typer.echo(f"bench placement: {error}", err=True)
        raise typer.Exit(2) from None
    head = {"policy": policy.value, "nodes": len(fleet.nodes), "tasks": len(tasks), "placed": outcome.placed}
    typer.echo(json.dumps(head | _figures([outcome])))


def _figures(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Means of the allocation and of what arrived, in percent of the GPUs; the median speed."""
    return {
        "alloc_at_100": round(statistics.mean(one.alloc_at_100 for one in outcomes), 4),
        "alloc_at_130": round(statistics.mean(one.alloc_at_130 for one in outcomes), 4),
        "arrived": round(statistics.mean(one.arrived for one in outcomes), 2),
        "placements_per_s": round(statistics.median(one.placements_per_s for one in outcomes), 1),
    }


def _published_protocol(
    fleet: Inventory,
    tasks: Sequence[Task],
    policy: PolicyName,
    workload: str,
    seeds: list[int],
    rename: bool,
    aims: Aims,
) -> None:
    outcomes: list[Outcome] = []
    for seed in track(seeds, description=f"{workload}, {policy.value}", console=Console(stderr=True)):
        nodes = renamed(fleet, seed) if rename else fleet
        outcomes.append(run(nodes, arrivals(tasks, fleet, seed), ranking(policy, tasks, seed, aims)))
    figures = _figures(outcomes)
    table = Table(title=f"GPUs allocated at 130 % of arrivals (%), {workload}, mean of {len(seeds)} seeds")
    for column in (*PUBLISHED["default"], f"{policy.value} here", "least", "most"):
        table.add_column(column, justify="right")
    known = PUBLISHED.get(workload, {})
    ends = [one.alloc_at_130 for one in outcomes]
    ours = [f"{share:.2f}" for share in (figures["alloc_at_130"], min(ends), max(ends))]
    table.add_row(*(f"{known[name]:.2f}" if name in known else "" for name in PUBLISHED["default"]), *ours)
    Console().print(table)
    head = {"policy": policy.value, "workload": workload, "seeds": seeds, "renamed": rename}
    by_seed = {"by_seed": [round(end, 4) for end in ends]}
    typer.echo(json.dumps(head | figures | by_seed | {"published": known}))


def _workload(path: Path) -> str:
    """`openb_pod_list_gpushare40.csv` is the list `gpushare40`."""
    return path.stem.removeprefix("openb_pod_list_")


def _seeds(text: str) -> list[int]:
    try:
        first, dash, last = text.partition("-")
        seeds = list(range(int(first), int(last) + 1)) if dash else [int(part) for part in text.split(",")]
    except ValueError:
        seeds = []
    if not seeds:
        raise ValueError(f"--seeds must be like 42-51 or 1,2,3, not {text!r}")
    return seeds


def _write(path: Path, tasks: Sequence[Task], outcome: Outcome) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("name", "node", "gpus"))
        for task, placed in zip(tasks, outcome.decisions, strict=True):
            rows.writerow((task.name, placed.node if placed else "", "|".join(map(str, placed.gpus)) if placed else ""))
