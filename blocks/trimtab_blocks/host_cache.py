"""The cache of this host, as its environment sets it, and which snapshots lie in it.

TRIMTAB_CACHE_DIR is a directory on a local disk, TRIMTAB_CACHE_GIB the most that the data files of one store may take
there (100 if it is not set). Both the worker and the runs that it starts read them.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from trimtab_blocks.cache import CachedStore
from trimtab_blocks.cache_files import keys_in
from trimtab_blocks.keys import digest_of
from trimtab_blocks.stores import Store

__all__ = ["DIRECTORY", "LIMIT", "CacheSettingError", "CachedSnapshots", "HostCache"]

DIRECTORY, LIMIT = "TRIMTAB_CACHE_DIR", "TRIMTAB_CACHE_GIB"
_DEFAULT_GIB = 100.0
#: A file that comes or goes changes a directory's time, which is as fine as the kernel's tick; and what was used last
#: changes no directory.
_TICK_S, _AGAIN_S = 2.0, 60.0


class CacheSettingError(ValueError):
    """A setting of the cache is wrong; the text names the variable and says what is allowed."""


@dataclass(frozen=True)
class HostCache:
    """Where data files are kept on this host, and how many bytes of each store."""

    directory: Path
    limit_bytes: int

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> HostCache | None:
        """None where no directory is set. Raises CacheSettingError."""
        directory, limit = environment.get(DIRECTORY, ""), environment.get(LIMIT, "")
        if not directory:
            return None
        if not Path(directory).is_absolute():
            raise CacheSettingError(f"{DIRECTORY} must be a whole path, like /var/cache/trimtab, not {directory!r}")
        try:
            gib = float(limit or _DEFAULT_GIB)
        except ValueError:
            gib = 0.0
        if not 0 < gib < 1e9:
            raise CacheSettingError(f"{LIMIT} must be a number of GiB above 0, not {limit!r}")
        return cls(Path(directory), int(gib * 2**30))

    def before(self, store: Store, digest_in: Callable[[str], str | None] | None = None) -> CachedStore:
        """The store behind this host's cache. Each store has a directory of its own below this one."""
        own = hashlib.sha256(str(store).encode()).hexdigest()[:16]
        return CachedStore(store, self.directory / own, self.limit_bytes, digest_in)


class CachedSnapshots:
    """Digests of the snapshots whose data lies in this host's cache, the last used first, at most so many.

    Called again and again by a worker, so the directory is only listed when something in it has changed.
    """

    def __init__(self, directory: Path, most: int) -> None:
        self._directory, self._most = directory, most
        self._found: list[str] = []
        self._seen: object = None
        self._listed_s = self._again_s = 0.0

    def __call__(self) -> list[str]:
        """Raises OSError if the directory cannot be listed."""
        caches = sorted(self._directory.glob("*/entries"))
        seen = [(path, path.stat().st_mtime_ns) for path in caches]
        newest_s = max((at / 1e9 for _, at in seen), default=0.0)
        settled = self._listed_s - newest_s > _TICK_S
        if seen != self._seen or not settled or time.monotonic() > self._again_s:
            self._listed_s = time.time()  # as the file system has it
            self._again_s = time.monotonic() + _AGAIN_S
            self._found, self._seen = self._list(caches), seen
        return self._found

    def _list(self, caches: list[Path]) -> list[str]:
        keys = (key for path in caches for key in keys_in(path.parent))
        digests = dict.fromkeys(digest for key in keys if (digest := digest_of(key)))
        return list(digests)[: self._most]
