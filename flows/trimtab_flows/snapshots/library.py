"""Immutable tables, found by the digest of their content: Parquet files in a store, verified whenever they are read.

A snapshot is two blobs (``trimtab_blocks.keys``): a file, and a descriptor that names it and is written last: without
it there is no snapshot, whatever else a crash left. The file is hashed before it is parsed, because polars can abort
the process on a Parquet file with a flipped bit.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
from polars.exceptions import PanicException, PolarsError

from trimtab_blocks.errors import BlobNotFound, CorruptBlob, StoreError
from trimtab_blocks.keys import SNAPSHOTS, data_key, descriptor_key
from trimtab_blocks.stores import Store
from trimtab_flows.snapshots.digest import content_digest
from trimtab_flows.snapshots.uses import Uses

__all__ = ["CorruptSnapshot", "InvalidDigest", "Snapshot", "SnapshotLibrary", "SnapshotNotFound", "gone_key"]

_logger = logging.getLogger(__name__)
_DIGEST = re.compile(r"[0-9a-f]{64}")
_MARK = re.compile(r"(?:[0-9a-f]{8})?")
_SUFFIX = ".json"
#: Garbage collection spares what is younger than a day.
_JUST_NOW = timedelta(hours=1)


class SnapshotNotFound(KeyError):
    """No snapshot has this digest."""

    def __init__(self, digest: str, store: object, why: str = "") -> None:
        self.digest = digest
        super().__init__(f"snapshot {digest} is not in {store}{why}")

    def __str__(self) -> str:
        return str(self.args[0])


class InvalidDigest(ValueError):
    """A text that is no digest."""


class CorruptSnapshot(ValueError):
    """A stored snapshot that does not hold the data it is named after."""

    def __init__(self, digest: str, reason: str, store: object) -> None:
        self.digest = digest
        self.reason = reason
        super().__init__(
            f"snapshot {digest} is corrupt and was not used: {reason}; restore it in {store}, "
            "or make it again: putting the same table replaces it"
        )


@dataclass(frozen=True)
class Snapshot:
    """A stored table: SHA-256 of its content, its rows, the names of its columns, and the bytes of its file."""

    digest: str
    rows: int
    columns: tuple[str, ...]
    bytes: int


@dataclass(frozen=True)
class _Descriptor:
    """A snapshot, the SHA-256 of the file that holds it, and the mark in the file's name."""

    snapshot: Snapshot
    file: str
    mark: str = ""

    @property
    def key(self) -> str:
        return data_key(self.snapshot.digest, self.file, self.mark)

    def to_json(self) -> bytes:
        found = self.snapshot
        fields = {"digest": found.digest, "rows": found.rows, "columns": found.columns, "bytes": found.bytes}
        fields["file_sha256"] = self.file
        if self.mark:
            fields["file_mark"] = self.mark
        return json.dumps({**fields, "checksum": _checksum(fields)}, indent=1).encode()

    @classmethod
    def from_json(cls, text: bytes) -> _Descriptor:
        """Read what ``to_json`` wrote; raises LookupError, TypeError or ValueError on anything else."""
        fields: dict[str, Any] = json.loads(text)
        digest, rows, columns, size = (fields[name] for name in ("digest", "rows", "columns", "bytes"))
        file, mark, checksum = fields["file_sha256"], fields.get("file_mark", ""), fields.pop("checksum")
        if checksum != _checksum(fields):
            raise ValueError("its checksum does not fit")
        if not (_DIGEST.fullmatch(digest) and _DIGEST.fullmatch(file) and _MARK.fullmatch(mark)):
            raise ValueError("a digest in it is not 64 hexadecimal characters")
        return cls(Snapshot(digest, int(rows), tuple(map(str, columns)), int(size)), file, mark)


class SnapshotLibrary:
    """Tables in a store, by the digest of their content."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.uses = Uses(store)

    def put(self, frame: pl.DataFrame) -> Snapshot:
        """Store a table. The same content is stored once, however often and from wherever it comes.

        What is stored already is verified, and replaced where it is not what it should be.

        Raises:
            UnsupportedColumn: a column holds what Parquet cannot.
        """
        digest = content_digest(frame)
        kept = self._kept(digest)
        if kept is not None:
            return kept
        with tempfile.TemporaryDirectory(prefix="trimtab-snapshot-") as directory:
            file = Path(directory) / "snapshot.parquet"
            frame.write_parquet(file, compression="zstd")
            stored = Snapshot(digest, frame.height, tuple(frame.columns), file.stat().st_size)
            descriptor = _Descriptor(stored, _file_digest(file))
            if not self.store.write_once(descriptor.key, file) and not self._reliable(descriptor):
                descriptor = _Descriptor(stored, descriptor.file, uuid.uuid4().hex[:8])
                self.store.write_once(descriptor.key, file)
        if not self.store.write_once(_key(digest), descriptor.to_json()):
            return self.describe(digest)  # another writer was faster; its file is the one that counts
        return stored

    def _reliable(self, descriptor: _Descriptor) -> bool:
        """Whether a file that lies there without its descriptor is another writer's of just now, and whole.

        Else a writer that died left it, or it is about to be replaced as corrupt, or to be removed as garbage.
        """
        found = next(self.store.blobs(descriptor.key), None)
        if found is None or datetime.now(UTC) - found.written_at > _JUST_NOW:
            return False
        with suppress(BlobNotFound):
            return self.store.fault(descriptor.key, descriptor.snapshot.bytes, descriptor.file) is None
        return False

    def _kept(self, digest: str) -> Snapshot | None:
        """What is stored and whole; what is not makes room."""
        if not self.store.exists(_key(digest)):
            return None
        self.uses.mark(digest)  # before it is looked at: see there
        try:
            descriptor = self._descriptor(digest)
            wrong = self.store.fault(descriptor.key, descriptor.snapshot.bytes, descriptor.file)
        except SnapshotNotFound:
            return None
        except CorruptSnapshot as error:
            wrong = error.reason
        except BlobNotFound:
            wrong = "its file is lost"
        if wrong is None:
            return descriptor.snapshot
        _logger.warning("snapshot %s in %s is corrupt and is made again: %s", digest, self.store, wrong)
        self.store.remove(_key(digest))
        return None

    def get(self, digest: str) -> pl.DataFrame:
        """The table, after its content was found to have this digest.

        Raises:
            SnapshotNotFound: there is none.
            CorruptSnapshot: its file is lost or altered, or holds other data.
            InvalidDigest: the text is no digest.
        """
        descriptor = self._descriptor(digest)
        with suppress(StoreError):  # who may only read reads
            self.uses.mark(digest)
        try:
            with self.store.local(descriptor.key) as file:
                found = _file_digest(file)
                if found != descriptor.file:
                    raise self._corrupt(digest, f"its file {descriptor.key} was altered: its SHA-256 is now {found}")
                frame = pl.read_parquet(file, hive_partitioning=False)
        except BlobNotFound:
            raise self._corrupt(digest, f"its file {descriptor.key} is lost") from None
        except CorruptBlob as error:
            raise self._corrupt(digest, f"its file {descriptor.key} was altered: {error.reason}") from error
        except (PolarsError, PanicException) as error:
            raise self._corrupt(digest, f"polars {pl.__version__} cannot read {descriptor.key}: {error}") from error
        content = content_digest(frame)
        if content != digest:
            raise self._corrupt(digest, f"what polars {pl.__version__} reads from it has the digest {content}")
        return frame

    def describe(self, digest: str) -> Snapshot:
        """What is stored under a digest; the data itself is not read.

        Raises:
            SnapshotNotFound: there is none.
            CorruptSnapshot: its descriptor cannot be read.
            InvalidDigest: the text is no digest.
        """
        return self._descriptor(digest).snapshot

    def exists(self, digest: str) -> bool:
        """Whether a snapshot has this digest."""
        return self.store.exists(_key(digest))

    def rely_on(self, digest: str) -> bool:
        """Whether a snapshot is there, which from now on counts as used: garbage collection leaves it alone."""
        self.uses.mark(digest)  # before it is looked for: see there
        return self.exists(digest)

    def digests(self) -> Iterator[str]:
        """Digests of all snapshots, sorted."""
        for key in self.store.keys(SNAPSHOTS):
            name = key.rpartition("/")[2].removesuffix(_SUFFIX)
            if _DIGEST.fullmatch(name) and key == _key(name):
                yield name

    def _descriptor(self, digest: str) -> _Descriptor:
        key = _key(digest)
        try:
            descriptor = _Descriptor.from_json(self.store.read(key))
        except BlobNotFound:
            raise SnapshotNotFound(digest, self.store, self._why_gone(digest)) from None
        except (LookupError, TypeError, ValueError) as error:
            raise self._corrupt(digest, f"its descriptor {key} cannot be read ({error})") from error
        if descriptor.snapshot.digest != digest:
            raise self._corrupt(digest, f"its descriptor {key} is that of {descriptor.snapshot.digest}")
        return descriptor

    def file_of(self, digest: str) -> str:
        """Key of the data file; it is not read. Raises as ``describe``."""
        return self._descriptor(digest).key

    def could_be(self, digest: str, record: bytes) -> bool:
        """Whether this is a descriptor of the snapshot, and its file is still there."""
        with suppress(LookupError, TypeError, ValueError):
            descriptor = _Descriptor.from_json(record)
            return descriptor.snapshot.digest == digest and self.store.exists(descriptor.key)
        return False

    def _why_gone(self, digest: str) -> str:
        """When and why a snapshot was removed (``garbage.removing``); "" where that is not known."""
        with suppress(StoreError, ValueError, LookupError):
            note = json.loads(self.store.read(gone_key(digest)))
            return f": it was removed at {note['at']}, since {note['why']}"
        return ""

    def _corrupt(self, digest: str, reason: str) -> CorruptSnapshot:
        return CorruptSnapshot(digest, reason, self.store)


def gone_key(digest: str) -> str:
    """Where the note of a snapshot's removal lies."""
    return f"gone/{digest}.json"


def _key(digest: str) -> str:
    """Key of the descriptor."""
    if not _DIGEST.fullmatch(digest):
        raise InvalidDigest(f"{digest!r} is no digest of a snapshot: that is 64 hexadecimal characters, lower case")
    return descriptor_key(digest)


def _checksum(fields: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def _file_digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
