"""Where a download from an S3 server goes: parts in any order from several threads, read again in order to be hashed.

What is hashed of a file is what lies in it, not what came: a part in the wrong place would be noticed too. Reading it
again while it is warm costs a tenth of hashing it, and no part has to wait for those before it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Protocol

from trimtab_blocks.errors import StoreUnavailable

__all__ = ["FileSink", "MemorySink", "Sink"]

#: Hashed at a time. Small pieces are no quicker, and each asks for Python's lock again while the threads hold it.
_PIECE_BYTES = 1 << 23


class Sink(Protocol):
    """Where a download goes. It may be begun again."""

    def begin(self, size: int) -> None:
        """So many bytes will come; what came before counts no more."""

    def put(self, offset: int, data: bytes) -> None:
        """A part of them; several threads may do so at a time."""

    def pieces(self, offset: int, length: int) -> Iterator[bytes | memoryview]:
        """What was put there, in order. Each piece is good until the next is asked for."""


class MemorySink:
    """Keeps the parts in memory; ``value`` has them all."""

    def __init__(self) -> None:
        self._parts: dict[int, bytes] = {}

    def begin(self, size: int) -> None:  # noqa: ARG002 - parts bring their own
        """See ``Sink``."""
        self._parts = {}

    def put(self, offset: int, data: bytes) -> None:
        """See ``Sink``."""
        self._parts[offset] = data

    def pieces(self, offset: int, length: int) -> Iterator[bytes | memoryview]:
        """See ``Sink``: a part as it was put."""
        yield self._parts[offset][:length]

    def value(self) -> bytes:
        """All of it."""
        return b"".join(self._parts[offset] for offset in sorted(self._parts))


class FileSink:
    """Writes the parts to an open file, each at its place.

    Args:
        descriptor: of a file that is open for writing and reading.
        what: how an error of the disk begins: "cannot keep a copy of 'a'".
    """

    def __init__(self, descriptor: int, what: str) -> None:
        self._descriptor = descriptor
        self._what = what
        self._buffer = memoryview(b"")

    def begin(self, size: int) -> None:
        """See ``Sink``."""
        try:
            os.ftruncate(self._descriptor, size)
        except OSError as error:
            raise self._failed(error) from error

    def put(self, offset: int, data: bytes) -> None:
        """See ``Sink``."""
        left = memoryview(data)
        try:
            while left:
                written = os.pwrite(self._descriptor, left, offset)
                left, offset = left[written:], offset + written
        except OSError as error:
            raise self._failed(error) from error

    def pieces(self, offset: int, length: int) -> Iterator[bytes | memoryview]:
        """See ``Sink``: what the file has there."""
        wanted, end = min(length, _PIECE_BYTES), offset + length
        if len(self._buffer) < wanted:
            self._buffer = memoryview(bytearray(wanted))
        while offset < end:
            try:
                read = os.preadv(self._descriptor, [self._buffer[: end - offset]], offset)
            except OSError as error:
                raise self._failed(error) from error
            if not read:
                raise StoreUnavailable(f"{self._what}: another process made its file shorter")
            yield self._buffer[:read]
            offset += read

    def _failed(self, error: OSError) -> StoreUnavailable:
        return StoreUnavailable(f"{self._what} on this machine: {error.strerror or error}")
