"""Files of a cache that many processes share: who holds them, which go first, and how much room there is.

What a process has been handed stays where it is until it is done: it holds a shared lock on the file, and only what
nobody holds is evicted. A process that dies loses its locks, so nothing is left to clean up by hand; the directory may
also be deleted whenever no process uses it.

    store            what this directory caches, as text
    lock             held while files are admitted, published or evicted
    incoming/<name>  a file that is being fetched, locked by who fetches it
    entries/<name>/  a cached file, named like the last part of its key, and .about.json, without which it is none
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from trimtab_blocks.errors import StoreError, StoreUnavailable
from trimtab_blocks.stores import check_key

__all__ = ["About", "CacheFiles", "Entry", "keys_in"]

_ABOUT = ".about.json"  # no key has a part that begins with a dot


@dataclass(frozen=True)
class About:
    """What was true of a cached file when it was verified. Whoever writes to it changes its time."""

    key: str
    bytes: int
    sha256: str
    mtime_ns: int

    def fits(self, key: str, file: os.stat_result) -> bool:
        return (self.key, self.bytes, self.mtime_ns) == (key, file.st_size, file.st_mtime_ns)


@dataclass(frozen=True)
class Entry:
    """A directory below ``entries``, or a file below ``incoming``. What is not complete is no cached blob."""

    path: Path
    bytes: int
    complete: bool
    used_ns: int


class CacheFiles:
    """Cached files below a directory.

    Raises:
        StoreUnavailable: the directory cannot be used, or is the cache of another store.
    """

    def __init__(self, directory: Path, limit_bytes: int, store: str) -> None:
        self.directory = directory.expanduser().absolute()
        self.limit_bytes = limit_bytes
        with self.reporting():
            for name in ("entries", "incoming"):
                (self.directory / name).mkdir(parents=True, exist_ok=True)
        with self._locked():
            named = self.directory / "store"
            if not named.exists():
                named.write_text(store)
            if named.read_text() != store:
                raise StoreUnavailable(
                    f"{self.directory} is the cache of {named.read_text()}, not of {store}: give each store its own "
                    "directory, or delete that one"
                )

    @contextmanager
    def held(self, key: str) -> Iterator[Path | None]:
        """The cached file, which nobody evicts meanwhile; or None."""
        path = self._entry(key) / key.rpartition("/")[2]
        try:
            file = path.open("rb")
        except FileNotFoundError:
            yield None
            return
        except OSError as error:
            raise self._unusable(error) from error
        with file:  # closing it gives the lock back
            fcntl.flock(file, fcntl.LOCK_SH)
            if _is_valid(key, path.parent, os.fstat(file.fileno())):
                with suppress(OSError):
                    os.utime(path.parent / _ABOUT, ns=(time.time_ns(),) * 2)  # used now
                yield path
                return
        self._discard(key, path)
        yield None

    @contextmanager
    def incoming(self, key: str) -> Iterator[tuple[Path, BinaryIO]]:
        """The file that a blob is fetched into, locked; whoever waits for the lock then finds the blob published."""
        path = self.directory / "incoming" / _name(key)
        while True:
            with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644), "r+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                if not _is_at(path, file):
                    continue
                file.truncate(0)  # what a killed process had of it
                try:
                    yield path, file
                finally:
                    if _is_at(path, file):  # not published
                        path.unlink()
                return

    def admit(self, file: BinaryIO, size: int) -> bool:
        """Evict what was used longest ago until there is room, and take it by giving the file its size."""
        with self._locked():
            entries = self._entries()
            free = self.limit_bytes - sum(entry.bytes for entry in entries)
            for entry in sorted(entries, key=lambda entry: (entry.complete, entry.used_ns, entry.path)):
                if free >= size:
                    break
                if self._evict(entry.path):
                    free += entry.bytes
            if free < size:
                return False
            file.truncate(size)
            return True

    def publish(self, path: Path, about: About) -> None:
        """Make an incoming file a cached one."""
        entry = self._entry(about.key)
        with self._locked():
            entry.mkdir(exist_ok=True)
            file = path.rename(entry / about.key.rpartition("/")[2])
            file.chmod(0o444)
            written = entry / f"{_ABOUT}.new"
            written.write_text(json.dumps(asdict(about)))
            written.rename(entry / _ABOUT)

    def forget(self, key: str) -> None:
        """A blob is no longer cached; whoever reads it keeps its file."""
        with self._locked():
            (self._entry(key) / _ABOUT).unlink(missing_ok=True)
            self._evict(self._entry(key))

    def tidy(self) -> int:
        """Remove what killed processes left; nobody holds its lock. How much there was."""
        with self._locked():
            return sum(self._evict(entry.path) for entry in self._entries() if not entry.complete)

    def keys(self) -> list[str]:
        """Keys of all cached files, the last used first."""
        return keys_in(self.directory)

    def used_bytes(self) -> int:
        """Bytes of all files, at one moment."""
        with self._locked():
            return sum(entry.bytes for entry in self._entries())

    def _entry(self, key: str) -> Path:
        return self.directory / "entries" / _name(key)

    def _discard(self, key: str, path: Path) -> None:
        """Forget a file that was altered or is half gone, unless somebody has just brought it anew."""
        with self._locked(), suppress(FileNotFoundError):
            if not _is_valid(key, path.parent, path.stat()):
                (path.parent / _ABOUT).unlink(missing_ok=True)
                self._evict(path.parent)

    def _evict(self, path: Path) -> bool:
        """Remove an entry or an incoming file, unless somebody holds it; whether it is gone. Only while locked."""
        with ExitStack() as opened:
            for file in _files(path) if path.is_dir() else [path]:
                try:
                    fcntl.flock(opened.enter_context(file.open("rb")), fcntl.LOCK_EX | fcntl.LOCK_NB)
                except FileNotFoundError:
                    continue
                except BlockingIOError:
                    return False
            if path.is_dir():
                (path / _ABOUT).unlink(missing_ok=True)  # first: without it there is no cached file
                shutil.rmtree(path)
            path.unlink(missing_ok=True)
        return True

    def _entries(self) -> list[Entry]:
        """All there is, also what is just coming and what is half gone."""
        found = []
        for path in (self.directory / "entries").iterdir():
            with suppress(FileNotFoundError):
                found.append(_entry_at(path))
        for path in (self.directory / "incoming").iterdir():
            with suppress(FileNotFoundError):
                found.append(Entry(path, path.stat().st_size, False, 0))
        return found

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Alone among all processes in changing what the cache consists of."""
        with self.reporting(), (self.directory / "lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @contextmanager
    def reporting(self) -> Iterator[None]:
        """What goes wrong with the disk, in a sentence."""
        try:
            yield
        except StoreError:
            raise
        except OSError as error:
            raise self._unusable(error) from error

    def _unusable(self, error: OSError) -> StoreUnavailable:
        return StoreUnavailable(
            f"cannot use the cache in {self.directory}: {error.strerror or error}; it needs a directory on a local "
            f"disk that this user may write to, with room for {self.limit_bytes} bytes"
        )


def keys_in(directory: Path) -> list[str]:
    """Keys of all files in a cache's directory, the last used first; none where there is no cache."""
    found = []
    for about in (directory / "entries").glob(f"*/{_ABOUT}"):
        with suppress(OSError, ValueError, LookupError):  # evicted just now; or damaged, which its next use finds
            found.append((-about.stat().st_mtime_ns, str(json.loads(about.read_bytes())["key"])))
    return [key for _, key in sorted(found)]


def _name(key: str) -> str:
    """A file name for a key: keys may be longer than those, and one may be the beginning of another."""
    return hashlib.sha256(check_key(key).encode()).hexdigest()


def _entry_at(path: Path) -> Entry:
    """What lies in an entry's directory; with as few calls as can be, for all of them are looked at to find room."""
    size, used_ns = 0, None
    with os.scandir(path) as files:
        for file in files:
            if file.name == _ABOUT:
                used_ns = file.stat().st_mtime_ns
            elif not file.name.startswith("."):
                size += file.stat().st_size
    return Entry(path, size, used_ns is not None, used_ns or 0)


def _is_valid(key: str, entry: Path, file: os.stat_result) -> bool:
    """Whether a file is the one that was verified."""
    try:
        return About(**json.loads((entry / _ABOUT).read_bytes())).fits(key, file)
    except (OSError, ValueError, TypeError):
        return False


def _is_at(path: Path, file: BinaryIO) -> bool:
    """Whether an open file still has this path."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _files(entry: Path) -> list[Path]:
    """The blob in an entry, if it is there."""
    try:
        return [path for path in entry.iterdir() if not path.name.startswith(".")]
    except FileNotFoundError:
        return []
