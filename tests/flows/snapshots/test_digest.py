"""The content digest: what it depends on, and what it must not depend on."""

from __future__ import annotations

import hashlib
import io
import math
import struct
from datetime import datetime
from decimal import Decimal
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from polars.testing.parametric import dataframes

from trimtab_flows.snapshots.digest import UnsupportedColumn, content_digest

#: One strategy of values for each type that a column can have.
VALUES: dict[pl.DataType, st.SearchStrategy[Any]] = {
    pl.Int64(): st.integers(-(2**63), 2**63 - 1),
    pl.UInt8(): st.integers(0, 255),
    pl.Int128(): st.integers(-(2**127), 2**127 - 1),
    # Without -0.0, which equals 0.0 and is other data: `test_tells_close_relatives_apart` has it.
    pl.Float64(): st.floats(allow_nan=False).map(lambda value: value + 0.0),
    pl.Float32(): st.floats(width=32, allow_nan=False).map(lambda value: value + 0.0),
    pl.Boolean(): st.booleans(),
    pl.String(): st.text(max_size=5),
    pl.Binary(): st.binary(max_size=5),
    pl.Datetime("us", "Europe/Berlin"): st.integers(0, 2**40),
    pl.Date(): st.dates(),
    pl.Duration("ms"): st.integers(0, 2**40),
    pl.Decimal(20, 3): st.integers(-(10**15), 10**15).map(lambda units: Decimal(units).scaleb(-3)),
    pl.Categorical(): st.text(max_size=3),
    pl.Enum(["b", "a", ""]): st.sampled_from(["b", "a", ""]),
    pl.List(pl.Int16()): st.lists(st.none() | st.integers(-9, 9), max_size=3),
    pl.List(pl.List(pl.String())): st.lists(st.lists(st.none() | st.text(max_size=2), max_size=2), max_size=2),
    pl.Array(pl.Int16(), 2): st.lists(st.none() | st.integers(-9, 9), min_size=2, max_size=2),
    pl.Struct({"a": pl.Int8(), "b": pl.String()}): st.fixed_dictionaries(
        {"a": st.none() | st.integers(-9, 9), "b": st.none() | st.text(max_size=2)}
    ),
}


def tables(min_rows: int = 1, max_rows: int = 6) -> st.SearchStrategy[pl.DataFrame]:
    """Tables of one to four columns of any type, nulls among the values."""

    @st.composite
    def drawn(draw: st.DrawFn) -> pl.DataFrame:
        kinds = draw(st.lists(st.sampled_from(list(VALUES)), min_size=1, max_size=4))
        rows = draw(st.integers(min_rows, max_rows))
        return pl.DataFrame(
            [
                column_of(kind, draw(st.lists(st.none() | VALUES[kind], min_size=rows, max_size=rows)), f"c{place}")
                for place, kind in enumerate(kinds)
            ]
        )

    return drawn()


def column_of(kind: pl.DataType, values: list[Any], name: str) -> pl.Series:
    if isinstance(kind, pl.Datetime | pl.Duration):
        return pl.Series(name, values, dtype=pl.Int64).cast(kind)
    return pl.Series(name, values, dtype=kind, strict=True)


def through_parquet(frame: pl.DataFrame, **options: Any) -> pl.DataFrame:
    file = io.BytesIO()
    frame.write_parquet(file, **options)
    file.seek(0)
    return pl.read_parquet(file)


def test_is_64_hexadecimal_characters() -> None:
    digest = content_digest(pl.DataFrame({"a": [1]}))
    assert len(digest) == 64
    assert int(digest, 16)


def test_has_the_documented_form() -> None:
    # Every stored snapshot lies under its digest: changing this form orphans them all.
    frame = pl.DataFrame(
        {
            "a": [1, None, 3],
            "b": ["x", None, ""],
            "c": [[1.5, math.nan], [], None],
            "d": [{"k": True}, None, {"k": None}],
            "e": [Decimal("1.23"), None, Decimal("-4.00")],
            "f": [datetime(1970, 1, 1), None, datetime(1970, 1, 1, 0, 0, 1)],
        },
        schema_overrides={"e": pl.Decimal(10, 2), "f": pl.Datetime("us", "UTC")},
    )
    header = (
        b'["trimtab-content-1",3,[["a","Int64"],["b","String"],["c",["List","Float64"]],'
        b'["d",["Struct",[["k","Boolean"]]]],["e",["Decimal",10,2]],["f",["Datetime","us","UTC"]]]]'
    )
    second, third = b"3,1;\x40", b"3,1;\x20"  # rows, nulls, and a bit for the row that is null
    columns = [
        second + struct.pack("<2q", 1, 3),
        second + struct.pack("<2Q", 1, 0) + b"x",
        third + struct.pack("<2Q", 2, 0) + b"2,0;" + struct.pack("<2d", 1.5, math.nan),
        second + b"2,1;\x40" + b"\x80",
        second + b"".join(units.to_bytes(16, "little", signed=True) for units in (123, -400)),
        second + struct.pack("<2q", 0, 1_000_000),
    ]
    expected = hashlib.sha256(header + b"".join(hashlib.sha256(column).digest() for column in columns))
    assert content_digest(frame) == expected.hexdigest()
    assert content_digest(pl.DataFrame()) == hashlib.sha256(b'["trimtab-content-1",0,[]]').hexdigest()


@settings(deadline=None)
@given(dataframes(max_cols=4, max_size=8, allow_masked_out=True, excluded_dtypes=[pl.Extension]))
def test_survives_parquet(frame: pl.DataFrame) -> None:
    assert content_digest(through_parquet(frame, compression="zstd")) == content_digest(frame)


@settings(deadline=None)
@given(tables(), st.data())
def test_does_not_depend_on_chunks_file_or_writer(frame: pl.DataFrame, data: st.DataObject) -> None:
    digest = content_digest(frame)
    cut = data.draw(st.integers(0, frame.height))
    pieces = pl.concat([frame[:cut], frame[cut:]], rechunk=False)
    assert content_digest(pieces) == digest
    longer = pl.concat([frame, frame, frame])
    assert content_digest(longer.slice(frame.height, frame.height)) == digest
    assert content_digest(through_parquet(frame, compression="uncompressed", row_group_size=1)) == digest
    ipc = frame.write_ipc(None, compression="lz4")
    ipc.seek(0)
    assert content_digest(pl.read_ipc(ipc)) == digest


def test_does_not_depend_on_the_parquet_library() -> None:
    frame = pl.DataFrame({"a": [1, None], "b": ["x", None], "c": [[1], None], "d": [1.5, math.nan]})
    file = io.BytesIO()
    pq.write_table(frame.to_arrow(), file, version="1.0", compression="gzip", use_dictionary=False)
    file.seek(0)
    assert content_digest(pl.read_parquet(file)) == content_digest(frame)


@settings(deadline=None, max_examples=300)
@given(tables(), st.data())
def test_changes_with_any_cell(frame: pl.DataFrame, data: st.DataObject) -> None:
    column = data.draw(st.sampled_from(frame.columns))
    row = data.draw(st.integers(0, frame.height - 1))
    kind = frame.schema[column]
    cell = column_of(kind, [data.draw(st.none() | VALUES[kind])], column)
    before = frame[column]
    after = pl.concat([before[:row], cell, before[row + 1 :]])
    assume(not after.equals(before, null_equal=True))
    changed = frame.with_columns(after)
    assert changed.schema == frame.schema
    assert content_digest(changed) != content_digest(frame)


@settings(deadline=None)
@given(tables(min_rows=2), st.data())
def test_changes_with_the_order_of_rows(frame: pl.DataFrame, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(frame.height)))
    swapped = frame[list(order)]
    assert (content_digest(swapped) == content_digest(frame)) == swapped.equals(frame)


@settings(deadline=None)
@given(tables())
def test_changes_with_columns_and_rows(frame: pl.DataFrame) -> None:
    others = [
        frame.rename({frame.columns[0]: "renamed"}),
        frame.with_columns(added=pl.lit(None)),
        frame.drop(frame.columns[0]),
        pl.concat([frame, frame]),
        frame.clear(),
        frame.with_row_index(),
    ]
    if frame.width > 1:
        others.append(frame.select(reversed(frame.columns)))
    digests = [content_digest(other) for other in (frame, *others)]
    assert len(set(digests)) == len(digests)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (pl.Series([None], dtype=pl.String), pl.Series([""])),
        (pl.Series([None], dtype=pl.Int64), pl.Series([0])),
        (pl.Series([None], dtype=pl.Float64), pl.Series([math.nan])),
        (pl.Series([1], dtype=pl.Int32), pl.Series([1], dtype=pl.Int64)),
        (pl.Series([1], dtype=pl.Int64), pl.Series([1], dtype=pl.UInt64)),
        (pl.Series([0.0]), pl.Series([-0.0])),
        (pl.Series(["a"]), pl.Series([b"a"])),
        (pl.Series(["a"]), pl.Series(["a"], dtype=pl.Categorical)),
        (pl.Series(["a"], dtype=pl.Enum(["a"])), pl.Series(["a"], dtype=pl.Enum(["a", "b"]))),
        (pl.Series(["ab", "c"]), pl.Series(["a", "bc"])),
        (pl.Series([[1], [2, 3]]), pl.Series([[1, 2], [3]])),
        (pl.Series([[None]], dtype=pl.List(pl.Int8)), pl.Series([[]], dtype=pl.List(pl.Int8))),
        (pl.Series([None], dtype=pl.List(pl.Int8)), pl.Series([[]], dtype=pl.List(pl.Int8))),
        (pl.Series([None], dtype=pl.Struct({"a": pl.Int8})), pl.Series([{"a": None}], dtype=pl.Struct({"a": pl.Int8}))),
        (pl.Series([{"a": 1}]), pl.Series([{"b": 1}])),
        (pl.Series([0], dtype=pl.Datetime("ms")), pl.Series([0], dtype=pl.Datetime("us"))),
        (pl.Series([0], dtype=pl.Datetime("ms")), pl.Series([0], dtype=pl.Datetime("ms", "UTC"))),
        (pl.Series([0], dtype=pl.Datetime("ms", "UTC")), pl.Series([0], dtype=pl.Datetime("ms", "Asia/Tokyo"))),
        (pl.Series([Decimal("1.0")], dtype=pl.Decimal(9, 1)), pl.Series([Decimal("1.0")], dtype=pl.Decimal(9, 2))),
    ],
    ids=lambda series: f"{series.dtype}",
)
def test_tells_close_relatives_apart(one: pl.Series, other: pl.Series) -> None:
    assert content_digest(one.alias("x").to_frame()) != content_digest(other.alias("x").to_frame())


def test_content_does_not_move_between_columns() -> None:
    assert content_digest(pl.DataFrame({"a": ["x"], "b": [""]})) != content_digest(
        pl.DataFrame({"a": [""], "b": ["x"]})
    )
    assert content_digest(pl.DataFrame({"a": [1], "b": [2]})) != content_digest(pl.DataFrame({"a": [2], "b": [1]}))


def test_ignores_what_lies_under_a_null() -> None:
    def masked(under: int) -> pl.DataFrame:
        mask, values = pa.py_buffer(b"\x05"), pa.py_buffer(np.array([1, under, 3], "<i8"))
        return pl.DataFrame({"x": pl.from_arrow(pa.Array.from_buffers(pa.int64(), 3, [mask, values]))})

    assert masked(7)["x"].to_list() == [1, None, 3]
    assert content_digest(masked(7)) == content_digest(masked(8)) == content_digest(pl.DataFrame({"x": [1, None, 3]}))


@pytest.mark.parametrize(
    ("floats", "integers", "quiet"),
    [("<f4", "<u4", 0x7FC00000), ("<f8", "<u8", 0x7FF8000000000000)],
    ids=["float32", "float64"],
)
def test_ignores_the_payload_of_a_nan(floats: str, integers: str, quiet: int) -> None:
    def with_payload(payload: int) -> pl.DataFrame:
        return pl.DataFrame({"x": np.array([quiet | payload, 0], integers).view(floats)})

    assert content_digest(with_payload(1)) == content_digest(with_payload(2)) == content_digest(with_payload(0))
    negative = pl.DataFrame({"x": -with_payload(0)["x"].to_numpy()})
    assert content_digest(negative.with_columns(pl.col("x").abs())) == content_digest(with_payload(5))


def test_ignores_the_codes_of_categories() -> None:
    direct = pl.Series("x", ["b", "a", None], dtype=pl.Categorical)
    seen_before = pl.Series("x", ["a", "b", "b", "a", None], dtype=pl.Categorical)[2:]
    assert direct.to_list() == seen_before.to_list()
    assert content_digest(direct.to_frame()) == content_digest(seen_before.to_frame())


def test_maps_count_their_entries_in_order() -> None:
    kind = pl.Map(pl.String, pl.Int64)
    digests = {
        content_digest(pl.Series("x", [value], dtype=kind).to_frame())
        for value in ({"a": 1, "b": 2}, {"b": 2, "a": 1}, {"a": 1}, {}, None)
    }
    assert len(digests) == 5
    frame = pl.Series("x", [{"a": 1, "b": 2}, None, {}], dtype=kind).to_frame()
    assert content_digest(through_parquet(frame)) == content_digest(frame)


@pytest.mark.parametrize(
    "column",
    [
        pl.Series("odd", [object()], dtype=pl.Object),
        pl.Series("odd", [{}], dtype=pl.Struct({})),
        pl.Series("odd", [[{}]], dtype=pl.List(pl.Struct({}))),
        pl.Series("odd", [1], dtype=pl.Int8).ext.to(pl.Extension("team.money", pl.Int8())),
    ],
    ids=["object", "struct without fields", "list of those", "extension"],
)
def test_refuses_what_parquet_cannot_hold(column: pl.Series) -> None:
    with pytest.raises(TypeError, match=r"column 'odd' is of type .*, which a snapshot cannot hold: cast it") as caught:
        content_digest(pl.DataFrame({"fine": [1]}).with_columns(column))
    assert isinstance(caught.value, UnsupportedColumn)
