"""Several stores as one: small records in the first, data files in any, wherever a policy has put them.

Where a blob is, is where it lies: there is no index that could be wrong. While it is moved it is in two stores.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import IO, TypeVar

from trimtab_blocks.errors import BlobNotFound, CorruptBlob
from trimtab_blocks.keys import content_of, is_data
from trimtab_blocks.stores import Blob, Store

__all__ = ["HOT", "Fetch", "TieredStore"]

HOT = "hot"
#: Times a blob is looked for in all stores: it may be moved from one to another meanwhile.
_LOOKS = 3

_Found = TypeVar("_Found")


@dataclass(frozen=True)
class Fetch:
    """A blob that is about to be read from another store than the first."""

    key: str
    bytes: int
    tier: str


class TieredStore(Store):
    """A store whose data files (``keys.is_data``) may lie in colder ones.

    Args:
        hot: where everything is written, and records stay.
        colder: the other stores by their names, in the order they are looked through: the dearest to keep first.
        before_fetch: told of each blob before it is read from one of those. It may refuse, by raising.
    """

    def __init__(self, hot: Store, colder: Mapping[str, Store], before_fetch: Callable[[Fetch], object] = repr) -> None:
        if HOT in colder:
            raise ValueError(f"{HOT!r} is the first store; name the others differently")
        self.tiers: dict[str, Store] = {HOT: hot, **colder}
        self._hot = hot
        self._before_fetch = before_fetch

    def __str__(self) -> str:
        return str(self._hot)

    def write_once(self, key: str, data: bytes | Path) -> bool:
        """See ``Store``. To the first; a key that is taken in any of them is taken."""
        if any(store.exists(key) for name, store in self._places(key) if name != HOT):
            return False
        return self._hot.write_once(key, data)

    def read(self, key: str) -> bytes:
        """See ``Store``."""
        return self._from_one(key, lambda store: store.read(key), fetches=True)

    def exists(self, key: str) -> bool:
        """See ``Store``."""
        return any(store.exists(key) for _, store in self._places(key))

    def keys(self, prefix: str = "") -> Iterator[str]:
        """See ``Store``."""
        return (blob.key for blob in self.blobs(prefix))

    def blobs(self, prefix: str = "") -> Iterator[Blob]:
        """See ``Store``. What lies in two of them is listed once, as the first has it."""
        listings = [self._blobs(place, prefix) for place in range(len(self.tiers))]
        last = None
        for _, _, blob in heapq.merge(*listings, key=lambda found: found[:2]):
            if blob.key != last:
                yield blob
            last = blob.key

    def size(self, key: str) -> int:
        """See ``Store``."""
        return self._from_one(key, lambda store: store.size(key))

    @contextmanager
    def local(self, key: str) -> Iterator[Path]:
        """See ``Store``."""
        with ExitStack() as opened:
            yield self._from_one(key, lambda store: opened.enter_context(store.local(key)), fetches=True)

    def fill(self, key: str, file: IO[bytes]) -> str:
        """See ``Store``."""
        return self._from_one(key, lambda store: store.fill(key, file), fetches=True)

    def fault(self, key: str, size: int, sha256: str) -> str | None:
        """See ``Store``. Of a blob in a colder store only the size is compared: reading it may cost."""
        name = self.tier_of(key)
        if name is None:
            raise BlobNotFound(key, self)
        if name == HOT:
            return self._hot.fault(key, size, sha256)
        found = self.size(key)
        return None if found == size else f"it has {found} bytes, and should have {size}"

    def remove(self, key: str) -> None:
        """See ``Store``. From all of them."""
        for _, store in self._places(key):
            store.remove(key)

    def sweep(self, older_than: timedelta) -> int:
        """See ``Store``."""
        return sum(store.sweep(older_than) for store in self.tiers.values())

    def tier_of(self, key: str) -> str | None:
        """Name of the store that a blob lies in; None: in none."""
        return next((name for name, store in self._places(key) if store.exists(key)), None)

    def move(self, key: str, target: str) -> bool:
        """Bring a data file to one of the stores; False if it lies there and nowhere else already.

        The copy is complete and verified before the original goes. A move that was killed is finished by the next one.

        Raises:
            CorruptBlob: what lies in one of them is not what its key names, or two of them hold different content.
            BlobNotFound: there is none.
            ValueError: this is no data file, or no store has that name.
        """
        if not is_data(key) or target not in self.tiers:
            raise ValueError(
                f"cannot move {key!r} to {target!r}: only data files of snapshots, to {', '.join(self.tiers)}"
            )
        sources = {name: store for name, store in self._places(key) if name != target and store.exists(key)}
        goal = self.tiers[target]
        if not sources:
            if not goal.exists(key):
                raise BlobNotFound(key, self)
            return False
        source = next(iter(sources.values()))
        with source.local(key) as path:
            digest = _sha256(path)
            if digest != content_of(key):
                raise CorruptBlob(key, source, f"its SHA-256 is {digest}; it stays where it is")
            size = path.stat().st_size
            if goal.write_once(key, path):  # which verifies what it sends
                wrong = None if goal.size(key) == size else f"it has {goal.size(key)} bytes, and should have {size}"
            else:
                wrong = goal.fault(key, size, digest)
        if wrong:
            raise CorruptBlob(key, goal, f"{wrong}; the copy in {source} stays")
        for store in sources.values():
            store.remove(key)
        return True

    def _places(self, key: str) -> Iterator[tuple[str, Store]]:
        """Stores that a key may lie in."""
        return iter(self.tiers.items() if is_data(key) else [(HOT, self._hot)])

    def _from_one(self, key: str, take: Callable[[Store], _Found], fetches: bool = False) -> _Found:
        for _ in range(_LOOKS):
            for name, store in self._places(key):
                try:
                    if fetches and name != HOT:
                        self._before_fetch(Fetch(key, store.size(key), name))
                    return take(store)
                except BlobNotFound:
                    continue
            if not is_data(key):
                break
        raise BlobNotFound(key, self)

    def _blobs(self, place: int, prefix: str) -> Iterator[tuple[bytes, int, Blob]]:
        store = list(self.tiers.values())[place]
        return ((blob.key.encode(), place, blob) for blob in store.blobs(prefix) if place == 0 or is_data(blob.key))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
