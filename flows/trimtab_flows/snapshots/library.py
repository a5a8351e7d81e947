"""Immutable tables, found by the digest of their content: Parquet files in a store, verified whenever they are read.

A snapshot is two blobs. The file lies at ``snapshots/<2>/<digest>/<SHA-256 of the file>.parquet``; the descriptor at
``snapshots/<2>/<digest>.json`` names it and is written last: without it there is no snapshot, whatever else a crash
left. The file is hashed before it is parsed, because polars can abort the process on a Parquet file with a flipped bit.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from polars.exceptions import PanicException, PolarsError

from trimtab_blocks.stores import BlobNotFound, Store
from trimtab_flows.snapshots.digest import content_digest

__all__ = ["CorruptSnapshot", "InvalidDigest", "Snapshot", "SnapshotLibrary", "SnapshotNotFound"]

_DIGEST = re.compile(r"[0-9a-f]{64}")
_PREFIX, _SUFFIX = "snapshots/", ".json"


class SnapshotNotFound(KeyError):
    """No snapshot has this digest."""

    def __init__(self, digest: str, store: object) -> None:
        self.digest = digest
        super().__init__(f"snapshot {digest} is not in {store}")

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
            f"or remove what lies under {_PREFIX}{digest[:2]}/{digest} there and make it again"
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
    """A snapshot and the SHA-256 of the file that holds it."""

    snapshot: Snapshot
    file: str

    @property
    def key(self) -> str:
        digest = self.snapshot.digest
        return f"{_PREFIX}{digest[:2]}/{digest}/{self.file}.parquet"

    def to_json(self) -> bytes:
        found = self.snapshot
        fields = {"digest": found.digest, "rows": found.rows, "columns": found.columns, "bytes": found.bytes}
        fields["file_sha256"] = self.file
        return json.dumps({**fields, "checksum": _checksum(fields)}, indent=1).encode()

    @classmethod
    def from_json(cls, text: bytes) -> _Descriptor:
        """Read what ``to_json`` wrote; raises LookupError, TypeError or ValueError on anything else."""
        fields: dict[str, Any] = json.loads(text)
        digest, rows, columns, size = (fields[name] for name in ("digest", "rows", "columns", "bytes"))
        file, checksum = fields["file_sha256"], fields.pop("checksum")
        if checksum != _checksum(fields):
            raise ValueError("its checksum does not fit")
        if not (_DIGEST.fullmatch(digest) and _DIGEST.fullmatch(file)):
            raise ValueError("a digest in it is not 64 hexadecimal characters")
        return cls(Snapshot(digest, int(rows), tuple(map(str, columns)), int(size)), file)


class SnapshotLibrary:
    """Tables in a store, by the digest of their content."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def put(self, frame: pl.DataFrame) -> Snapshot:
        """Store a table. The same content is stored once, however often and from wherever it comes.

        Raises:
            UnsupportedColumn: a column holds what Parquet cannot.
        """
        digest = content_digest(frame)
        if self.store.exists(_key(digest)):
            return self.describe(digest)
        with tempfile.TemporaryDirectory(prefix="trimtab-snapshot-") as directory:
            file = Path(directory) / "snapshot.parquet"
            frame.write_parquet(file, compression="zstd")
            stored = Snapshot(digest, frame.height, tuple(frame.columns), file.stat().st_size)
            descriptor = _Descriptor(stored, _file_digest(file))
            self.store.write_once(descriptor.key, file)
        if not self.store.write_once(_key(digest), descriptor.to_json()):
            return self.describe(digest)  # another writer was faster; its file is the one that counts
        return stored

    def get(self, digest: str) -> pl.DataFrame:
        """The table, after its content was found to have this digest.

        Raises:
            SnapshotNotFound: there is none.
            CorruptSnapshot: its file is lost or altered, or holds other data.
            InvalidDigest: the text is no digest.
        """
        descriptor = self._descriptor(digest)
        try:
            with self.store.local(descriptor.key) as file:
                found = _file_digest(file)
                if found != descriptor.file:
                    raise self._corrupt(digest, f"its file {descriptor.key} was altered: its SHA-256 is now {found}")
                frame = pl.read_parquet(file, hive_partitioning=False)
        except BlobNotFound:
            raise self._corrupt(digest, f"its file {descriptor.key} is lost") from None
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

    def digests(self) -> Iterator[str]:
        """Digests of all snapshots, sorted."""
        for key in self.store.keys(_PREFIX):
            name = key.rpartition("/")[2].removesuffix(_SUFFIX)
            if _DIGEST.fullmatch(name) and key == _key(name):
                yield name

    def _descriptor(self, digest: str) -> _Descriptor:
        key = _key(digest)
        try:
            descriptor = _Descriptor.from_json(self.store.read(key))
        except BlobNotFound:
            raise SnapshotNotFound(digest, self.store) from None
        except (LookupError, TypeError, ValueError) as error:
            raise self._corrupt(digest, f"its descriptor {key} cannot be read ({error})") from error
        if descriptor.snapshot.digest != digest:
            raise self._corrupt(digest, f"its descriptor {key} is that of {descriptor.snapshot.digest}")
        return descriptor

    def _corrupt(self, digest: str, reason: str) -> CorruptSnapshot:
        return CorruptSnapshot(digest, reason, self.store)


def _key(digest: str) -> str:
    """Key of the descriptor."""
    if not _DIGEST.fullmatch(digest):
        raise InvalidDigest(f"{digest!r} is no digest of a snapshot: that is 64 hexadecimal characters, lower case")
    return f"{_PREFIX}{digest[:2]}/{digest}{_SUFFIX}"


def _checksum(fields: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def _file_digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
