"""A flow that ends badly, in a way of choice, for the first so many times that it starts."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

import numpy as np
from prefect import flow, task
from prefect.runtime import flow_run
from prefect.states import State


@task
def part() -> None:
    """Fails with the words of PyTorch."""
    raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")


@flow
def failing(folder: str, seconds: float, how: str, times: int = 1) -> list[State[None]] | None:
    """Writes a line for each start."""
    path = Path(folder) / f"{flow_run.get_id()}.starts"
    with path.open("a") as file:
        file.write(f"{os.environ.get('TRIMTAB_NODE')} {os.environ.get('CUDA_VISIBLE_DEVICES')}\n")
    if len(path.read_text().splitlines()) > times:
        return None
    if how == "host memory":
        np.empty(1 << 50).fill(1)
    elif how == "gpu memory":
        raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")  # the words of PyTorch
    elif how == "task":
        return [part(return_state=True)]  # "1/1 states failed."
    elif how == "crash":
        sys.stderr.flush()
        signal.signal(signal.SIGSEGV, signal.SIG_DFL)
        ctypes.string_at(0)
    elif how == "own":
        raise ValueError("labels are all equal")
    return None
