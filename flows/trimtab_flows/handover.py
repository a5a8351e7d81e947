"""A table from one stage to the next: the verdict shown, both halves kept with where they came from, and catalogued."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from prefect import Task
from prefect.artifacts import create_markdown_artifact
from pydantic import BaseModel

from trimtab_flows import runtime
from trimtab_flows.contracts.contract import ContractRefused, Verdict
from trimtab_flows.contracts.report import to_markdown
from trimtab_flows.snapshots.lineage import Edge
from trimtab_flows.windows import Window

__all__ = ["Checked", "digests_of", "keep", "record", "report", "with_data"]

_Result = TypeVar("_Result")


class Checked(BaseModel, frozen=True):
    """One table after its check: digests of the rows that passed and of those in quarantine, and their numbers."""

    table: str
    accepted: str
    rows: int
    quarantined: str | None = None
    quarantined_rows: int = 0


def with_data(task: Task[..., Any], named: Callable[[_Result], Iterable[str]], *arguments: Any) -> _Result:
    """A task's result, whose snapshots are in the store: a cached result may outlast them (garbage collection).

    Args:
        task: the task to call with the arguments.
        named: digests that its result names.
    """
    call: Callable[..., Any] = task
    result: _Result = call(*arguments)
    if not all(runtime.library().rely_on(digest) for digest in named(result)):
        again: Callable[..., Any] = task.with_options(refresh_cache=True)
        result = again(*arguments)
    return result


def digests_of(*tables: Checked) -> list[str]:
    """Snapshots that checked tables consist of."""
    return [digest for checked in tables for digest in (checked.accepted, checked.quarantined) if digest]


def report(key: str, title: str, verdicts: Sequence[Verdict]) -> None:
    """Show the verdicts in the Prefect UI, and stop if a table was refused.

    Raises:
        ContractRefused: at least one table may not be handed on.
    """
    create_markdown_artifact(
        markdown=f"# {title}\n\n" + "\n\n".join(to_markdown(verdict) for verdict in verdicts),
        key=key.lower().replace("_", "-").replace("..", "-to-"),
        description=", ".join(f"{verdict.table}: {verdict.status}" for verdict in verdicts),
    )
    refused = [verdict for verdict in verdicts if verdict.status == "refused"]
    if refused:
        failures = tuple(failure for verdict in refused for failure in verdict.failures)
        raise ContractRefused(", ".join(verdict.table for verdict in refused), failures)


def keep(subject: str, window: Window, verdict: Verdict, table: str, inputs: tuple[str, ...], stage: str) -> Checked:
    """Store both halves of a checked table, and what they were made from (``inputs``, nodes of the lineage)."""
    accepted = runtime.library().put(verdict.accepted_or_raise())
    run = runtime.flow_run_id()
    if accepted.digest not in inputs:  # a clean table is its own checked form
        runtime.lineage().record(Edge(accepted.digest, inputs, stage, subject, window.label, run))
    quarantined = None
    if verdict.quarantined.height:
        quarantined = runtime.library().put(verdict.quarantined).digest
        runtime.lineage().record(Edge(quarantined, inputs, f"{stage}: quarantine", subject, window.label, run))
    return Checked(
        table=table,
        accepted=accepted.digest,
        rows=accepted.rows,
        quarantined=quarantined,
        quarantined_rows=verdict.quarantined.height,
    )


def record(subject: str, window: Window, tables: Sequence[Checked], made_by: str | None = None) -> None:
    """Make these snapshots the ones that count for this window; ``made_by`` is the model that made them, if one did.

    The quarantine of ``raw.flights`` is catalogued as ``quarantine.flights``, that of ``features`` as
    ``quarantine.features``.
    """
    catalog, run = runtime.catalog(subject), runtime.flow_run_id()
    for checked in tables:
        if checked.quarantined:
            quarantine = f"quarantine.{checked.table.removeprefix('raw.')}"
            catalog.record(quarantine, window, checked.quarantined, checked.quarantined_rows, run, made_by)
        catalog.record(
            checked.table, window, checked.accepted, checked.rows, run, made_by, quarantined=checked.quarantined_rows
        )
