"""TLS contexts made before they are asked for.

Every client of Prefect's makes one when it is created, whether or not its server speaks TLS, and OpenSSL 3 takes 33 ms
to read the certificates that it trusts into one. From "scheduled" to the first line of a flow eight clients are
created, two in the worker and six in the run: a quarter of a second.

A context is given out once: what a client changes about its own (a client certificate, no verification) is nobody
else's.
"""

from __future__ import annotations

import contextlib
import os
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["ReadyContexts"]

_LATER_S = 1.0
"""New ones are made so long after one was taken: not while what needed it is being started."""


class ReadyContexts:
    """Stands in for `ssl.create_default_context`, in this process and in those forked from it.

    Args:
        cafile: the certificates to trust; contexts for others are made when they are asked for.
        count: how many contexts are held.
        refill: whether a thread makes new ones when the last are in use. A process that forks must have no thread.
    """

    def __init__(self, cafile: str, count: int, *, refill: bool = False) -> None:
        self._cafile, self._count, self._refill = cafile, count, refill
        self._make: Callable[..., ssl.SSLContext] = ssl.create_default_context
        self._ready: list[ssl.SSLContext] = []
        self._read_of: tuple[int, int] = (0, 0)
        self._filling = threading.Lock()
        self._fills = False

    def install(self) -> None:
        """Makes the contexts, and gives them out from now on."""
        self._make = ssl.create_default_context
        self._fill()
        ssl.create_default_context = self.create_default_context

    def uninstall(self) -> None:
        """What was there before is there again."""
        if ssl.create_default_context == self.create_default_context:
            ssl.create_default_context = self._make

    def create_default_context(
        self,
        purpose: ssl.Purpose = ssl.Purpose.SERVER_AUTH,
        *,
        cafile: Any = None,
        capath: Any = None,
        cadata: Any = None,
    ) -> ssl.SSLContext:
        """As `ssl.create_default_context`: one that is ready, where it is what would be made now."""
        if (purpose, cafile, capath, cadata) == (ssl.Purpose.SERVER_AUTH, self._cafile, None, None):
            context = self._take()
            if context is not None:
                return context
        return self._make(purpose, cafile=cafile, capath=capath, cadata=cadata)

    def _take(self) -> ssl.SSLContext | None:
        if os.environ.get("SSLKEYLOGFILE"):  # read when a context is made
            return None
        if _state(self._cafile) != self._read_of:
            self._ready.clear()
        try:
            context = self._ready.pop()
        except IndexError:
            context = None
        if self._refill and not self._fills:
            self._fills = True
            filler = threading.Timer(_LATER_S, self._fill)
            filler.name, filler.daemon = "tls-contexts", True
            filler.start()
        return context

    def _fill(self) -> None:
        with self._filling:
            self._fills = False
            self._read_of = _state(self._cafile)
            # A client that trusts this file will say what is wrong with it.
            with contextlib.suppress(OSError, ssl.SSLError):
                while len(self._ready) < self._count:
                    self._ready.append(self._make(cafile=self._cafile))


def _state(path: str) -> tuple[int, int]:
    try:
        found = Path(path).stat()
    except OSError:
        return (0, 0)
    return (found.st_mtime_ns, found.st_size)
