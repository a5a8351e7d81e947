"""A flow that writes down, in a file a run, what it was given and what became of it."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from prefect import flow
from prefect.runtime import flow_run

NAMES = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "MASTER_ADDR", "MASTER_PORT", "TRIMTAB_NODE", "OMP_NUM_THREADS")


@flow
def recorded(folder: str, seconds: float = 0.0) -> None:
    """Appends a line at its start, at its end, and where it is told to stop; goes on from the second it had reached."""
    path = Path(folder) / f"{flow_run.get_id()}.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    done_s = max((json.loads(line).get("done_s", 0.0) for line in lines), default=0.0)
    given = {name: os.environ.get(name) for name in NAMES}
    write(path, "start", pid=os.getpid(), done_s=done_s, **given)
    try:
        while done_s < seconds:  # counted, not measured: a process that is frozen does not get on
            time.sleep(0.05)
            done_s += 0.05
    except BaseException as stop:
        write(path, type(stop).__name__, done_s=done_s)
        raise
    write(path, "end", pid=os.getpid())


def write(path: Path, what: str, **facts: object) -> None:
    with path.open("a") as file:
        file.write(json.dumps({"at_s": time.time(), "what": what, **facts}) + "\n")
