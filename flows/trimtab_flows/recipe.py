"""The recipe: everything Trimtab has to be told about one model.

A team subclasses ``Recipe`` in a module of its own, sets the attributes, writes five methods, and names the instance to
a deployment as ``module:attribute``. The flows do the rest.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl

from trimtab_flows.contracts.contract import Contract
from trimtab_flows.local_time import due, exists, zone_named
from trimtab_flows.windows import Cadence, Window

__all__ = ["Label", "Metric", "Recipe", "Resources"]


@dataclass(frozen=True)
class Label:
    """The column to predict, and how long after the end of a window it is known for every row of it.

    Whole days of ``known_after`` are days of the recipe's time zone; the rest is time that passes.
    """

    column: str
    known_after: timedelta = timedelta(0)


@dataclass(frozen=True)
class Metric:
    """A figure of merit: ``function(labels, scores)``, two float arrays of shape (rows,), gives one float."""

    name: str
    function: Callable[[np.ndarray, np.ndarray], float]
    higher_is_better: bool = True


@dataclass(frozen=True)
class Resources:
    """What a training run was given: CPU threads it may use and the uuids of its GPUs."""

    cpus: int = 1
    gpu_uuids: tuple[str, ...] = ()


class Recipe(ABC):
    """What a team implements for its own model.

    Attributes:
        name: of the model in MLflow and of its data in the store: lower-case letters, digits, ``-`` and ``_``.
        start: the first window of data, for example ``2013-01``.
        cadence: how often a window arrives.
        timezone: IANA name, ``Europe/Berlin``: the days of windows begin and end in it, and event times without a zone
            are its clock times.
        bootstrap_windows: how many windows train the first champion.
        holdout: the newest stretch of the training windows that no model is judged by after it was trained on it:
            champion and challenger are compared there.
        refit: train once more, on all rows, the holdout too: the first model is judged, against the one that was judged
            for the champion; the second serves, newer by the holdout. ``train`` must not go on from its checkpoints.
        raw: one contract for each table that ``load`` returns.
        features: contract of the table that ``build`` returns, label included. It needs ``key`` and ``event_time``.
        predictions: contract of the table of predictions: the features' key, and ``score``.
        label: what is predicted.
        metrics: the first one decides; the others are reported.
        parameters: what ``train`` gets unless a run says otherwise.
        resources: what a training run demands, as plain data (``cpus``, ``gpus``, ``memory_mib``).
        flavor: the MLflow flavor that saves the model: ``sklearn``, ``lightgbm``, ``xgboost``, ``pytorch`` ...
    """

    name: str
    start: str
    cadence: Cadence = "month"
    timezone: str = "UTC"
    bootstrap_windows: int = 2
    holdout: timedelta = timedelta(days=7)
    refit: bool = False
    raw: Mapping[str, Contract]
    features: Contract
    predictions: Contract
    label: Label
    metrics: tuple[Metric, ...]
    parameters: Mapping[str, Any] = {}
    resources: Mapping[str, Any] = {"cpus": 1}
    flavor: str = "sklearn"

    @abstractmethod
    def load(self, window: Window) -> Mapping[str, pl.DataFrame]:
        """The raw tables of a window, by name, as they are at the source."""

    def version(self, window: Window) -> str | None:  # noqa: ARG002 - a recipe overrides it
        """A text that changes whenever what ``load`` would return changes (an ETag, a table version).

        None, the default: unknown, so the source is read each time the window is ingested.
        """
        return None

    @abstractmethod
    def build(self, tables: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
        """Features and label from checked raw tables: one row a prediction, label null where there is none."""

    @abstractmethod
    def train(self, frame: pl.DataFrame, parameters: Mapping[str, Any], seed: int, resources: Resources) -> Any:
        """A fitted model from labelled rows of the features table. Same arguments, same model."""

    @abstractmethod
    def predict(self, model: Any, frame: pl.DataFrame) -> np.ndarray:
        """Scores for each row of the features table, shape (rows,). The label column must not be read."""

    @property
    def zone(self) -> ZoneInfo:
        """The time zone."""
        return zone_named(self.timezone)

    def windows(self, within: Window) -> Iterator[Window]:
        """The windows of this recipe that a longer one is made of, in order; not a day that its zone left out."""
        return (window for window in within.split(self.cadence) if exists(window, self.zone))

    def due(self, window: Window) -> datetime:
        """The moment, in UTC, from which on a window's labels are known."""
        return due(window, self.label.known_after, self.zone)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Columns of the features table that drift is measured on: all but key, event time and label."""
        apart = {*self.features.key, self.features.event_time, self.label.column}
        schema = self.features.schema
        columns = schema.columns if hasattr(schema, "columns") else schema.to_schema().columns
        return tuple(column for column in columns if column not in apart)
