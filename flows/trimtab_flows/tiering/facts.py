"""What the tiering decision is made from, read from the store and MLflow; and doing what it says."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta

from trimtab_blocks.stores import Store
from trimtab_blocks.tiered import HOT, TieredStore
from trimtab_blocks.tiering_rules import TieringRules
from trimtab_flows.garbage.decision import Doomed, needed
from trimtab_flows.garbage.removing import remove
from trimtab_flows.garbage.roots import edges, manifest_roots, model_roots
from trimtab_flows.snapshots.holdings import Held, catalog_names, holdings
from trimtab_flows.snapshots.uses import LastUse, Uses
from trimtab_flows.tiering.decision import DELETE, Move, Stored

__all__ = ["carry_out", "named_tables", "stored"]

#: A writer that relies on a snapshot marks its use; a clock may be a day behind.
_SPARED_DAYS = 2


def stored(store: Store, policy: TieringRules) -> list[Stored]:
    """Every snapshot of the store as the decision needs it.

    Raises:
        RootsUnknown, MlflowException: something may go, and what needs it cannot be read.
    """
    held, uses = holdings(store), Uses(store).last()
    tables = named_tables(store, held)
    why: dict[str, str] = {}
    if any(rule.delete_after_days is not None for rule in policy.rules):
        why = needed(model_roots() | manifest_roots(store), edges(store))
    return [
        _stored(one, uses.get(digest), tuple(sorted(tables.get(digest, ()))), why.get(digest, ""))
        for digest, one in held.items()
        if one.made_at is not None and one.files
    ]


def named_tables(store: Store, held: dict[str, Held]) -> dict[str, set[tuple[str, str]]]:
    """(subject, table) of the catalog's entries, by the digest that they name."""
    by_start = {digest[:12]: digest for digest in held}
    found: dict[str, set[tuple[str, str]]] = {}
    for name in catalog_names(store):
        digest = by_start.get(name.start_of_digest)
        if digest:
            found.setdefault(digest, set()).add((name.subject, name.table))
    return found


def carry_out(store: TieredStore, move: Move) -> bool:
    """Do it; False if it was used meanwhile, or has gone.

    Raises:
        CorruptBlob: its data is not what it should be; it stays where it is.
    """
    keys = tuple(store.keys(f"snapshots/{move.digest[:2]}/{move.digest}/"))
    if move.target == DELETE:
        since = datetime.now(UTC).date() - timedelta(days=_SPARED_DAYS)
        return remove(store, Doomed(move.digest, keys, move.bytes, whole=True), since, move.reasons[0])
    moved = [store.move(key, move.target) for key in keys]
    return any(moved)


def _stored(held: Held, use: LastUse | None, tables: tuple[tuple[str, str], ...], why: str) -> Stored:
    made_at = held.made_at or held.newest_at
    colder = [file for file in held.files if file.tier != HOT]
    newest = max(held.files, key=lambda file: file.written_at)
    return Stored(
        digest=held.digest,
        bytes=sum({file.key: file.bytes for file in held.files}.values()),
        tier=HOT if len(colder) < len(held.files) else colder[0].tier,
        since=newest.written_at,
        made_at=made_at,
        used_at=max(made_at, _end_of(use.day)) if use else made_at,
        reads_per_month=use.days_of_90 / 3 if use else 0.0,
        tables=tables,
        needed_by=why,
    )


def _end_of(day: date) -> datetime:
    """The latest it may have been, but not later than now."""
    return min(datetime.combine(day + timedelta(days=1), time(), UTC), datetime.now(UTC))
