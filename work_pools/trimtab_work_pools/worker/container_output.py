"""What a container prints, all of it: also its last line, and what came while the engine was away."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable

__all__ = ["Shown"]

_RECENT = 65_536
"""Bytes that are remembered of what was shown last."""


class Shown:
    """Of one container. Text that ends amid a character waits for the rest of it; what is no text is marked."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._recent, self._count, self._text = b"", 0, ""

    def follow(self, parts: Iterable[bytes]) -> None:
        """Shows them as they come."""
        for part in parts:
            self._recent = (self._recent + part)[-_RECENT:]
            self._count += len(part)
            self._show(self._decoder.decode(part))

    def complete(self, last: bytes, everything: Callable[[], bytes]) -> None:
        """The container has ended: shows what is missing. `last`: of its output, as the engine has it; `everything`:
        the whole, which is read only if that was not what was shown last.
        """
        if last and not self._recent.endswith(last[-_RECENT:]):
            self.follow([everything()[self._count :]])
        self._show(self._decoder.decode(b"", final=True))
        if self._text and not self._text.endswith("\n"):
            self._show("\n")

    def _show(self, text: str) -> None:
        if text:
            self._text = text
            self._write(text)
