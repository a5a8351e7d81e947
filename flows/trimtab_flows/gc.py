"""Remove snapshots that no model, manifest, catalog entry or rule needs any more."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, time, timedelta

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from pydantic import BaseModel

from trimtab_blocks.stores import Store
from trimtab_blocks.tiering_rules import TieringRules
from trimtab_flows import runtime
from trimtab_flows.faults import RETRIES
from trimtab_flows.garbage import removing
from trimtab_flows.garbage.decision import Fact, Verdict, judge, needed
from trimtab_flows.garbage.roots import catalog_roots, edges, manifest_roots, model_roots
from trimtab_flows.snapshots.holdings import Held, catalog_names, holdings
from trimtab_flows.snapshots.library import CorruptSnapshot, SnapshotLibrary
from trimtab_flows.snapshots.uses import Uses
from trimtab_flows.tiering.decision import Stored, retained
from trimtab_flows.tiering.facts import named_tables

__all__ = ["Collected", "collect", "gc", "inspect"]

_RULE = "a retention rule"
_WHY = "no registered model, manifest, catalog entry or rule needed it"


class Collected(BaseModel, frozen=True):
    """What garbage collection found and did; ``kept``: number of snapshots by what keeps them."""

    garbage: int
    removed: int
    strays: int
    bytes: int
    kept: dict[str, int]
    put_back: int = 0


def inspect(
    store: Store,
    models: dict[str, str],
    rules: TieringRules | None,
    now: datetime,
    grace_days: int,
    superseded_days: int | None = None,
) -> Verdict:
    """What is garbage in a store. Nothing is changed.

    Args:
        models: what the registry needs (``model_roots``).
        rules: of which those that keep data count.
        grace_days: what was written or used since then stays; at least 1.
        superseded_days: catalog entries that a later one replaced count no more when they are older; None: always.
    """
    if grace_days < 1:
        raise ValueError(f"grace_days is {grace_days}; it must be 1 or more, and longer than any run takes")
    uses = Uses(store).last()  # first: what is marked later is found before anything is removed
    held = holdings(store)
    names = list(catalog_names(store))
    roots = models | manifest_roots(store) | catalog_roots(names, held, now, superseded_days)
    if rules:
        roots |= {digest: _RULE for digest in _retained(store, held, rules, now) if digest not in roots}
    last = {digest: datetime.combine(use.day + timedelta(days=1), time(), UTC) for digest, use in uses.items()}
    facts = [_fact(store, one, last.get(digest)) for digest, one in held.items() if one.files or one.made_at]
    return judge(facts, needed(roots, edges(store)), now, timedelta(days=grace_days))


def collect(store: Store, verdict: Verdict, now: datetime, grace_days: int) -> tuple[int, int, int]:
    """Remove it, and marks of use that say nothing any more: snapshots removed, stray files, bytes freed."""
    since, limit = (now - timedelta(days=grace_days)).date(), now - timedelta(days=grace_days)
    removed = strays = freed = 0
    for doomed in verdict.doomed:
        if doomed.whole and removing.remove(store, doomed, since, _WHY):
            removed, freed = removed + 1, freed + doomed.bytes
        elif not doomed.whole:
            found = removing.remove_strays(store, doomed, limit)
            strays, freed = strays + bool(found), freed + found
    uses = Uses(store)
    uses.forget(removing.stale_marks(uses.all(), holdings(store), now.date()))
    store.sweep(timedelta(days=grace_days))
    return removed, strays, freed


@task(task_run_name="collect garbage", timeout_seconds=6 * 3600, **RETRIES)
def _collect_all(dry_run: bool, grace_days: int, superseded_days: int | None) -> Collected:
    store, now = runtime.uncached(), datetime.now(UTC)
    policy = runtime.tiering()
    put_back = [] if dry_run else removing.finish(store, (now - timedelta(days=grace_days)).date())
    verdict = inspect(store, model_roots(), policy.rules if policy else None, now, grace_days, superseded_days)
    removed, strays, freed = (0, 0, verdict.bytes) if dry_run else collect(store, verdict, now, grace_days)
    return Collected(
        garbage=sum(1 for one in verdict.doomed if one.whole),
        removed=removed,
        strays=strays if not dry_run else sum(1 for one in verdict.doomed if not one.whole),
        bytes=freed,
        kept=dict(verdict.kept),
        put_back=len(put_back),
    )


@flow(name="gc", flow_run_name="collect garbage", persist_result=True)
def gc(dry_run: bool = False, grace_days: int = 7, superseded_days: int | None = None) -> Collected:
    """Remove what nothing needs. Safe beside runs that write and read, if the grace is longer than they take.

    Args:
        dry_run: only say what would go.
        grace_days: what was written or used since then stays.
        superseded_days: of catalog entries that a later one replaced, those older than this need nothing; by default
            each entry keeps its data.

    Raises:
        RootsUnknown: a manifest or an edge of the lineage cannot be read; nothing is removed then.
        MlflowException: MLflow cannot say which models there are; nothing is removed then.
    """
    found = _collect_all(dry_run, grace_days, superseded_days)
    text = describe(found, dry_run)
    get_run_logger().info("%s", text)
    kept = [f"| {why} | {number} |" for why, number in found.kept.items()]
    create_markdown_artifact(
        markdown="\n".join([f"# {text}", "", "| kept by | snapshots |", "|---|---:|", *kept]), key="garbage"
    )
    return found


def describe(found: Collected, dry_run: bool) -> str:
    """The outcome in a sentence."""
    size = f"{found.bytes / 2**20:.1f} MiB"
    kept = ", ".join(f"{number} by {why}" for why, number in found.kept.items()) or "none"
    if dry_run:
        return f"{found.garbage} snapshots and {found.strays} groups of stray files would go ({size}). Kept: {kept}."
    spared = found.garbage - found.removed
    return f"{found.removed} snapshots and {found.strays} groups of stray files are gone ({size})" + (
        f"; {spared} were used meanwhile. Kept: {kept}." if spared else f". Kept: {kept}."
    )


def _retained(store: Store, held: dict[str, Held], rules: TieringRules, now: datetime) -> Iterable[str]:
    tables = named_tables(store, held)
    for digest, one in held.items():
        if one.made_at is not None:
            named = tuple(sorted(tables.get(digest, ())))
            if retained(Stored(digest, 0, "hot", one.made_at, one.made_at, one.made_at, tables=named), rules, now):
                yield digest


def _fact(store: Store, held: Held, used_at: datetime | None) -> Fact:
    """A snapshot as the decision needs it. Its descriptor is only read where it has several files to choose from."""
    live = None
    if held.made_at is not None:
        live = held.files[0].key if len({file.key for file in held.files}) == 1 else _file_of(store, held)
    by_key = {file.key: file for file in reversed(held.files)}
    size = by_key[live].bytes if live in by_key else 0
    if held.made_at is not None and live is None:
        by_key.clear()  # which of them counts is not known: all of them stay
    others = tuple((key, file.bytes, file.written_at) for key, file in by_key.items() if key != live)
    return Fact(held.digest, live, size, max(filter(None, (held.newest_at, used_at))), others)


def _file_of(store: Store, held: Held) -> str | None:
    """The file that counts; None: it cannot be told, or the descriptor has just gone."""
    try:
        return SnapshotLibrary(store).file_of(held.digest)
    except (LookupError, CorruptSnapshot):
        return None
