"""The toy recipe with stops: where a named pipe lies, it says so there and waits to be killed."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from toy_recipe import ROWS, Toy
from trimtab_flows.recipe import Resources
from trimtab_flows.windows import Window


def stop_at(place: str) -> None:
    """Tell whoever reads the pipe that this place is reached, and go no further."""
    pipe = Path(f"stop-at-{place}")
    if pipe.is_fifo():
        pipe.write_text("reached")
        while True:
            signal.pause()


class Interrupted(Toy):
    """Stops at the load of March, at the first training, at its retraining, or at a score."""

    name = "interrupted"

    def load(self, window: Window) -> Mapping[str, pl.DataFrame]:
        if window.label == "2024-03":
            stop_at("load")
        return super().load(window)

    def train(self, frame: pl.DataFrame, parameters: Mapping[str, Any], seed: int, resources: Resources) -> Any:
        stop_at("train" if frame.height < 2 * ROWS else "retrain")
        return super().train(frame, parameters, seed, resources)

    def predict(self, model: Any, frame: pl.DataFrame) -> np.ndarray:
        if frame.height == ROWS:
            stop_at("score")
        return super().predict(model, frame)


interrupted = Interrupted()
