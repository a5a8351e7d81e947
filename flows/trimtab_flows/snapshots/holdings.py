"""What a store holds: each snapshot with its files, wherever they lie; and which tables of the catalog name it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime

from trimtab_blocks.cache import CachedStore
from trimtab_blocks.keys import SNAPSHOTS, digest_of, is_data
from trimtab_blocks.stores import Store
from trimtab_blocks.tiered import HOT, TieredStore

__all__ = ["CatalogName", "File", "Held", "catalog_names", "holdings", "tiers_of"]


@dataclass(frozen=True)
class File:
    """A data file, where it lies, and since when."""

    key: str
    bytes: int
    tier: str
    written_at: datetime


@dataclass
class Held:
    """A snapshot: when its descriptor was written (None: there is none), and the files under its digest."""

    digest: str
    made_at: datetime | None = None
    files: list[File] = field(default_factory=list)

    @property
    def newest_at(self) -> datetime:
        """When something of it was last written."""
        times = [file.written_at for file in self.files] + ([self.made_at] if self.made_at else [])
        return max(times)


@dataclass(frozen=True)
class CatalogName:
    """An entry of the catalog as its key says it; of the digest, the first twelve characters.

    ``order`` sorts the entries of a window, oldest first; ``recorded`` is what its writer's clock said, in UTC.
    """

    subject: str
    table: str
    window: str
    order: str
    recorded: str
    start_of_digest: str


def tiers_of(store: Store) -> dict[str, Store]:
    """The stores that a store consists of, by tier."""
    inner = store.store if isinstance(store, CachedStore) else store
    return inner.tiers if isinstance(inner, TieredStore) else {HOT: inner}


def holdings(store: Store) -> dict[str, Held]:
    """Every snapshot, and every file that has none, by digest. One listing of each tier; nothing is read."""
    found: dict[str, Held] = {}
    for tier, part in tiers_of(store).items():
        for blob in part.blobs(SNAPSHOTS):
            digest = digest_of(blob.key)
            if digest is None:
                continue
            held = found.setdefault(digest, Held(digest))
            if is_data(blob.key):
                held.files.append(File(blob.key, blob.bytes, tier, blob.written_at))
            elif tier == HOT:
                held.made_at = blob.written_at
    return found


def catalog_names(store: Store) -> Iterator[CatalogName]:
    """Every entry of the catalog, of whichever recipe, those of a window oldest first. Nothing is read."""
    for key in store.keys("catalog/"):
        _, subject, table, window, name = key.split("/")
        order = name.removesuffix(".json")
        recorded, start = order.split("-")[-2:]
        yield CatalogName(subject, table, window, order, recorded, start)
