"""What the flows touch that is private of Prefect; `tests/flows/test_prefect_hooks.py` fails when Prefect moves it."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from prefect.utilities import engine

__all__ = ["handling_sigterm"]

_HANDLER, _LOCK = "_prefect_sigterm_handler", "_prefect_sigterm_bridge_lock"


@contextmanager
def handling_sigterm(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Has `handler` take SIGTERM in the body, in the name of Prefect if it is Prefect that takes it now.

    Under `prefect flow-run execute` (containers), the process above the flow asks it whether Prefect's own handler is
    there before it sends SIGTERM; if not, it kills the flow at once, and what was done since the last checkpoint is
    lost. Prefect compares by identity, so for that time ours stands where it keeps its own.

    Raises ValueError outside the main thread.
    """
    with getattr(engine, _LOCK):
        before = signal.signal(signal.SIGTERM, handler)
        of_prefect = before is getattr(engine, _HANDLER)
        if of_prefect:
            setattr(engine, _HANDLER, handler)
    try:
        yield
    finally:
        with getattr(engine, _LOCK):
            if of_prefect:
                setattr(engine, _HANDLER, before)
            signal.signal(signal.SIGTERM, before)
