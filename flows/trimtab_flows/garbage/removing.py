"""Removes snapshots while others write, in an order that hurts nobody.

A writer that finds a snapshot in place marks it as used, and then looks whether it is still there (``library.put``).
Removing takes the descriptor away first, and then looks for marks. Whichever comes second sees the other: either the
writer finds no snapshot and stores a file of its own, or the mark is found here and the descriptor put back. What was
taken away is noted before, so that the next collection finishes what a killed one began.

    gone/<digest>.json   when, why, and the descriptor as it was
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta

from trimtab_blocks.errors import BlobNotFound
from trimtab_blocks.keys import descriptor_key
from trimtab_blocks.stores import Store
from trimtab_flows.garbage.decision import Doomed
from trimtab_flows.snapshots.holdings import holdings
from trimtab_flows.snapshots.library import SnapshotLibrary, gone_key
from trimtab_flows.snapshots.uses import Uses

__all__ = ["finish", "remove", "remove_strays", "stale_marks"]


def remove(store: Store, doomed: Doomed, since: date, why: str) -> bool:
    """Remove a whole snapshot, unless it was used on that day or later; whether it is gone."""
    uses, descriptor = Uses(store), descriptor_key(doomed.digest)
    if uses.used_since(doomed.digest, since):
        return False
    try:
        record = store.read(descriptor)
    except BlobNotFound:
        return False  # somebody else is at it
    note = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "why": why, "descriptor": record.decode()}
    store.remove(gone_key(doomed.digest))  # of an earlier life
    store.write_once(gone_key(doomed.digest), json.dumps(note).encode())
    store.remove(descriptor)
    if uses.used_since(doomed.digest, since):
        _put_back(store, doomed.digest, record)
        return False
    for key in doomed.keys:
        store.remove(key)
    return True


def remove_strays(store: Store, doomed: Doomed, older_than: datetime) -> int:
    """Remove files that no snapshot consists of; bytes freed. What is new under their names, or in use, stays."""
    used = None
    with suppress(LookupError, ValueError):
        used = SnapshotLibrary(store).file_of(doomed.digest)
    freed = 0
    for key in doomed.keys:
        found = next(store.blobs(key), None)
        if found is not None and key != used and found.written_at < older_than:
            store.remove(key)
            freed += found.bytes
    return freed


def finish(store: Store, since: date) -> list[str]:
    """Put back what a killed collection took away although it was in use; digests of it."""
    found: list[str] = []
    uses, held = Uses(store), holdings(store)
    for key in list(store.keys("gone/")):
        digest = key.removeprefix("gone/").removesuffix(".json")
        headless = digest in held and held[digest].made_at is None
        if not headless or not uses.used_since(digest, since):
            continue
        record = json.loads(store.read(key))["descriptor"].encode()
        if SnapshotLibrary(store).could_be(digest, record):
            _put_back(store, digest, record)
            found.append(digest)
    return found


def stale_marks(days: dict[str, list[date]], held: Iterable[str], today: date) -> list[tuple[str, date]]:
    """Marks of use that say nothing any more: older than 90 days and not the last one, or of what has gone."""
    there, limit = set(held), today - timedelta(days=90)
    return [
        (digest, day)
        for digest, marked in days.items()
        for day in marked
        if day < limit and (day != marked[-1] or digest not in there)
    ]


def _put_back(store: Store, digest: str, record: bytes) -> None:
    store.write_once(descriptor_key(digest), record)
    store.remove(gone_key(digest))
