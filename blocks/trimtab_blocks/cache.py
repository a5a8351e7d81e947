"""Data files of a store, kept on the disk of the host that reads them: as much as a limit allows, the last used."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO

from trimtab_blocks.cache_files import About, CacheFiles
from trimtab_blocks.errors import CorruptBlob
from trimtab_blocks.stores import Blob, Store

__all__ = ["CachedStore"]

#: Times a blob is fetched again that others evicted before it could be locked.
_ROUNDS = 3


class CachedStore(Store):
    """A store whose ``local`` files come from a directory of this host, and come to be there when they are not.

    Small records, asked for with ``read``, are taken from the cache if they are in it, and do not fill it.

    Args:
        store: where the blobs are.
        directory: on a local disk; of this store only.
        limit_bytes: the most that files in the directory may have. A larger blob, or one for which no room can be made
            because everything is in use, is handed out as the store does, uncached.
        digest_in: the SHA-256 of its content that a key names, if it names one; what comes in must have it.

    Raises:
        StoreUnavailable: the directory cannot be used, or is that of another store.
    """

    def __init__(
        self,
        store: Store,
        directory: Path,
        limit_bytes: int,
        digest_in: Callable[[str], str | None] | None = None,
    ) -> None:
        if limit_bytes < 1:
            raise ValueError(f"limit_bytes is {limit_bytes}; a cache needs 1 or more")
        self.store = store
        self.limit_bytes = limit_bytes
        self._digest_in = digest_in
        self._files = CacheFiles(directory, limit_bytes, str(store))

    def __str__(self) -> str:
        return str(self.store)

    def write_once(self, key: str, data: bytes | Path) -> bool:
        """See ``Store``. The cache is for what is read: nothing comes into it here."""
        return self.store.write_once(key, data)

    def read(self, key: str) -> bytes:
        """See ``Store``."""
        with self._files.held(key) as path:
            if path:
                return path.read_bytes()
        return self.store.read(key)

    def exists(self, key: str) -> bool:
        """See ``Store``; the store is asked."""
        return self.store.exists(key)

    def keys(self, prefix: str = "") -> Iterator[str]:
        """See ``Store``; the store is asked."""
        return self.store.keys(prefix)

    def blobs(self, prefix: str = "") -> Iterator[Blob]:
        """See ``Store``; the store is asked."""
        return self.store.blobs(prefix)

    def size(self, key: str) -> int:
        """See ``Store``; the store is asked."""
        return self.store.size(key)

    def fault(self, key: str, size: int, sha256: str) -> str | None:
        """See ``Store``. Of the blob in the store; the cache is verified by itself."""
        return self.store.fault(key, size, sha256)

    @contextmanager
    def local(self, key: str) -> Iterator[Path]:
        """See ``Store``. The cached file itself, which stays there inside the ``with``.

        Raises:
            CorruptBlob: what came is not what its key names.
        """
        for _ in range(_ROUNDS):
            with self._files.held(key) as path:
                if path:
                    yield path
                    return
            if not self._fetch(key):
                break
        with self.store.local(key) as path:
            yield path

    def remove(self, key: str) -> None:
        """See ``Store``. Also from this host's cache; other hosts keep theirs until they need the room."""
        self.store.remove(key)
        self._files.forget(key)

    def sweep(self, older_than: timedelta) -> int:
        """See ``Store``. What killed processes left in the cache goes at once: nobody holds its lock."""
        return self.store.sweep(older_than) + self._files.tidy()

    def cached_keys(self) -> list[str]:
        """Keys of the blobs in this cache, the last used first: what a worker may tell others that it has at hand."""
        return self._files.keys()

    def used_bytes(self) -> int:
        """Bytes of all files in the cache, also of those that are just coming."""
        return self._files.used_bytes()

    def _fetch(self, key: str) -> bool:
        """Bring a blob into the cache, or wait for the process that is about to; False where there is no room."""
        size = self.store.size(key)
        if size > self.limit_bytes:
            return False
        with self._files.reporting(), self._files.incoming(key) as (path, file):
            with self._files.held(key) as there:
                if there:
                    return True
            if not self._files.admit(file, size):
                return False
            self._files.publish(path, self._fill(key, file, size))
        return True

    def _fill(self, key: str, file: BinaryIO, size: int) -> About:
        """Copy the blob from the store and verify it; on the disk when this returns."""
        found = self.store.fill(key, file)
        named = self._digest_in(key) if self._digest_in else None
        if named not in (None, found):
            raise CorruptBlob(key, self, f"its SHA-256 is {found}, and its key names {named}")
        came = os.fstat(file.fileno()).st_size
        if came != size:
            raise CorruptBlob(key, self, f"{came} bytes came, and it has {size}")
        os.fsync(file.fileno())
        return About(key, size, found, os.fstat(file.fileno()).st_mtime_ns)
