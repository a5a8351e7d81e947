"""A flow that leaves processes of every kind behind, and writes down which."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from prefect import flow
from prefect.runtime import flow_run

sys.path.insert(0, str(Path(__file__).parent.parent))

from lineage import KINDS, children


@flow
def leaving(folder: str, seconds: float = 0.0, exit_code: int | None = None) -> None:
    """Ends after `seconds`, by itself or with an exit code."""
    path = Path(folder) / f"{flow_run.get_id()}.jsonl"
    left = children(list(KINDS))
    with path.open("a") as file:
        file.write(json.dumps({"what": "start", "at_s": time.time(), "pid": os.getpid(), "left": left}) + "\n")
    time.sleep(seconds)
    if exit_code is not None:
        os._exit(exit_code)
