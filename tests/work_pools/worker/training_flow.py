"""A training that goes on where it was: stochastic gradient descent, its weights and random numbers in checkpoints."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np
from prefect import flow

from trimtab_blocks.stores import DirectoryStore
from trimtab_flows.checkpoint import Checkpoints


@flow
def training(folder: str, seconds: float, steps: int = 120) -> None:
    """Takes ``seconds`` for all its steps; writes down each step it does, and the weights at the end."""
    data = np.random.default_rng(7)
    rows = data.normal(size=(200, 4))
    labels = rows @ np.array([1.0, -2.0, 0.5, 3.0])
    points = Checkpoints(DirectoryStore(path=Path(folder) / "store"))
    found = points.latest()
    state = found.state if found else {"weights": np.zeros(4), "rng": np.random.default_rng(1)}
    weights, rng = state["weights"], state["rng"]
    with (Path(folder) / "steps.jsonl").open("a", buffering=1) as file:
        for step in points.steps(steps, lambda: state, every=20):
            picked = rng.integers(0, 200, 16)
            weights -= 0.1 * rows[picked].T @ (rows[picked] @ weights - labels[picked]) / 16
            time.sleep(seconds / steps)
            file.write(json.dumps({"step": step, "pid": os.getpid()}) + "\n")
    (Path(folder) / "weights").write_bytes(weights.tobytes())
