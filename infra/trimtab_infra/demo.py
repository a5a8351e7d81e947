"""The main job: a year of a model's life on the local stack, shown window by window as it happens.

Everything shown is read from the Prefect server and MLflow; the runs do the work, this only submits and watches.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from rich.console import Console, Group
from rich.live import Live
from rich.spinner import Spinner

from trimtab_blocks.paging import PAGE, by_offset
from trimtab_flows.history import WindowRecord, replay_record, window_records
from trimtab_flows.loading import load_recipe
from trimtab_flows.windows import Window
from trimtab_infra.report import Links, month_table, row, write_html

__all__ = ["RunFailed", "Story", "tell"]

#: Columns of text that the table takes where no terminal says how many there are.
REPORT_WIDTH = 110

_UNFINISHED = [StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING, StateType.PAUSED]


class RunFailed(RuntimeError):
    """A run that the main job needs did not complete."""


@dataclass(frozen=True)
class Story:
    """What to run, where to write the report, and where to look afterwards."""

    recipe: str
    deployment: str
    through: str
    report: Path
    links: Links


def tell(story: Story, console: Console) -> Path:
    """Run the lifecycle up to a window, replay one of its trainings, write the report and return where it is.

    Run again after an interruption, it takes up the run that was interrupted, and what was done is not done again.

    Raises:
        RunFailed: a run did not complete; the message says which, and why.
    """
    if not console.is_terminal:
        console.width = REPORT_WIDTH
    recipe = load_recipe(story.recipe).recipe
    metric = recipe.metrics[0].name
    as_of = Window.parse(story.through).end_time + recipe.label.known_after
    with get_client(sync_client=True) as client:
        run = submit(client, f"lifecycle/{story.deployment}", {"recipe": story.recipe, "as_of": as_of.isoformat()})
        follow(client, run, lambda: window_records(recipe.name), metric, console)
        records = window_records(recipe.name)
        newest = newest_version(records)
        console.print(f"Replaying the training of {recipe.name} version {newest} from its manifest ...")
        again = submit(client, f"replay/{story.deployment}", {"run": f"{recipe.name}/{newest}"})
        finished(client, again)
    replayed = replay_record(recipe.name, newest)
    console.print(replayed)
    return write_html(story.report, recipe.name, records, metric, replayed, story.links)


def newest_version(records: list[WindowRecord]) -> int:
    """The version trained last: of the newest retraining, or the one that scored first."""
    retrained = [record.outcome.version for record in records if record.outcome]
    return retrained[-1] if retrained else records[0].version


def submit(client: SyncPrefectClient, deployment: str, parameters: dict[str, Any]) -> FlowRun:
    """A run of a deployment with these parameters: the unfinished one there is, or a new one."""
    target = client.read_deployment_by_name(deployment)
    unfinished = by_offset(
        lambda offset: client.read_flow_runs(
            deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[target.id])),
            flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=_UNFINISHED))),
            sort=FlowRunSort.ID_DESC,
            limit=PAGE,
            offset=offset,
        )
    )
    for run in sorted(unfinished, key=lambda run: run.created.isoformat() if run.created else ""):
        if all(run.parameters.get(name) == value for name, value in parameters.items()):
            return run
    return client.create_flow_run_from_deployment(target.id, parameters=parameters)


def follow(
    client: SyncPrefectClient,
    run: FlowRun,
    read: Callable[[], list[WindowRecord]],
    metric: str,
    console: Console,
) -> None:
    """Show windows as they are done, and what is being worked on, until the run ends.

    Raises:
        RunFailed: it did not complete.
    """
    shown: dict[str, tuple[str, ...]] = {}
    spinner = Spinner("dots", text="starting")
    with Live(spinner, console=console, refresh_per_second=8, transient=True) as live:
        while True:
            state = client.read_flow_run(run.id).state
            records = read()
            if console.is_terminal:
                spinner.update(text=_activity(client))
                live.update(Group(month_table(records, metric), spinner))
            else:
                _print_news(records, metric, shown, console)
            if state is not None and state.is_final():
                break
            time.sleep(1)
    console.print(month_table(records, metric))
    finished(client, run)


def finished(client: SyncPrefectClient, run: FlowRun) -> None:
    """Wait for a run to end.

    Raises:
        RunFailed: it did not complete.
    """
    while True:
        now = client.read_flow_run(run.id)
        if now.state is not None and now.state.is_final():
            break
        time.sleep(0.5)
    if not now.state.is_completed():
        raise RunFailed(f"{now.name} ended {now.state.name}: {now.state.message}")


def _activity(client: SyncPrefectClient) -> str:
    """The tasks that are running, by name."""
    running = client.read_task_runs(  # unpaged: a few are shown
        task_run_filter=TaskRunFilter(state=TaskRunFilterState(type=TaskRunFilterStateType(any_=[StateType.RUNNING]))),
        limit=5,
    )
    names = sorted(task.name for task in running)
    return ", ".join(names) if names else "waiting for the worker"


def _print_news(records: list[WindowRecord], metric: str, shown: dict[str, tuple[str, ...]], console: Console) -> None:
    """Without a terminal: a line a window, once its outcome is known."""
    for record in records:
        cells = row(record, metric)
        settled = not record.retrain or record.outcome is not None or record.answer is not None
        if settled and record.window not in shown:
            shown[record.window] = cells
            figures = f"{cells[1]} rows, {metric} {cells[4]}, {cells[7]} {cells[8]}".rstrip()
            console.print(f"{datetime.now(UTC).astimezone():%H:%M:%S}  {record.window}: {figures}")
