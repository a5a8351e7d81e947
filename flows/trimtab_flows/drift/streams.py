"""Detectors that read a model's errors one by one, from river: when did they change, and to what?

ADWIN (Bifet and Gavaldà, SDM 2007) keeps as many of the last errors as look alike, and tells when an older part has
another mean. Page-Hinkley (Page, Biometrika 41, 1954) adds up by how much errors exceed their mean so far. Both take
rows for independent; rows of one day are not, so an alarm says where to look, not what to do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

__all__ = ["Detector", "StreamChange", "errors_of", "watch"]

Detector = Literal["adwin", "page-hinkley"]


@dataclass(frozen=True)
class StreamChange:
    """What a detector found in a stream of errors.

    Attributes:
        detector: which.
        changed: whether it gave an alarm.
        at: place of the value at which it first did, from 0; None without one.
        before, after: mean error up to its last alarm, and from there to the end; equal without one.
        rows: how many errors it read.
    """

    detector: Detector
    changed: bool
    at: int | None
    before: float
    after: float
    rows: int

    @property
    def worse(self) -> bool:
        """Whether errors have become larger."""
        return self.changed and self.after > self.before


def errors_of(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Absolute errors of rows, shape (rows,); rows where either is not finite are left out."""
    errors = np.abs(np.asarray(labels, dtype=np.float64) - np.asarray(scores, dtype=np.float64))
    return errors[np.isfinite(errors)]


def watch(errors: np.ndarray, detector: Detector = "adwin") -> StreamChange:
    """Read errors in the order of time.

    Args:
        errors: shape (rows,), oldest first. What is not finite is left out. ADWIN expects values of about 0 to 1;
            larger ones are scaled by the largest of the first 200.
        detector: ``adwin`` (either way), or ``page-hinkley`` (larger errors only).
    """
    values = np.asarray(errors, dtype=np.float64)
    values = values[np.isfinite(values)]
    scale = float(np.abs(values[:200]).max()) if values.size else 1.0
    # Here, since river brings its data sets along: a second that every run of a flow would wait for.
    from river.drift import ADWIN, PageHinkley

    reader: Any = ADWIN() if detector == "adwin" else PageHinkley(mode="up")  # type: ignore[no-untyped-call]
    alarms = []
    for place, value in enumerate((values / max(scale, 1.0)).tolist()):
        reader.update(value)
        if reader.drift_detected:
            alarms.append(place)
    mean = float(values.mean()) if values.size else 0.0
    if not alarms:
        return StreamChange(detector, False, None, mean, mean, values.size)
    # ADWIN tells late by as many values as it needed; what it keeps then is the part after the change.
    kept = int(reader.width) if isinstance(reader, ADWIN) else values.size - alarms[-1]
    cut = max(min(values.size - kept, values.size - 1), 1)
    return StreamChange(detector, True, alarms[0], float(values[:cut].mean()), float(values[cut:].mean()), values.size)
