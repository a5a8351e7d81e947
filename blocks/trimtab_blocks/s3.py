"""A store in a bucket of an S3 server: Amazon's, or any that honours conditional writes.

What a stored object carries: the SHA-256 of its content, compared whenever it is read whole, and the id of the write
that made it, so that a write whose answer was lost knows its own work when it asks again.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import IO, Any, ClassVar, Literal

from prefect.blocks.core import Block
from pydantic import ConfigDict, Field, SecretStr, field_validator, model_validator

from trimtab_blocks.errors import BlobNotFound, CorruptBlob, InvalidKey, StoreError, StoreUnavailable
from trimtab_blocks.s3_claims import Claim
from trimtab_blocks.s3_errors import MISSING, REQUEST_ERRORS, code_of, explain
from trimtab_blocks.s3_objects import PROBE, abort, fetch, find, listing, uploads, write
from trimtab_blocks.s3_requests import Connection, Requests, client_of
from trimtab_blocks.s3_sinks import FileSink, MemorySink, Sink
from trimtab_blocks.s3_transfer import Source, Target
from trimtab_blocks.stores import Blob, Store, check_key

__all__ = ["S3Store"]

#: Where writers of large blobs meet; no key has a part that begins with a dot.
CLAIMS = ".trimtab-claims/"
#: What ``encryption`` asks the server for.
_ENCRYPTION = {"SSE-S3": {"ServerSideEncryption": "AES256"}, "SSE-KMS": {"ServerSideEncryption": "aws:kms"}}


class S3Store(Block, Store):
    """A store in a bucket. A server that hangs or says "not now" is waited for, ``patience_s`` long."""

    _block_type_name: ClassVar[str] = "Trimtab S3 store"
    _block_type_slug: ClassVar[str] = "trimtab-s3-store"
    _description: ClassVar[str] = "Keeps snapshots, lineage and manifests as immutable objects in an S3 bucket."

    #: What a person typed shows in no error: it may be a secret.
    model_config = ConfigDict(hide_input_in_errors=True)

    bucket: str = Field(min_length=3, max_length=63, description="The bucket; it must exist.")
    prefix: str = Field(default="", description="Beginning of the name of every object, for example team-a/trimtab")
    endpoint_url: str | None = Field(default=None, description="Address of the server; none: Amazon's, by region.")
    region: str | None = Field(default=None, description="Region of the bucket; none: as the standard chain says.")
    ca_bundle: Path | None = Field(default=None, description="Certificates to trust instead of the usual ones.")
    path_style: bool | None = Field(
        default=None, description="Bucket in the path of the address, not in the host; none: with an endpoint_url, yes."
    )
    access_key_id: SecretStr | None = Field(default=None, description="None: credentials by the standard chain.")
    secret_access_key: SecretStr | None = Field(default=None, description="Belongs to access_key_id.")
    session_token: SecretStr | None = Field(default=None, description="Only with temporary credentials.")
    encryption: Literal["SSE-S3", "SSE-KMS"] | None = Field(
        default=None, description="Encryption at rest that is asked for; none: what the bucket does by itself."
    )
    kms_key_id: str | None = Field(default=None, description="Key for SSE-KMS; none: the account's own.")
    storage_class: Literal["STANDARD", "STANDARD_IA", "ONEZONE_IA", "INTELLIGENT_TIERING", "GLACIER_IR"] | None = Field(
        default=None, description="Of the objects that are written; only classes that can be read at once."
    )
    patience_s: float = Field(default=120, ge=0, description="How long a server that is away is waited for.")
    connect_timeout_s: float = Field(default=5, gt=0, description="How long a connection may take.")
    read_timeout_s: float = Field(default=30, gt=0, description="How long an answer may make no progress.")
    part_mib: int = Field(default=16, ge=5, le=512, description="Larger blobs are moved in parts of this size.")
    parallel: int = Field(default=8, ge=1, le=64, description="Parts that are moved at a time.")

    @model_validator(mode="before")
    @classmethod
    def _knows_them_all(cls, settings: dict[str, Any]) -> dict[str, Any]:
        # Blocks take anything, and would keep a secret under a misspelled name in plain sight.
        unknown = set(settings) - set(cls.model_fields) - {"block_type_slug"}
        if unknown:
            raise ValueError(
                f"no setting is called {', '.join(sorted(unknown))}; there are {', '.join(cls.model_fields)}"
            )
        return settings

    @field_validator("prefix")
    @classmethod
    def _is_prefix(cls, prefix: str) -> str:
        plain = prefix.strip("/")
        if len(plain.encode()) > 120:
            raise ValueError(f"prefix has {len(plain.encode())} bytes; it may have 120")
        return f"{check_key(plain)}/" if plain else ""

    @field_validator("endpoint_url")
    @classmethod
    def _is_address(cls, url: str | None) -> str | None:
        if url is None or re.fullmatch(r"https?://[^/@?#\s]+/?", url):
            return url.rstrip("/") if url else None
        raise ValueError(
            "endpoint_url must look like https://host:port, without a path; credentials belong in "
            "access_key_id and secret_access_key, the bucket in bucket"
        )

    @model_validator(mode="after")
    def _fits_together(self) -> S3Store:
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise ValueError("access_key_id and secret_access_key come together, or neither (the standard chain)")
        if self.session_token is not None and self.access_key_id is None:
            raise ValueError("session_token needs its access_key_id and secret_access_key")
        if self.kms_key_id is not None and self.encryption != "SSE-KMS":
            raise ValueError("kms_key_id needs encryption SSE-KMS")
        return self

    def __str__(self) -> str:
        where = f" at {self.endpoint_url}" if self.endpoint_url else ""
        return f"S3 store s3://{self.bucket}/{self.prefix}".rstrip("/") + where

    def write_once(self, key: str, data: bytes | Path) -> bool:
        """See ``Store``. Larger blobs go up in parallel parts, which become visible together or not at all."""
        target = self._target(key)
        with self._asking("write", key) as ask:
            try:
                source = Source(data)
            except OSError as error:
                raise StoreUnavailable(f"{ask.what}: {error.strerror}: {error.filename}") from error
            with source:
                return write(target, self._object(PROBE), ask, source)

    def read(self, key: str) -> bytes:
        """See ``Store``. The SHA-256 is compared."""
        sink = MemorySink()
        self._fetch(key, sink)
        return sink.value()

    def exists(self, key: str) -> bool:
        """See ``Store``."""
        target = self._target(key)
        with self._asking("look for", key) as ask:
            return find(target, ask) is not None

    def keys(self, prefix: str = "") -> Iterator[str]:
        """See ``Store``. All of them are in memory before the first comes: servers differ in how they sort."""
        return (blob.key for blob in self.blobs(prefix))

    def blobs(self, prefix: str = "") -> Iterator[Blob]:
        """See ``Store`` and ``keys``."""
        check_key(prefix, prefix=True)
        with self._asking("list", "") as ask:
            found = [
                Blob(entry["Key"].removeprefix(self.prefix), int(entry["Size"]), entry["LastModified"].astimezone(UTC))
                for entry in listing(client_of(self._connection), ask, self.bucket, f"{self.prefix}{prefix}")
            ]
        return iter(sorted((blob for blob in found if _is_ours(blob.key)), key=lambda blob: blob.key.encode()))

    def size(self, key: str) -> int:
        """See ``Store``."""
        target = self._target(key)
        with self._asking("look for", key) as ask:
            stored = find(target, ask)
        if stored is None:
            raise BlobNotFound(key, self)
        return stored.size

    @contextmanager
    def local(self, key: str) -> Iterator[Path]:
        """See ``Store``. A temporary copy, whose SHA-256 was compared."""
        with tempfile.NamedTemporaryFile(prefix="trimtab-blob-", suffix=PurePosixPath(key).suffix) as file:
            self.fill(key, file)
            yield Path(file.name)

    def fill(self, key: str, file: IO[bytes]) -> str:
        """See ``Store``. The parts come at the same time, each to its place."""
        return self._fetch(key, FileSink(file.fileno(), f"cannot keep a copy of {key!r}"))

    def remove(self, key: str) -> None:
        """See ``Store``. In a bucket with versions the last one stays, hidden."""
        target = self._target(key)
        with self._asking("remove", key) as ask:
            ask(lambda: target.client.delete_object(**target.address))

    def sweep(self, older_than: timedelta) -> int:
        """See ``Store``. Aborts uploads in parts that were begun before, and so frees what they take up."""
        limit = datetime.now(UTC) - older_than
        client = client_of(self._connection)
        with self._asking("sweep", "") as ask:
            begun = list(uploads(client, ask, self.bucket, self.prefix))
            return sum(abort(client, ask, self.bucket, one) for one in begun if one["Initiated"] <= limit)

    @property
    def _connection(self) -> Connection:
        return Connection(
            endpoint_url=self.endpoint_url,
            region=self.region,
            ca_bundle=str(self.ca_bundle) if self.ca_bundle else None,
            addressing=self._addressing,
            access_key_id=self.access_key_id,
            secret_access_key=self.secret_access_key,
            session_token=self.session_token,
            connect_timeout_s=self.connect_timeout_s,
            read_timeout_s=self.read_timeout_s,
            parallel=self.parallel,
        )

    @property
    def _addressing(self) -> str:
        if self.path_style is None:
            return "path" if self.endpoint_url else "auto"
        return "path" if self.path_style else "virtual"

    def _target(self, key: str) -> Target:
        target = self._object(check_key(key))
        if self.endpoint_url is None:
            return target  # Amazon's own decides between writers by itself
        name = f"{self.prefix}{CLAIMS}{hashlib.sha256(key.encode()).hexdigest()}"
        return replace(target, claim=Claim(target.client, self.bucket, name))

    def _object(self, name: str) -> Target:
        asked = dict(_ENCRYPTION.get(self.encryption or "", {}))
        if self.kms_key_id:
            asked["SSEKMSKeyId"] = self.kms_key_id
        if self.storage_class:
            asked["StorageClass"] = self.storage_class
        return Target(
            client_of(self._connection),
            self.bucket,
            f"{self.prefix}{name}",
            self.part_mib << 20,
            self.parallel,
            tuple(asked.items()),
        )

    @contextmanager
    def _asking(self, action: str, key: str) -> Iterator[Requests]:
        """Requests for one operation; what they fail with says which, on which key of which store."""
        ask = Requests(f"cannot {action} {key!r} in {self}" if key else f"cannot {action} {self}", self.patience_s)
        try:
            yield ask
        except StoreError:
            raise
        except REQUEST_ERRORS as error:
            if key and code_of(error) in MISSING:
                raise BlobNotFound(key, self) from None
            raise explain(error, ask.what) from error

    def _fetch(self, key: str, sink: Sink) -> str:
        """SHA-256 of what came, which is what the object carries."""
        target = self._target(key)
        with self._asking("read", key) as ask:
            found, wrong = fetch(target, ask, sink)
        if wrong:
            raise CorruptBlob(key, self, wrong)
        return found


def _is_ours(key: str) -> bool:
    """Objects of other programs, and the probe, are no blobs."""
    try:
        check_key(key)
    except InvalidKey:
        return False
    return True
