"""Where snapshots, lineage and manifests are kept: immutable blobs under text keys. ``errors``: what can go wrong."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO

from prefect.blocks.core import Block
from pydantic import Field, field_validator

from trimtab_blocks.errors import BlobNotFound, CorruptBlob, InvalidKey, StoreError, StoreUnavailable
from trimtab_blocks.keys import check_key

__all__ = [
    "Blob",
    "BlobNotFound",
    "DirectoryStore",
    "InvalidKey",
    "Store",
    "StoreError",
    "StoreUnavailable",
    "check_key",
]

#: File names that begin like this belong to writes that are under way. No valid key has a part that begins with a dot.
_INCOMING = ".incoming-"
_PIECE_BYTES = 1 << 20


@dataclass(frozen=True)
class Blob:
    """What a listing says of a blob; ``written_at`` is UTC by the clock of the store."""

    key: str
    bytes: int
    written_at: datetime


class Store(ABC):
    """Blobs that are written once and never change. Safe for many processes and hosts at a time.

    Every method may raise ``InvalidKey`` and ``StoreUnavailable``.
    """

    @abstractmethod
    def write_once(self, key: str, data: bytes | Path) -> bool:
        """Store bytes, or the content of a file, unless the key is taken; then nothing changes.

        A reader sees the whole blob or none, whenever the writer is killed. Of several writers of one key at the same
        time exactly one wins.

        Returns:
            Whether this call stored it.
        """

    @abstractmethod
    def read(self, key: str) -> bytes:
        """The whole blob.

        Raises:
            BlobNotFound: there is none.
        """

    @abstractmethod
    def exists(self, key: str) -> bool:
        """Whether a blob is stored under this key."""

    @abstractmethod
    def keys(self, prefix: str = "") -> Iterator[str]:
        """Keys that begin with ``prefix`` (any text, not only whole parts), in order of their UTF-8 bytes."""

    @abstractmethod
    def blobs(self, prefix: str = "") -> Iterator[Blob]:
        """As ``keys``, with size and time. What is removed meanwhile may be missing."""

    @abstractmethod
    def size(self, key: str) -> int:
        """Bytes of a blob.

        Raises:
            BlobNotFound: there is none.
        """

    @abstractmethod
    def local(self, key: str) -> AbstractContextManager[Path]:
        """The blob as a file to read, good inside the ``with``: the stored file itself where there is one, else a copy.

        Raises:
            BlobNotFound: there is none.
        """

    def fill(self, key: str, file: IO[bytes]) -> str:
        """Make the blob the content of a file that is open for writing and reading; its SHA-256.

        Raises:
            BlobNotFound: there is none.
        """
        digest = hashlib.sha256()
        file.seek(0)
        with self.local(key) as path, path.open("rb") as source:
            while piece := source.read(_PIECE_BYTES):
                digest.update(piece)
                file.write(piece)
        file.truncate()
        file.flush()
        return digest.hexdigest()

    def fault(self, key: str, size: int, sha256: str) -> str | None:
        """What is wrong with a blob that should have this size (bytes) and SHA-256; None: nothing. It is read for that.

        Raises:
            BlobNotFound: there is none.
        """
        if self.size(key) != size:
            return f"it has {self.size(key)} bytes, and should have {size}"
        try:
            with self.local(key) as path, path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except CorruptBlob as error:
            return error.reason
        return None if found == sha256 else f"its SHA-256 is {found}, and should be {sha256}"

    @abstractmethod
    def remove(self, key: str) -> None:
        """Delete a blob, if it is there. Only for garbage collection: nothing may need this key any more.

        (``delete`` is what Prefect calls deleting a block document.)

        A reader that has the blob already keeps it. A writer of the same key at the same time may store it again.
        """

    @abstractmethod
    def sweep(self, older_than: timedelta) -> int:
        """Remove what writes that were killed left behind, if it is older than this; how many there were.

        Choose a longer time than any write takes, or a write under way fails.
        """


class DirectoryStore(Block, Store):
    """A store in a directory, on one machine or on a file system that several share."""

    _block_type_name = "Trimtab directory store"
    _block_type_slug = "trimtab-directory-store"
    _description = "Keeps snapshots, lineage and manifests as immutable files in a directory."

    path: Path = Field(description="The directory; it is made on the first write.")

    @field_validator("path")
    @classmethod
    def _absolute(cls, path: Path) -> Path:
        # A block is read by processes with other working directories than the one that saved it.
        return path.expanduser().absolute()

    def __str__(self) -> str:
        return f"directory store {self.path}"

    def write_once(self, key: str, data: bytes | Path) -> bool:
        """See ``Store``. The file is synced to disk before it gets its name, and its directory after."""
        target = self._file(key)
        if self.exists(key):
            return False
        with self._reporting("write", key):
            self._make_directory(target.parent)
            incoming = target.parent / f"{_INCOMING}{uuid.uuid4().hex}"
            try:
                self._fill(incoming, data)
                return self._publish(incoming, target)
            finally:
                incoming.unlink(missing_ok=True)

    def read(self, key: str) -> bytes:
        """See ``Store``."""
        with self._reporting("read", key):
            return self._file(key).read_bytes()

    def exists(self, key: str) -> bool:
        """See ``Store``."""
        return self._file(key).is_file()

    def keys(self, prefix: str = "") -> Iterator[str]:
        """See ``Store``."""
        check_key(prefix, prefix=True)
        folder, _, start = prefix.rpartition("/")
        return self._walk(self.path / folder, f"{folder}/" if folder else "", start)

    def blobs(self, prefix: str = "") -> Iterator[Blob]:
        """See ``Store``."""
        for key in self.keys(prefix):
            with suppress(FileNotFoundError):
                found = (self.path / key).stat()
                yield Blob(key, found.st_size, datetime.fromtimestamp(found.st_mtime, UTC))

    def size(self, key: str) -> int:
        """See ``Store``."""
        with self._reporting("read", key):  # it may be removed at any time
            return self._found(key).stat().st_size

    @contextmanager
    def local(self, key: str) -> Iterator[Path]:
        """See ``Store``. The path is the stored file itself."""
        yield self._found(key)

    def remove(self, key: str) -> None:
        """See ``Store``. Its directory stays: another writer may be about to use it."""
        with self._reporting("remove", key), suppress(FileNotFoundError, IsADirectoryError, NotADirectoryError):
            self._file(key).unlink()

    def sweep(self, older_than: timedelta) -> int:
        """See ``Store``."""
        limit = time.time() - older_than.total_seconds()
        removed = 0
        with self._reporting("sweep", ""):
            for leftover in self.path.rglob(f"{_INCOMING}*"):
                with suppress(FileNotFoundError):  # its writer may just finish
                    if leftover.stat().st_mtime <= limit:
                        leftover.unlink()
                        removed += 1
        return removed

    def _file(self, key: str) -> Path:
        return self.path / check_key(key)

    def _found(self, key: str) -> Path:
        path = self._file(key)
        if not path.is_file():
            raise BlobNotFound(key, self)
        return path

    def _make_directory(self, directory: Path) -> None:
        """Make a directory of the store so that it outlasts a power cut."""
        if directory.is_dir():
            return
        if directory != self.path:
            self._make_directory(directory.parent)
        directory.mkdir(parents=directory == self.path, exist_ok=True)
        _sync(directory.parent)

    def _fill(self, incoming: Path, data: bytes | Path) -> None:
        """Write the bytes to disk under a name that no reader looks at; the file is read-only for everybody."""
        descriptor = os.open(incoming, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444)
        with os.fdopen(descriptor, "wb") as target:
            if isinstance(data, Path):
                with data.open("rb") as source:
                    shutil.copyfileobj(source, target, 1 << 20)
            else:
                target.write(data)
            target.flush()
            os.fsync(descriptor)

    def _publish(self, incoming: Path, target: Path) -> bool:
        """Give a finished file its name, unless the name is taken: a hard link is the atomic form of that."""
        try:
            os.link(incoming, target)
        except FileExistsError:
            if not target.is_file():
                raise
            return False
        _sync(target.parent)
        return True

    def _walk(self, folder: Path, before: str, start: str = "") -> Iterator[str]:
        """Keys below a directory. A directory sorts as its name with ``/``, so the keys come in order."""
        try:
            with os.scandir(folder) as entries:
                found = sorted((entry.name, entry.is_dir()) for entry in entries if not entry.name.startswith("."))
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise self._unavailable("list", before, error) from error
        for name, is_folder in sorted((f"{name}/" if is_folder else name, is_folder) for name, is_folder in found):
            if not name.startswith(start):
                continue
            if is_folder:
                yield from self._walk(folder / name, f"{before}{name}")
            else:
                yield f"{before}{name}"

    @contextmanager
    def _reporting(self, action: str, key: str) -> Iterator[None]:
        """Say what was done to which key of which store when the system refuses."""
        try:
            yield
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            if action == "read":
                raise BlobNotFound(key, self) from None
            raise self._unavailable(action, key, error) from error
        except OSError as error:
            raise self._unavailable(action, key, error) from error

    def _unavailable(self, action: str, key: str, error: OSError) -> StoreUnavailable:
        hint = {
            errno.ENOSPC: "; free some space on that disk",
            errno.EACCES: "; give this user the right to",
            errno.EEXIST: "; the key is also the beginning of other keys",
            errno.ENOTDIR: "; another key is the beginning of this one",
            errno.EPERM: "; the file system must allow hard links",
            errno.EOPNOTSUPP: "; the file system must allow hard links",
        }.get(error.errno or 0, "")
        where = f": {error.filename}" if error.filename else ""
        return StoreUnavailable(f"cannot {action} {key!r} in {self}: {error.strerror or error}{where}{hint}")


def _sync(directory: Path) -> None:
    """Make the names in a directory outlast a power cut."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
