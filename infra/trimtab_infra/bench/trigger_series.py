"""A recipe's series cut into windows, and the models that could have been trained on it: each is trained once.

The model of window ``n`` is what a retraining decided after that window makes: trained on windows 0 to ``n`` less the
recipe's holdout, as the product does; for a recipe with a refit that model is only judged, and one of all rows of these
windows serves. So models and their scores do not depend on the policy, and all policies share them.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl

from trimtab_flows.contracts.check import check
from trimtab_flows.drift.bootstrap import standard_error
from trimtab_flows.drift.gate import Comparison, GatePolicy
from trimtab_flows.drift.signals import PREDICTION, Reference, fit_reference, measure
from trimtab_flows.loading import LoadedRecipe
from trimtab_flows.recipe import Resources
from trimtab_flows.steps.split import from_time, labelled, split_by_time
from trimtab_flows.windows import Window

__all__ = ["Rows", "Series", "SeriesError", "windows_of"]

#: Resamples of a standard error: 50 give it to about 10 %.
_RESAMPLES = 50


class SeriesError(ValueError):
    """A series that cannot be replayed as asked."""


@dataclass(frozen=True)
class Rows:
    """Labels, scores and days of labelled rows, each of shape (rows,)."""

    labels: np.ndarray
    scores: np.ndarray
    days: np.ndarray


def windows_of(first: date, last: date, days: int) -> tuple[Window, ...]:
    """Windows of so many days from ``first`` on; a last one that would reach past ``last`` (exclusive) is left out."""
    count = (last - first).days // days
    starts = (first + timedelta(days=days * place) for place in range(count))
    return tuple(Window(start, start + timedelta(days=days)) for start in starts)


def _silent(text: str, share: float) -> None:
    """Tell nobody."""


@dataclass
class Series:
    """Windows of a recipe, its models, and what each model did in each window.

    Attributes:
        loaded: the recipe.
        windows: in order, one after the other.
        bootstrap: how many windows the first champion is trained on.
        seed: of every training.
        cache: folder of trained models' scores; None: nothing is kept.
        gate: how sure the gate has to be, for every rule.
        compared: what the gate compares, by challenger and champion: how many rows, and the metric of both.
        tell: called with what is done, and the share that is done of it.
    """

    loaded: LoadedRecipe
    windows: tuple[Window, ...]
    bootstrap: int
    seed: int = 0
    cache: Path | None = None
    tell: Callable[[str, float], None] = _silent
    gate: GatePolicy = field(default_factory=GatePolicy)
    train_seconds: list[float] = field(default_factory=list)
    compared: dict[tuple[int, int], tuple[int, Comparison]] = field(default_factory=dict)
    _drift: dict[tuple[int, int], tuple[dict[str, float], float]] = field(default_factory=dict)
    _frames: list[pl.DataFrame] = field(default_factory=list)
    _scores: dict[tuple[int, bool], list[np.ndarray]] = field(default_factory=dict)
    _references: dict[int, Reference] = field(default_factory=dict)
    _memo: dict[tuple[str, int, int], float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.bootstrap >= len(self.windows):
            raise SeriesError(
                f"{len(self.windows)} windows are too few: {self.bootstrap} train the first model, and at least one "
                "more is needed to see it at work; move --from or --to, or lower --bootstrap"
            )
        recipe = self.loaded.recipe
        for place, window in enumerate(self.windows):
            tables = recipe.load(window)
            lacking = sorted(set(recipe.raw) - set(tables))
            if lacking:
                raise SeriesError(f"{window}: load returned no table {', '.join(lacking)}")
            raw = {
                name: check(contract, tables[name], as_of=window.end_time, zone=recipe.zone).accepted_or_raise()
                for name, contract in recipe.raw.items()
            }
            built = check(
                recipe.features, recipe.build(raw), as_of=window.end_time, zone=recipe.zone
            ).accepted_or_raise()
            self._frames.append(labelled(built, recipe))
            self.tell("windows checked", (place + 1) / len(self.windows))
        if self._frames[0].is_empty():
            raise SeriesError(f"{self.windows[0]} has no labelled row; start later")

    @property
    def metric(self) -> str:
        """Name of the deciding metric."""
        return self.loaded.recipe.metrics[0].name

    @property
    def sign(self) -> float:
        """1 where more of the metric is better, else -1."""
        return 1.0 if self.loaded.recipe.metrics[0].higher_is_better else -1.0

    @property
    def first(self) -> int:
        """The first window after those that train the first champion."""
        return self.bootstrap

    @cached_property
    def _data(self) -> str:
        """A name for data, code, parameters and seed together."""
        digest = hashlib.sha256(f"{self.loaded.code} {self.seed} {self.loaded.recipe.parameters}".encode())
        for frame in self._frames:
            digest.update(str(frame.shape).encode())
            digest.update(frame.hash_rows(seed=1).to_numpy().tobytes())
        return digest.hexdigest()[:20]

    def rows(self, model: int, window: int) -> Rows:
        """Labelled rows of a window with the scores of a model; of its own window and before, what was held back."""
        return self._rows(model, window, self.refit and window > model)

    def _rows(self, model: int, window: int, serves: bool) -> Rows:
        frame = self._unseen(model, window)
        scores = self._scored(model, serves)[window - (model + 1 if serves else self._from(model))]
        return Rows(self._labels(frame), scores, self._days(frame))

    def frame(self, window: int) -> pl.DataFrame:
        """Labelled rows of a window's features table."""
        return self._frames[window]

    @property
    def refit(self) -> bool:
        """Whether models serve that were trained on the holdout too."""
        return self.loaded.recipe.refit

    def unseen_from(self, model: int) -> int:
        """The first window that has rows which the model in service has not seen."""
        return model + 1 if self.refit else self._from(model)

    def data_end(self, model: int, serves: bool = True) -> datetime:
        """The end of the data of a model that serves, or of the one that is judged in its place."""
        return self.windows[model].end_time if serves and self.refit else self._cut(model)

    def training_rows(self, model: int, serves: bool = True) -> int:
        """Rows that a model was trained on: the one that serves, or the one that is judged in its place."""
        end, until = self.data_end(model, serves), self._frames[: model + 1]
        rows = self._remember(
            "rows", model, int(serves), lambda: sum(frame.filter(~self._since(frame, end)).height for frame in until)
        )
        return int(rows)

    def labelled_rows(self, first: int, last: int) -> int:
        """Labelled rows of the windows from ``first`` to ``last``, both included."""
        return sum(frame.height for frame in self._frames[first : last + 1])

    def metric_of(self, model: int, window: int) -> float:
        """The deciding metric of a model in a window; NaN where it is not defined."""
        return self._remember("metric", model, window, lambda: self._metric(self.rows(model, window)))

    def error_of(self, model: int, window: int) -> float:
        """Its standard error, days drawn whole."""
        return self._remember("error", model, window, lambda: self._error(self.rows(model, window)))

    def reference_of(self, model: int) -> tuple[float, float]:
        """Metric and standard error of a model on the rows held back from its training."""
        rows = self.held_back(model, model)
        return (
            self._remember("reference", model, model, lambda: self._metric(rows)),
            self._remember("reference error", model, model, lambda: self._error(rows)),
        )

    def held_back(self, challenger: int, model: int) -> Rows:
        """The rows held back from the challenger's training, with the scores of a model no younger than it: with a
        refit, of the one that is judged in its place."""
        start = self._cut(challenger)
        parts = []
        for window in range(self._from(challenger), challenger + 1):
            frame, rows = self._unseen(model, window), self._rows(model, window, False)
            late = frame.select(self._since(frame, start)).to_series().to_numpy()
            parts.append(Rows(rows.labels[late], rows.scores[late], rows.days[late]))
        return Rows(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("labels", "scores", "days")))

    def drift(self, model: int, window: int) -> tuple[dict[str, float], float]:
        """PSI of a window by input against what the model was trained on, and PSI of its scores."""
        if (model, window) not in self._drift:
            self._drift[model, window] = self._measure(model, window)
        return self._drift[model, window]

    def _measure(self, model: int, window: int) -> tuple[dict[str, float], float]:
        if model not in self._references:
            held = self.held_back(model, model)
            joined = pl.concat(self._frames[: model + 1])
            training = joined.filter(~self._since(joined, self.data_end(model)))
            self._references[model] = fit_reference(training, self.loaded.recipe.inputs, held.scores)
        signals = measure(self._references[model], self._frames[window], self.rows(model, window).scores)
        psi = {signal.column: signal.value for signal in signals if signal.kind == "psi"}
        return {name: value for name, value in psi.items() if name != PREDICTION}, psi[PREDICTION]

    def train_all(self) -> None:
        """Train every model that any policy could ask for."""
        models = range(self.bootstrap - 1, len(self.windows) - 1)
        for place, model in enumerate(models):
            self._scored(model, False)
            if self.refit:
                self._scored(model, True)
            self.tell("models trained", (place + 1) / len(models))

    def _scored(self, model: int, serves: bool) -> list[np.ndarray]:
        """Scores of a model, one array a window from the first that has rows it has not seen.

        Args:
            serves: those of the model that was trained on all rows.
        """
        key = (model, serves)
        if key not in self._scores:
            name = f"{self._data}-{model}{'-all' if serves else ''}.npz"
            kept = None if self.cache is None else self.cache / name
            if kept is not None and kept.is_file():
                with np.load(kept) as found:
                    self._scores[key] = [found[name] for name in found.files]
            else:
                self._scores[key] = self._train(model, serves)
                if kept is not None:
                    kept.parent.mkdir(parents=True, exist_ok=True)
                    part = kept.with_name(f"{kept.name}.part.npz")
                    np.savez(part, *self._scores[key])
                    part.replace(kept)
        return self._scores[key]

    def _train(self, model: int, serves: bool) -> list[np.ndarray]:
        recipe = self.loaded.recipe
        began = time.monotonic()
        joined = pl.concat(self._frames[: model + 1])
        rows = joined if serves else split_by_time(joined, recipe, self.windows[model].end_time).training
        trained = recipe.train(rows, recipe.parameters, self.seed, Resources(cpus=1))
        self.train_seconds.append(time.monotonic() - began)
        first = model + 1 if serves else self._from(model)
        unseen = [self._unseen(model, window) for window in range(first, len(self.windows))]
        scores = np.asarray(recipe.predict(trained, pl.concat(unseen)), dtype=np.float64)
        return np.split(scores, np.cumsum([frame.height for frame in unseen])[:-1])

    def _cut(self, model: int) -> datetime:
        return self.windows[model].end_time - self.loaded.recipe.holdout

    def _from(self, model: int) -> int:
        cut = self._cut(model)
        return next(place for place, window in enumerate(self.windows) if window.end_time > cut)

    def _unseen(self, model: int, window: int) -> pl.DataFrame:
        return self._frames[window].filter(self._since(self._frames[window], self._cut(model)))

    def _since(self, frame: pl.DataFrame, wall: datetime) -> pl.Expr:
        return from_time(frame, self.loaded.recipe, wall)

    @property
    def _time(self) -> pl.Expr:
        return pl.col(self.loaded.recipe.features.event_time or "")

    def _labels(self, frame: pl.DataFrame) -> np.ndarray:
        return frame.get_column(self.loaded.recipe.label.column).cast(pl.Float64).to_numpy()

    def _days(self, frame: pl.DataFrame) -> np.ndarray:
        return frame.select(self._time.dt.date()).to_series().to_numpy()

    def _metric(self, rows: Rows) -> float:
        return float(self.loaded.recipe.metrics[0].function(rows.labels, rows.scores))

    def _error(self, rows: Rows) -> float:
        return standard_error(rows.labels, rows.scores, self.loaded.recipe.metrics[0], 0, rows.days, _RESAMPLES)

    def _remember(self, kind: str, model: int, window: int, make: Callable[[], float]) -> float:
        key = (kind, model, window)
        if key not in self._memo:
            self._memo[key] = make()
        return self._memo[key]
