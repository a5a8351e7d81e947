"""The domain classifier: can a model tell the window's rows from the reference's? Then they differ, in any way at all.

Its cross-validated AUC is 0.5 where they are alike, and 1 where every row gives itself away (Rabanser, Günnemann and
Lipton, Failing Loudly, NeurIPS 2019). It sees what no single column shows: two inputs that changed places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import lightgbm
import numpy as np
import polars as pl

from trimtab_flows.drift.performance import delong
from trimtab_flows.drift.reference import as_numbers, as_text, sample_rows

__all__ = ["DomainShift", "domain_shift"]

#: Fewer on either side say nothing: each fold would test on less than ten.
MIN_ROWS = 50

_FOLDS = 5
#: Categories told apart in a column, the most frequent of both sides; the others are one.
_CATEGORIES = 50
#: Small trees: what it takes more to find than these find is no drift that a model would feel.
_PARAMETERS = {
    "objective": "binary",
    "num_leaves": 15,
    "learning_rate": 0.15,
    "min_data_in_leaf": 20,
    "max_bin": 63,
    "deterministic": True,
    "force_col_wise": True,
    "num_threads": 1,
    "verbosity": -1,
}
_TREES = 40


@dataclass(frozen=True)
class DomainShift:
    """How well rows of the window are told from those of the reference.

    Attributes:
        auc: mean over the folds; 0.5 where they cannot be told apart, and where ``known`` is False.
        low, high: ends of the interval.
        columns: the inputs that told most, with their share of the total gain, at most five, most first.
        rows: how many of each side were looked at.
        known: whether there were rows enough to say anything.
    """

    auc: float
    low: float
    high: float
    columns: tuple[tuple[str, float], ...] = ()
    rows: int = 0
    known: bool = True

    @property
    def drifted(self) -> bool:
        """Whether they differ beyond chance."""
        return self.known and self.low > 0.5


#: Nothing is known.
UNKNOWN = DomainShift(0.5, 0.0, 1.0, known=False)


def domain_shift(
    reference: pl.DataFrame, window: pl.DataFrame, columns: Sequence[str], seed: int = 0, confidence_z: float = 2.576
) -> DomainShift:
    """Train a small classifier to tell two tables apart, and measure it by five-fold cross-validation.

    Rows of one day are alike, so real windows are told apart by their days; read it beside the other signals.
    Columns that one table lacks, or that hold no value in either, are left out.

    Args:
        reference: rows the model was made with, shape (rows, at least some of the columns).
        window: rows of now.
        columns: the inputs.
        seed: of drawing, folds and trees: the same arguments give the same figures.
        confidence_z: half the width of the interval in standard errors; 2.576 is 99 %. The error is that of LeDell,
            Petersen and van der Laan (Electronic Journal of Statistics 9(1), 2015): DeLong's in each fold, joined.
    """
    shared = [column for column in columns if column in reference.columns and column in window.columns]
    before, now = sample_rows(reference, shared, seed=seed), sample_rows(window, shared, seed=seed + 1)
    rows = min(before.height, now.height)
    if rows < MIN_ROWS or not shared:
        return UNKNOWN
    before, now = sample_rows(before, shared, rows, seed), sample_rows(now, shared, rows, seed)
    encoded = [(column, _encode(before.get_column(column), now.get_column(column))) for column in shared]
    used = [(column, values) for column, values in encoded if _varies(values)]
    if not used:
        return DomainShift(0.5, 0.5, 0.5, rows=rows)
    matrix = np.column_stack([values for _, values in used])
    side = np.repeat([0.0, 1.0], rows)
    aucs, errors, gains = [], [], np.zeros(len(used))
    # Each side is dealt out on its own, so that every fold tests as many of both.
    random = np.random.default_rng(seed)
    fold = np.concatenate([random.permutation(np.arange(rows) % _FOLDS) for _ in range(2)])
    for held in range(_FOLDS):
        learn, test = fold != held, fold == held
        data = lightgbm.Dataset(matrix[learn], side[learn], params=_PARAMETERS, free_raw_data=True)
        model = lightgbm.train({**_PARAMETERS, "seed": seed}, data, num_boost_round=_TREES)
        auc, error = delong(side[test], np.asarray(model.predict(matrix[test])))
        aucs.append(auc)
        errors.append(error)
        gains += model.feature_importance("gain")
    auc = float(np.mean(aucs))
    error = float(np.sqrt(np.sum(np.square(errors)))) / _FOLDS
    return DomainShift(
        auc=auc,
        low=float(np.clip(auc - confidence_z * error, 0, 1)),
        high=float(np.clip(auc + confidence_z * error, 0, 1)),
        columns=_most([column for column, _ in used], gains),
        rows=rows,
    )


def _varies(values: np.ndarray) -> bool:
    known = values[~np.isnan(values)]
    return 0 < known.size < values.size or bool((known != known[:1]).any())


def _most(columns: Sequence[str], gains: np.ndarray) -> tuple[tuple[str, float], ...]:
    total = float(gains.sum())
    if total <= 0:
        return ()
    ranked = sorted(zip(columns, gains / total, strict=True), key=lambda item: (-item[1], item[0]))
    return tuple((column, float(share)) for column, share in ranked[:5] if share > 0)


def _encode(before: pl.Series, now: pl.Series) -> np.ndarray:
    """A column of both tables as floats, shape (rows of both,); missing is NaN. Categories: their rank by frequency."""
    numbers = as_numbers(before), as_numbers(now)
    if numbers[0] is not None and numbers[1] is not None:
        both = np.concatenate([numbers[0], numbers[1]])
        return np.where(np.isinf(both), np.sign(both) * np.finfo(np.float64).max, both)
    text = pl.concat([as_text(before).rename("value"), as_text(now).rename("value")])
    common = text.drop_nulls().value_counts(name="rows").top_k(_CATEGORIES, by=["rows", "value"], reverse=[False, True])
    ranks = {name: float(rank) for rank, name in enumerate(common.get_column("value"))}
    other = float(len(ranks))
    return np.array([np.nan if value is None else ranks.get(value, other) for value in text], dtype=np.float64)
