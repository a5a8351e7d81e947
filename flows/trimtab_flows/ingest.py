"""Bring one window of data in: land it as it is, check it, build features, check those, and keep all of it."""

from __future__ import annotations

from prefect import flow, get_run_logger, task
from prefect.cache_policies import INPUTS, NO_CACHE, TASK_SOURCE
from pydantic import BaseModel

from trimtab_flows import runtime
from trimtab_flows.contracts.check import check
from trimtab_flows.faults import RETRIES
from trimtab_flows.handover import Checked, digests_of, keep, record, report, with_data
from trimtab_flows.loading import load_recipe
from trimtab_flows.snapshots.lineage import Edge
from trimtab_flows.windows import Window

__all__ = ["FEATURES", "Ingested", "ingest"]

#: Name of the features table in the catalog; a raw table is ``raw.<name>``.
FEATURES = "features"


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
        check(contract, runtime.library().get(landed[name]), as_of=period.end_time, zone=found.zone)
        for name, contract in found.raw.items()
    ]
    report(f"contract-{found.name}-raw-{period}", f"Raw tables of {found.name}, {period}", verdicts)
    return tuple(
        keep(found.name, period, verdict, f"raw.{name}", (landed[name],), f"check {name}")
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
    verdict = check(found.features, frame, as_of=period.end_time, zone=found.zone)
    report(f"contract-{found.name}-features-{period}", f"Features of {found.name}, {period}", [verdict])
    return keep(found.name, period, verdict, FEATURES, tuple(accepted.values()), "build")


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
    get_run_logger().info("code %s", loaded.source)
    if landed is None:
        version = found.version(period)
        # A source that cannot tell its version is read each time: what it returns then decides what is done again.
        policy = NO_CACHE if version is None else INPUTS + TASK_SOURCE
        loading = load.with_options(cache_policy=policy)
        landed = with_data(loading, lambda found: found.values(), recipe, code, window, version)
    tables: tuple[Checked, ...] = with_data(check_raw, lambda all: digests_of(*all), recipe, code, window, landed)
    accepted = {name: checked.accepted for name, checked in zip(found.raw, tables, strict=True)}
    features: Checked = with_data(build_features, digests_of, recipe, code, window, accepted)
    record(found.name, period, (*tables, features))
    return Ingested(recipe=recipe, window=window, tables=tables, features=features)
