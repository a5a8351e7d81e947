"""Bring one window of data in: land it as it is, check it, build features, check those, and keep all of it."""

from __future__ import annotations

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import INPUTS, NO_CACHE, TASK_SOURCE
from pydantic import BaseModel

from trimtab_flows import runtime
from trimtab_flows.contracts.check import check
from trimtab_flows.contracts.contract import ContractRefused, Verdict
from trimtab_flows.contracts.report import to_markdown
from trimtab_flows.faults import RETRIES
from trimtab_flows.loading import load_recipe
from trimtab_flows.snapshots.lineage import Edge
from trimtab_flows.windows import Window

__all__ = ["FEATURES", "Checked", "Ingested", "ingest"]

#: Name of the features table in the catalog; a raw table is ``raw.<name>``, its quarantine ``quarantine.<name>``.
FEATURES = "features"


class Checked(BaseModel, frozen=True):
    """One table after its check: digests of the rows that passed and of those in quarantine, and their numbers."""

    table: str
    accepted: str
    rows: int
    quarantined: str | None = None
    quarantined_rows: int = 0


class Ingested(BaseModel, frozen=True):
    """One ingested window: the raw tables after their checks, and the features."""

    recipe: str
    window: str
    tables: tuple[Checked, ...]
    features: Checked

    @property
    def quarantined_rows(self) -> int:
        """Rows held back in any table of this window."""
        return sum(checked.quarantined_rows for checked in (*self.tables, self.features))


@task(task_run_name="load {window}", timeout_seconds=900, persist_result=True, **RETRIES)
def load(recipe: str, code: str, window: str, version: str | None) -> dict[str, str]:
    """Land the source's tables as they are: digests by table. ``code`` and ``version`` only key the cache."""
    found = load_recipe(recipe).recipe
    landed = {name: runtime.library().put(frame).digest for name, frame in found.load(Window.parse(window)).items()}
    for name, digest in landed.items():
        runtime.lineage().record(Edge(digest, (), f"load {name}", found.name, window, runtime.flow_run_id()))
    return landed


@task(
    task_run_name="check raw {window}",
    timeout_seconds=900,
    persist_result=True,
    cache_policy=INPUTS + TASK_SOURCE,
    **RETRIES,
)
def check_raw(recipe: str, code: str, window: str, landed: dict[str, str]) -> tuple[Checked, ...]:
    """Check every raw table against its contract; all of them are reported, then a refused one stops the run.

    Raises:
        ContractRefused: at least one table may not be handed on.
        ValueError: ``load`` did not return a table that the recipe has a contract for.
    """
    found = load_recipe(recipe).recipe
    missing = sorted(set(found.raw) - set(landed))
    if missing:
        raise ValueError(
            f"recipe {recipe}: load({window}) returned the tables {sorted(landed)}; contracts also name {missing}"
        )
    period = Window.parse(window)
    verdicts = [
        check(contract, runtime.library().get(landed[name]), as_of=period.end_time)
        for name, contract in found.raw.items()
    ]
    _report(f"contract-{found.name}-raw-{period}", f"Raw tables of {found.name}, {period}", verdicts)
    return tuple(
        _keep(found.name, period, verdict, f"raw.{name}", (landed[name],), f"check {name}")
        for (name, verdict) in zip(found.raw, verdicts, strict=True)
    )


@task(
    task_run_name="build features {window}",
    timeout_seconds=1800,
    persist_result=True,
    cache_policy=INPUTS + TASK_SOURCE,
    **RETRIES,
)
def build_features(recipe: str, code: str, window: str, accepted: dict[str, str]) -> Checked:
    """Build the features table from the checked raw tables, and check it.

    Raises:
        ContractRefused: the features may not be handed on.
    """
    found = load_recipe(recipe).recipe
    period = Window.parse(window)
    frame = found.build({name: runtime.library().get(digest) for name, digest in accepted.items()})
    verdict = check(found.features, frame, as_of=period.end_time)
    _report(f"contract-{found.name}-features-{period}", f"Features of {found.name}, {period}", [verdict])
    return _keep(found.name, period, verdict, FEATURES, tuple(accepted.values()), "build")


@flow(name="ingest", flow_run_name="ingest {window}", persist_result=True)
def ingest(recipe: str, window: str, landed: dict[str, str] | None = None) -> Ingested:
    """Bring one window in; ask for it again and only what changed is done again.

    Args:
        recipe: ``module:attribute``.
        window: ``2013-03``, ``2013-W05``, ``2013-03-04``, or a range ``A..B``.
        landed: digests by raw table, to start from snapshots (a mended quarantine) rather than from the source.

    Raises:
        ContractRefused: a table broke its contract; nothing of the window was recorded.
    """
    loaded = load_recipe(recipe)
    found, code, period = loaded.recipe, loaded.code, Window.parse(window)
    if landed is None:
        version = found.version(period)
        # A source that cannot tell its version is read each time: what it returns then decides what is done again.
        policy = NO_CACHE if version is None else INPUTS + TASK_SOURCE
        landed = load.with_options(cache_policy=policy)(recipe, code, window, version)
    tables = check_raw(recipe, code, window, landed)
    names = list(found.raw)
    features = build_features(
        recipe, code, window, {name: checked.accepted for name, checked in zip(names, tables, strict=True)}
    )
    record(found.name, period, (*tables, features))
    return Ingested(recipe=recipe, window=window, tables=tables, features=features)


def record(subject: str, window: Window, tables: tuple[Checked, ...]) -> None:
    """Make these snapshots the ones that count for this window."""
    catalog, run = runtime.catalog(subject), runtime.flow_run_id()
    for checked in tables:
        catalog.record(checked.table, window, checked.accepted, checked.rows, run, quarantined=checked.quarantined_rows)
        if checked.quarantined:
            quarantine = checked.table.replace("raw.", "quarantine.", 1)
            catalog.record(quarantine, window, checked.quarantined, checked.quarantined_rows, run)


def _keep(subject: str, window: Window, verdict: Verdict, table: str, inputs: tuple[str, ...], stage: str) -> Checked:
    """Store both halves of a checked table, with where they came from."""
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


def _report(key: str, title: str, verdicts: list[Verdict]) -> None:
    """Show the verdicts in the Prefect UI, and stop if a table was refused."""
    create_markdown_artifact(
        markdown=f"# {title}\n\n" + "\n\n".join(to_markdown(verdict) for verdict in verdicts),
        key=key.lower().replace("_", "-").replace("..", "-to-"),
        description=", ".join(f"{verdict.table}: {verdict.status}" for verdict in verdicts),
    )
    refused = [verdict for verdict in verdicts if verdict.status == "refused"]
    if refused:
        failures = tuple(failure for verdict in refused for failure in verdict.failures)
        raise ContractRefused(", ".join(verdict.table for verdict in refused), failures)
