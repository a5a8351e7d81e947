"""Decides when two tables are the same data: the content digest, a SHA-256 over every cell.

What counts: column names, their order and types, the rows and their order, null or not, every bit of a number (so 0.0
is not -0.0). What does not: how the data is chunked, which file it came from, what lies under a null, the payload of a
NaN, the codes that stand for categories.

Form: SHA-256 over a header (JSON: version, rows, names and types) and the digest of each column. A column is hashed as
the mask of its nulls and then its values without them: numbers as little-endian bytes, text and bytes as lengths and
then content, lists as lengths and then all items as a column, structs as columns.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

__all__ = ["UnsupportedColumn", "content_digest"]

_VERSION = "trimtab-content-1"
_NUMBERS = (
    *(pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64),
    *(pl.Float16, pl.Float32, pl.Float64, pl.Date, pl.Time, pl.Datetime, pl.Duration, pl.Enum),
)
_PLAIN = (*_NUMBERS[:-2], pl.Int128, pl.UInt128, pl.Boolean, pl.String, pl.Binary, pl.Null)
_Update = Callable[[Any], None]


class UnsupportedColumn(TypeError):
    """A column that holds what no snapshot can."""

    def __init__(self, column: str, found: pl.DataType) -> None:
        self.column = column
        self.found = found
        super().__init__(column, found)

    def __str__(self) -> str:
        return (
            f"column {self.column!r} is of type {self.found}, which a snapshot cannot hold: "
            "cast it to a type that Parquet has (numbers, text, bytes, times, categories, lists, structs with fields)"
        )


def content_digest(frame: pl.DataFrame) -> str:
    """SHA-256 over the data of a table, all rows and columns: 64 hexadecimal characters.

    Raises:
        UnsupportedColumn: a column holds Python objects, or another type that Parquet cannot hold.
    """
    types = [[name, _described(kind, name)] for name, kind in frame.schema.items()]
    header = json.dumps([_VERSION, frame.height, types], separators=(",", ":"), ensure_ascii=True)
    digest = hashlib.sha256(header.encode())
    with ThreadPoolExecutor(max_workers=min(8, len(os.sched_getaffinity(0)))) as pool:
        for column in pool.map(_column_digest, frame.get_columns()):
            digest.update(column)
    return digest.hexdigest()


def _described(kind: pl.DataType, column: str) -> Any:
    """A type as plain JSON, in our own words: polars may print its types differently one day."""
    match kind:
        case pl.Datetime():
            return ["Datetime", kind.time_unit, kind.time_zone]
        case pl.Duration():
            return ["Duration", kind.time_unit]
        case pl.Decimal():
            return ["Decimal", kind.precision, kind.scale]
        case pl.Enum():
            return ["Enum", kind.categories.to_list()]
        case pl.Categorical():
            return ["Categorical", kind.categories.name(), kind.categories.namespace()]
        case pl.List():
            return ["List", _described(_instance(kind.inner), column)]
        case pl.Array():
            return ["Array", kind.size, _described(_instance(kind.inner), column)]
        case pl.Map():
            return ["Map", _described(_instance(kind.key), column), _described(_instance(kind.value), column)]
        case pl.Struct() if kind.fields:
            return ["Struct", [[field.name, _described(_instance(field.dtype), column)] for field in kind.fields]]
        case _ if isinstance(kind, _PLAIN):
            return type(kind).__name__
    raise UnsupportedColumn(column, kind)


def _instance(kind: Any) -> pl.DataType:
    """The type of items may come as a class: ``pl.Int8`` for ``pl.Int8()``."""
    found: pl.DataType = kind() if isinstance(kind, type) else kind
    return found


def _column_digest(column: pl.Series) -> bytes:
    digest = hashlib.sha256()
    _feed(column, digest.update)
    return digest.digest()


def _feed(column: pl.Series, update: _Update) -> None:
    """Hash one column, or the items of a nested one. Each begins with its length, so none runs into the next."""
    nulls = column.null_count()
    update(f"{len(column)},{nulls};".encode())
    kind = column.dtype
    if isinstance(kind, pl.Null):
        return
    if nulls:
        _feed_bits(column.is_null(), update)
        column = column.drop_nulls()
    if isinstance(kind, pl.Categorical | pl.Int128 | pl.UInt128):
        column, kind = column.cast(pl.String), pl.String()
    elif isinstance(kind, pl.Map):
        entry = pl.Struct({"key": kind.key, "value": kind.value})
        column, kind = column.cast(pl.List(entry)), pl.List(entry)
    match kind:
        case pl.Boolean():
            _feed_bits(column, update)
        case pl.String() | pl.Binary():
            _feed_bytes(column, update)
        case pl.Decimal():
            _feed_decimals(column, update)
        case pl.List():
            lengths = column.list.len()
            _feed_numbers(lengths.cast(pl.UInt64), update)
            # An empty list would explode to a null.
            _feed(column.filter(lengths > 0).explode(), update)
        case pl.Array():
            if kind.size:
                _feed(column.explode(), update)
        case pl.Struct():
            for field in column.struct.fields:
                _feed(column.struct.field(field), update)
        case _:
            _feed_numbers(column, update)


def _feed_bits(column: pl.Series, update: _Update) -> None:
    update(np.packbits(column.to_numpy()))


def _feed_numbers(column: pl.Series, update: _Update) -> None:
    values = column.to_physical().to_numpy()
    if values.dtype.kind == "f":
        not_numbers = np.isnan(values)
        if not_numbers.any():
            values = np.where(not_numbers, np.array(np.nan, values.dtype), values)
    update(np.ascontiguousarray(values.astype(values.dtype.newbyteorder("<"), copy=False)).view(np.uint8))


def _feed_bytes(column: pl.Series, update: _Update) -> None:
    array = column.cast(pl.Binary).to_arrow()
    _, positions, content = array.buffers()
    if not len(array):
        return
    offsets = np.frombuffer(positions, np.int64)[array.offset : array.offset + len(array) + 1]
    update(np.diff(offsets).astype("<u8", copy=False).view(np.uint8))
    update(memoryview(content)[offsets[0] : offsets[-1]])


def _feed_decimals(column: pl.Series, update: _Update) -> None:
    array = column.to_arrow()
    width = array.type.bit_width // 8
    if width != 16:  # polars may export narrow decimals one day
        array, width = array.cast(pa.decimal128(38, array.type.scale)), 16
    _, content = array.buffers()
    if len(array):
        update(memoryview(content)[array.offset * width : (array.offset + len(array)) * width])
