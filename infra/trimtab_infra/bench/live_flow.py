"""The flow of `bench live`: writes down when its first line ran."""

from __future__ import annotations

import time
from pathlib import Path

from prefect import flow

__all__ = ["mark"]


@flow
def mark(file: str, wait_s: float = 0.0) -> None:
    """The time (s since the epoch) of the first line of the flow into `file`, in one step; then wait."""
    now_s = time.time()
    draft = Path(f"{file}.draft")
    draft.write_text(repr(now_s))
    draft.rename(file)
    time.sleep(wait_s)
