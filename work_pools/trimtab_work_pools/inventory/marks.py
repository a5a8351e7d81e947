"""A few bytes that two processes share: what the one is doing, for the other to read when it hears no more of it."""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Callable

__all__ = ["Mark", "Marks", "unmarked"]

Mark = Callable[[str, str], None]
"""Is told what begins: (key, what)."""
_SIZE = 4096
_HEAD = struct.Struct("<QH")


class Marks:
    """`key` is what is asked (a GPU by the driver's number, "disk"), `what` the call. Writing takes microseconds."""

    def __init__(self, descriptor: int) -> None:
        self._memory = mmap.mmap(descriptor, _SIZE)
        self._count = 0

    @staticmethod
    def made() -> int:
        """A descriptor for both sides."""
        descriptor = os.memfd_create("trimtab-marks", 0)
        os.ftruncate(descriptor, _SIZE)
        return descriptor

    def __call__(self, key: str, what: str) -> None:
        """Says what begins now."""
        self._count += 1
        text = f"{key}\0{what}".encode()[: _SIZE - _HEAD.size]
        self._memory[_HEAD.size : _HEAD.size + len(text)] = text
        _HEAD.pack_into(self._memory, 0, self._count, len(text))

    def read(self) -> tuple[int, str, str]:
        """(how many have begun, key, what) of the last."""
        count, size = _HEAD.unpack_from(self._memory, 0)
        key, _, what = self._memory[_HEAD.size : _HEAD.size + size].decode("utf-8", "replace").partition("\0")
        return count, key, what

    def close(self) -> None:
        self._memory.close()


def unmarked(key: str, what: str) -> None:
    """For who reads in its own process: nobody looks."""
