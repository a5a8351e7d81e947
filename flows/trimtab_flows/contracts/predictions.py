"""The contract that most tables of predictions need: the key, and a finite score within bounds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandera.polars as pa
import polars as pl

from trimtab_flows.contracts.contract import Contract

__all__ = ["prediction_contract"]


def prediction_contract(
    key: Mapping[str, Any], low: float = -math.inf, high: float = math.inf, max_quarantined_share: float = 0.0
) -> Contract:
    """A contract for the predictions of a model: the key, unique, and ``score``, a finite 64-bit float.

    Args:
        key: polars type of each key column, as in the features table.
        low: smallest score allowed, for example 0 for a probability.
        high: largest score allowed.
        max_quarantined_share: share of rows, 0 to 1, whose score may be unusable.

    Raises:
        ValueError: no key, a key column named ``score``, or bounds that no score can meet.
    """
    if not key:
        raise ValueError("a contract for predictions needs a key: the columns that say which row a score belongs to")
    if "score" in key:
        raise ValueError("the key of predictions may not have a column 'score': that is where the scores go")
    if not low <= high:
        raise ValueError(f"scores cannot be at least {low} and at most {high}")
    within = [pa.Check(_finite, name="finite")]
    if low > -math.inf:
        within.append(pa.Check.ge(low))
    if high < math.inf:
        within.append(pa.Check.le(high))
    columns = {name: pa.Column(kind) for name, kind in key.items()}
    schema = pa.DataFrameSchema({**columns, "score": pa.Column(pl.Float64, within)}, strict=True)
    return Contract("predictions", schema, key=tuple(key), max_quarantined_share=max_quarantined_share)


def _finite(data: pa.PolarsData) -> pl.LazyFrame:
    return data.lazyframe.select(pl.col(data.key).is_finite())
