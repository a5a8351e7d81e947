"""`trimtab bench queue`: a recorded job trace through the planner, or through the schedulers others use."""

from __future__ import annotations

import json
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from trimtab_infra.bench.aims import aims_of
from trimtab_work_pools.queue.workload import Policy
from trimtab_work_pools.simulation.baselines import Backfill, Fifo, ShortestFirst
from trimtab_work_pools.simulation.philly import Cluster, Job, TraceError, draw_estimates, offered_load, read_jobs
from trimtab_work_pools.simulation.planned import Planned
from trimtab_work_pools.simulation.replay import Costs, Scheduler, Stretch, replay
from trimtab_work_pools.simulation.report import figures, write_schedule

__all__ = ["Estimates", "PolicyName", "queue"]

NOISE_SIGMA = 1.0
"""Spread of the noisy estimates: the standard deviation of ln(estimate / run time)."""


class PolicyName(StrEnum):
    trimtab = "trimtab"
    fifo = "fifo"
    backfill = "backfill"
    sjf = "sjf"


class Estimates(StrEnum):
    exact = "exact"
    noisy = "noisy"


def queue(
    jobs: Annotated[Path, typer.Option(help="CSV with timestamp,duration,num_gpus.")],
    nodes: Annotated[int, typer.Option(min=1, help="Equal nodes.")],
    policy: Annotated[PolicyName, typer.Option()],
    schedule: Annotated[Path | None, typer.Option(help="Write one row per stretch of a job here (CSV).")] = None,
    gpus_per_node: Annotated[int, typer.Option(min=1)] = 8,
    estimates: Annotated[Estimates, typer.Option(help="What the planner is told of run times.")] = Estimates.exact,
    seed: Annotated[int, typer.Option(help="Of the noise in the estimates.")] = 1,
    checkpoint_s: Annotated[float, typer.Option(min=0, help="A preempted job holds its GPUs this much longer.")] = 30.0,
    restart_s: Annotated[float, typer.Option(min=0, help="A resumed job makes no progress at first.")] = 60.0,
    aim: Annotated[
        list[str] | None,
        typer.Option("--set", help="A field of the planner's Policy, e.g. preempt_factor=3; repeatable."),
    ] = None,
) -> None:
    """Replay a job trace; the last line of output is JSON with the figures.

    Wait is all the time a job was in the system without progress, also while preempted, checkpointing or restarting.
    """
    cluster, costs = Cluster(nodes, gpus_per_node), Costs(checkpoint_s, restart_s)
    sigma = NOISE_SIGMA if estimates is Estimates.noisy else 0.0
    try:
        trace = read_jobs(jobs)
        told = draw_estimates(trace, sigma, seed)
        aims = replace(Policy(), checkpoint_s=checkpoint_s, restart_s=restart_s, **aims_of(Policy, aim or []))
        stretches = run_policy(policy, trace, cluster, told, sigma, aims, costs)
        result = figures(trace, cluster, stretches)
        if schedule is not None:
            write_schedule(schedule, trace, stretches)
    except (TraceError, ValueError, OSError) as error:
        typer.echo(f"bench queue: {error}", err=True)
        raise typer.Exit(2) from None
    head: dict[str, str | int | float] = {
        "policy": policy.value,
        "estimates": estimates.value,
        "seed": seed,
        "nodes": nodes,
    }
    head |= {"gpus_per_node": gpus_per_node, "offered_load": offered_load(trace, cluster)}
    typer.echo(json.dumps(head | result.as_dict()))


def run_policy(
    name: PolicyName,
    trace: tuple[Job, ...],
    cluster: Cluster,
    told: tuple[float, ...],
    sigma: float,
    aims: Policy,
    costs: Costs,
) -> tuple[Stretch, ...]:
    """The schedule of one policy. `sjf` is the better of two by mean wait: skip a job that does not fit, or stop."""
    if name is not PolicyName.sjf:
        scheduler: Scheduler
        if name is PolicyName.trimtab:
            scheduler = Planned(aims, sigma)
        else:
            scheduler = Fifo() if name is PolicyName.fifo else Backfill()
        return replay(trace, cluster, told, scheduler, costs)
    both = [replay(trace, cluster, told, ShortestFirst(on_block), costs) for on_block in ("skip", "stop")]
    return min(both, key=lambda stretches: figures(trace, cluster, stretches).mean_wait_s)
