"""Bytes to and from an S3 server, in parallel parts, with checksums both ways.

Up: each request carries a checksum that the server verifies, and the object the SHA-256 of the whole as metadata.
Down: that SHA-256 is compared before anybody gets to see the blob. It is computed in order while later parts come.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from base64 import b64encode
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from botocore.exceptions import ClientError, IncompleteReadError

from trimtab_blocks.errors import StoreUnavailable
from trimtab_blocks.s3_claims import Claim, claimed
from trimtab_blocks.s3_errors import REQUEST_ERRORS, code_of, said
from trimtab_blocks.s3_requests import Requests
from trimtab_blocks.s3_sinks import Sink

__all__ = ["Source", "Stored", "Target", "download", "upload", "upload_in_parts"]

SHA256, WRITER = "trimtab-sha256", "trimtab-writer"
#: S3's limit. Parts grow beyond the configured size where a blob would need more of them.
MAX_PARTS = 10_000
_SCAN_BYTES = 1 << 20
#: Parts that are asked for beyond the first that has not come, for each thread: a slow one then stops no other.
_AHEAD = 4


@dataclass(frozen=True)
class Target:
    """An object, and the client and sizes that it is moved with."""

    client: Any
    bucket: str
    name: str
    part_bytes: int
    parallel: int
    asked: tuple[tuple[str, str], ...] = ()  # of each object written: its encryption, its storage class
    claim: Claim | None = None  # held while an object in parts becomes visible

    @property
    def address(self) -> dict[str, str]:
        return {"Bucket": self.bucket, "Key": self.name}


@dataclass(frozen=True)
class Stored:
    """What the server says of an object: its bytes, version tag, the SHA-256 and the writer that we gave it."""

    size: int
    etag: str
    sha256: str | None
    writer: str | None

    @classmethod
    def of(cls, answer: dict[str, Any]) -> Stored:
        """From the answer to a HEAD or a GET; with a range, the size is that of the range."""
        ours = answer.get("Metadata", {})
        return cls(int(said(answer, "ContentLength")), str(said(answer, "ETag")), ours.get(SHA256), ours.get(WRITER))


class Source:
    """Bytes, or an open file, that threads can take pieces of."""

    def __init__(self, data: bytes | Path) -> None:
        self._data = data
        self._file = data.open("rb") if isinstance(data, Path) else None
        self._found = os.fstat(self._file.fileno()) if self._file else None
        self.size = self._found.st_size if self._found else len(data)  # type: ignore[arg-type]

    def __enter__(self) -> Source:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._file:
            self._file.close()

    def changed(self) -> bool:
        """Whether the file was written to since it was opened."""
        if not (self._file and self._found):
            return False
        now = os.fstat(self._file.fileno())
        return (now.st_size, now.st_mtime_ns) != (self._found.st_size, self._found.st_mtime_ns)

    def piece(self, offset: int, length: int) -> bytes:
        """That many bytes, or what is left of them."""
        if self._file:
            return os.pread(self._file.fileno(), length, offset)
        assert isinstance(self._data, bytes)
        return self._data[offset : offset + length]


@dataclass(frozen=True)
class _Part:
    number: int
    offset: int
    length: int


def upload(target: Target, ask: Requests, source: Source, writer: str) -> None:
    """Store the source in one request unless the name is taken; raises ClientError (412) if it is."""
    data = source.piece(0, source.size)
    digest = hashlib.sha256(data)
    ask(
        lambda: target.client.put_object(
            **target.address,
            Body=data,
            IfNoneMatch="*",
            ChecksumSHA256=b64encode(digest.digest()).decode(),
            Metadata={SHA256: digest.hexdigest(), WRITER: writer},
            **dict(target.asked),
        )
    )


def upload_in_parts(target: Target, ask: Requests, source: Source, writer: str) -> None:
    """Store the source in parallel parts unless the name is taken; raises ClientError (412) if it is.

    Nothing of the object is visible before the last request, and that one is conditional.
    """
    digest, parts = _scan(source, max(target.part_bytes, -(-source.size // MAX_PARTS)))
    upload_id = ask(
        lambda: said(
            target.client.create_multipart_upload(
                **target.address,
                ChecksumAlgorithm="CRC32",
                Metadata={SHA256: digest, WRITER: writer},
                **dict(target.asked),
            ),
            "UploadId",
        )
    )
    address = {**target.address, "UploadId": upload_id}
    try:
        with ThreadPoolExecutor(target.parallel, "s3-up") as pool:
            sent = list(pool.map(lambda part: _send(target, ask, source, part, address), parts))
        if source.changed():
            raise StoreUnavailable(f"{ask.what}: the file was changed while it was being stored; write it again")
        with claimed(target.claim, ask, writer):
            ask(
                lambda: target.client.complete_multipart_upload(
                    **address, IfNoneMatch="*", MultipartUpload={"Parts": sent}
                )
            )
    except BaseException:
        with suppress(*REQUEST_ERRORS):  # the first error counts; sweep() finds what stays
            target.client.abort_multipart_upload(**address)
        raise


def _scan(source: Source, part_bytes: int) -> tuple[str, list[_Part]]:
    """SHA-256 of the whole, and the parts."""
    whole = hashlib.sha256()
    for offset in range(0, source.size, _SCAN_BYTES):
        whole.update(source.piece(offset, _SCAN_BYTES))
    starts = range(0, source.size, part_bytes)
    parts = [_Part(number, at, min(part_bytes, source.size - at)) for number, at in enumerate(starts, 1)]
    return whole.hexdigest(), parts


def _send(target: Target, ask: Requests, source: Source, part: _Part, address: dict[str, Any]) -> dict[str, Any]:
    """One part; what the completion has to say of it."""
    data = source.piece(part.offset, part.length)
    checksum = b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()
    sending = {**address, "PartNumber": part.number, "Body": data, "ChecksumCRC32": checksum}
    etag = ask(lambda: said(target.client.upload_part(**sending), "ETag"))
    return {"PartNumber": part.number, "ETag": etag, "ChecksumCRC32": checksum}


def download(target: Target, ask: Requests, sink: Sink) -> tuple[Stored, str]:
    """Put the object into the sink; what the server says of it, and the SHA-256 of the bytes that are there now.

    Raises:
        ClientError: there is no object (404), or it was replaced while it was read (412).
        StoreUnavailable: the sink cannot take it.
    """
    stored, body = ask(lambda: _open(target))
    with closing(body):
        sink.begin(stored.size)
        starts = range(0, max(stored.size, 1), target.part_bytes)
        bring = partial(_bring, target, ask, sink, stored, iter([body]))
        digest = hashlib.sha256()
        for offset, length in map(bring, starts) if len(starts) == 1 else _side_by_side(target.parallel, bring, starts):
            for piece in sink.pieces(offset, length):
                digest.update(piece)
    return stored, digest.hexdigest()


def _bring(
    target: Target, ask: Requests, sink: Sink, stored: Stored, first: Iterator[Any], start: int
) -> tuple[int, int]:
    """Put one part into the sink; its place.

    Args:
        first: the body of the first part, of which the head has come; the others need not wait for the rest of it. Once
            only: asked for again, it comes like the others.
    """
    length = min(target.part_bytes, stored.size - start)

    def fetch() -> bytes:
        body = next(first, None) if start == 0 else None
        if body is None and not length:
            return b""
        if body is None:
            span = f"bytes={start}-{start + length - 1}"
            body = target.client.get_object(**target.address, Range=span, IfMatch=stored.etag)["Body"]
        data: bytes = body.read()
        if len(data) < length:
            raise IncompleteReadError(actual_bytes=len(data), expected_bytes=length)
        return data[:length]

    sink.put(start, ask(fetch))
    return start, length


def _open(target: Target) -> tuple[Stored, Any]:
    """What the server says of an object, and the body of the answer, its first part: all of it, mostly."""
    span = {"Range": f"bytes=0-{target.part_bytes - 1}"}
    try:
        answer = target.client.get_object(**target.address, **span)
    except ClientError as error:
        if code_of(error) != "InvalidRange":
            raise
        answer = target.client.get_object(**target.address)  # nothing is the one size without a first byte
    stored = Stored.of(answer)
    if "ContentRange" in answer:
        stored = replace(stored, size=int(answer["ContentRange"].rpartition("/")[2]))
    return stored, answer["Body"]


def _side_by_side(parallel: int, work: Callable[[int], tuple[int, int]], over: range) -> Iterator[tuple[int, int]]:
    """Results in order, of which a bounded number is under way or waiting: a part is still warm when it is read."""
    under_way: deque[Future[tuple[int, int]]] = deque()
    with ThreadPoolExecutor(parallel, "s3-down") as pool:
        try:
            for argument in over:
                if len(under_way) == _AHEAD * parallel:
                    yield under_way.popleft().result()
                under_way.append(pool.submit(work, argument))
            while under_way:
                yield under_way.popleft().result()
        finally:
            for left in under_way:
                left.cancel()
