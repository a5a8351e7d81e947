"""Made-up series whose change is known: how soon each rule retrains after it, and how often it does without one.

A window has 500 rows of four inputs; the label is drawn by a logistic law of them. The law, the inputs or the labels
change at window ``CHANGE``; before it, and in the series without a change, nothing does, so every retraining there
counts as a false alarm, even one that more rows pay for.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from datetime import date, timedelta
from statistics import fmean
from typing import Any

import numpy as np
import pandera.polars as pa
import polars as pl
from rich.console import Console
from rich.table import Table
from scipy.stats import ks_2samp
from sklearn.linear_model import LogisticRegression

from trimtab_flows.contracts.contract import Contract
from trimtab_flows.contracts.predictions import prediction_contract
from trimtab_flows.drift.policy import Policy
from trimtab_flows.loading import LoadedRecipe
from trimtab_flows.metrics import log_loss
from trimtab_flows.recipe import Label, Recipe, Resources
from trimtab_flows.windows import Window
from trimtab_infra.bench.trigger_replay import Now, Rule, adwin, decided, live
from trimtab_infra.bench.trigger_series import Series, windows_of

__all__ = ["CHANGE", "KINDS", "Made", "ks", "report"]

KINDS = ("none", "abrupt", "gradual", "seasonal", "recurring", "labels", "unit")
CHANGE, WINDOWS, ROWS, BOOTSTRAP = 30, 52, 500, 6
_BEGIN = date(2024, 1, 1)
_INPUTS = ("a", "b", "c", "d")
_TIME = pl.Datetime("us")
_LAW, _NEW_LAW = np.array([1.5, -1.0, 0.5, 0.0]), np.array([0.3, 1.0, 0.5, -1.2])
_TABLE = pa.DataFrameSchema(
    {
        "row": pa.Column(pl.Int64),
        "at": pa.Column(_TIME),
        **{name: pa.Column(pl.Float64) for name in _INPUTS},
        "y": pa.Column(pl.Int64),
    }
)


class Made(Recipe):
    """A series of one kind of change, the same for the same seed."""

    name = "made"
    start = "2024-01"
    cadence = "week"
    bootstrap_windows = BOOTSTRAP
    holdout = timedelta(days=7)
    label = Label("y")
    metrics = (log_loss,)
    raw: Mapping[str, Contract] = {"made": Contract("made", _TABLE, key=("row",), event_time="at")}
    features = Contract("features", _TABLE, key=("row",), event_time="at")
    predictions = prediction_contract({"row": pl.Int64}, low=0.0, high=1.0)

    def __init__(self, kind: str, seed: int) -> None:
        self.kind, self.seed = kind, seed

    def load(self, window: Window) -> Mapping[str, pl.DataFrame]:
        """500 rows, an equal number a day."""
        place = (window.start - _BEGIN).days // 7
        random = np.random.default_rng([zlib.crc32(self.kind.encode()), self.seed, place])
        x = random.normal(size=(ROWS, len(_INPUTS)))
        share = self._share(place)
        if self.kind == "seasonal":
            # Inputs move with the year; the law does not.
            x[:, 0] += 1.5 * np.sin(2 * np.pi * place / 52)
        chance = 1 / (1 + np.exp(-(x @ ((1 - share) * _LAW + share * _NEW_LAW))))
        if self.kind == "labels" and place >= CHANGE:
            # More positives among the same inputs: the scores look as before.
            chance = 1 - (1 - chance) * 0.5
        y = (random.random(ROWS) < chance).astype(np.int64)
        if self.kind == "unit" and place >= CHANGE:
            x[:, 0] = x[:, 0] * 1.8 + 32
        at = [window.start_time + timedelta(minutes=int(row * 7 * 1440 / ROWS)) for row in range(ROWS)]
        columns = {name: x[:, column] for column, name in enumerate(_INPUTS)}
        rows = np.arange(ROWS, dtype=np.int64) + place * ROWS
        return {"made": pl.DataFrame({"row": rows, "at": pl.Series(at, dtype=_TIME), **columns, "y": y})}

    def _share(self, place: int) -> float:
        """How much of the new law holds in a window, 0..1."""
        if place < CHANGE:
            return 0.0
        match self.kind:
            case "abrupt":
                return 1.0
            case "gradual":
                return min((place - CHANGE + 1) / 12, 1.0)
            case "recurring":
                return float((place - CHANGE) // 6 % 2 == 0)
        return 0.0

    def build(self, tables: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
        """Nothing is to be built."""
        return tables["made"]

    def train(self, frame: pl.DataFrame, parameters: Mapping[str, Any], seed: int, resources: Resources) -> Any:
        """A logistic regression on the last half-year."""
        recent = frame.tail(26 * ROWS)
        return LogisticRegression(max_iter=200).fit(recent.select(_INPUTS).to_numpy(), recent["y"].to_numpy())

    def predict(self, model: Any, frame: pl.DataFrame) -> np.ndarray:
        """Probability of a positive."""
        if frame.is_empty():
            return np.empty(0)
        return np.asarray(model.predict_proba(frame.select(_INPUTS).to_numpy())[:, 1])


def ks(level: float = 0.05) -> Rule:
    """Retrains when a Kolmogorov-Smirnov test tells any input, or the scores, from the champion's held-back rows.

    Bonferroni over the columns.
    """

    def rule(now: Now) -> tuple[bool, tuple[str, ...]]:
        old, new = now.series.frame(now.champion), now.series.frame(now.window)
        pairs = [(old.get_column(name).to_numpy(), new.get_column(name).to_numpy()) for name in _INPUTS]
        held = now.series.held_back(now.champion, now.champion)
        pairs.append((held.scores, now.series.rows(now.champion, now.window).scores))
        return min(ks_2samp(*pair).pvalue for pair in pairs) < level / len(pairs), ()

    return rule


def report(
    policy: Policy, seed: int, console: Console, seeds: int = 3, kinds: tuple[str, ...] = KINDS
) -> dict[str, Any]:
    """Every rule on every kind of series; shows a table."""
    rules: dict[str, Any] = {"trimtab": lambda: decided(policy), "adwin": adwin, "ks": ks}
    shown = Table(title=f"Windows from the change to the decision to retrain, mean of {seeds} seeds (found in)")
    shown.add_column("change")
    for name in rules:
        shown.add_column(name, justify="right", no_wrap=True)
    found: dict[str, Any] = {"seeds": seeds, "changes": {}, "false_alarms_per_1000_windows": {}}
    false: dict[str, list[int]] = {name: [] for name in rules}
    quiet = 0
    for kind in kinds:
        cells = {}
        delays: dict[str, list[int | None]] = {name: [] for name in rules}
        for number in range(seed, seed + seeds):
            series = _series(kind, number)
            still = WINDOWS if kind in ("none", "seasonal") else CHANGE
            quiet += min(still, WINDOWS - 1) - BOOTSTRAP
            for name, make in rules.items():
                after = [each.after for each in live(series, name, make()).retrains]
                false[name].append(sum(place < still for place in after))
                delays[name].append(next((place - CHANGE for place in after if place >= still), None))
        for name, each in delays.items():
            known = [delay for delay in each if delay is not None]
            cells[name] = f"{fmean(known):.1f} ({len(known)}/{seeds})" if known else f"- (0/{seeds})"
        found["changes"][kind] = delays
        if kind not in ("none", "seasonal"):
            shown.add_row(kind, *cells.values())
    rates = {name: sum(counts) / quiet * 1000 for name, counts in false.items()}
    found["false_alarms_per_1000_windows"], found["quiet_windows"] = rates, quiet
    shown.add_row("false alarms in 1,000 windows", *(f"{rate:.0f}" for rate in rates.values()))
    console.print(shown)
    return found


def _series(kind: str, seed: int) -> Series:
    last = _BEGIN + timedelta(days=7 * WINDOWS)
    loaded = LoadedRecipe(f"made:{kind}", Made(kind, seed), code=f"{kind}-{seed}")
    return Series(loaded, windows_of(_BEGIN, last, 7), BOOTSTRAP)
