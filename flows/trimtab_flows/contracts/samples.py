"""Offending values as text: at most three, different from each other, each short enough for a message."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

__all__ = ["of_column", "of_rows"]

_SAMPLES = 3
_LOOKED_AT = 1000
_VALUE_WIDTH = 80
_ROW_WIDTH = 160


def of_column(frame: pl.DataFrame, column: str, rows: pl.Series | None = None) -> tuple[str, ...]:
    """Up to three different values of a column, in the order of the rows.

    Args:
        frame: shape (rows, columns).
        column: a column of it, or any other text: then there are no samples.
        rows: booleans, shape (rows,): which rows to look at. None: all.
    """
    if column not in frame.columns:
        return ()
    values = frame.get_column(column)
    found = values.head(_LOOKED_AT) if rows is None else values.filter(rows).head(_LOOKED_AT)
    return _different([_text(value, _VALUE_WIDTH) for value in found.to_list()])


def of_rows(frame: pl.DataFrame, columns: Sequence[str], rows: pl.Series) -> tuple[str, ...]:
    """Up to three of the given rows as ``column=value``, the given columns only.

    Args:
        frame: shape (rows, columns).
        columns: columns of it; one column alone is shown as its values.
        rows: booleans, shape (rows,): which rows to look at.
    """
    if len(columns) == 1:
        return of_column(frame, columns[0], rows)
    found = frame.select(columns).filter(rows).head(_LOOKED_AT)
    return _different([_text_of_row(row) for row in found.iter_rows(named=True)])


def _text_of_row(row: dict[str, object]) -> str:
    text = ", ".join(f"{name}={_text(value, _VALUE_WIDTH)}" for name, value in row.items())
    return _shortened(text, _ROW_WIDTH)


def _text(value: object, width: int) -> str:
    return _shortened(repr(value) if isinstance(value, str | bytes) else str(value), width)


def _shortened(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 3]}..."


def _different(texts: list[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(texts))[:_SAMPLES]
