"""The flow of `trimtab bench fleet`: writes down what it was given, and every quarter of a second that it is alive."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from prefect import flow
from prefect.runtime import flow_run


@flow
def recorded(folder: str, seconds: float, share: float) -> None:
    """Works for so many seconds, counted in steps, so that a process that was frozen does not skip any.

    One file for each stretch of a run: lines of JSON with the time (s since the epoch).
    """
    given = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    facts = {"run": flow_run.get_id(), "node": os.environ["TRIMTAB_NODE"], "gpus": given.split(","), "share": share}
    path = Path(folder) / f"{facts['run']}-{os.environ['TRIMTAB_CLAIM']}.jsonl"
    with path.open("a", buffering=1) as file:
        file.write(json.dumps({"at_s": time.time(), **facts}) + "\n")
        for _ in range(round(seconds / 0.25) or 1):
            time.sleep(0.25)
            file.write(json.dumps({"at_s": time.time()}) + "\n")
        file.write(json.dumps({"at_s": time.time(), "end": True}) + "\n")
