"""What a table must be as a whole, whatever its schema says: enough rows, a sound key, nothing from the future."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import polars as pl

from trimtab_flows.contracts import samples
from trimtab_flows.contracts.contract import CheckFailure, Contract
from trimtab_flows.contracts.reading import Reading

__all__ = ["table_failures"]


def table_failures(
    contract: Contract, reading: Reading, as_of: datetime, zone: ZoneInfo | None = None
) -> Iterator[CheckFailure]:
    """Why the table is refused whatever its rows hold.

    Raises:
        ValueError: ``as_of`` has a time zone and the event time has none, so that they cannot be compared.
    """
    frame = reading.frame
    if frame.height < contract.min_rows:
        said = "the table is empty" if frame.is_empty() else f"fewer than {contract.min_rows:,} rows"
        yield CheckFailure(contract.table, "(table)", said, frame.height)
    if frame.is_empty():
        return
    if contract.key and set(contract.key) <= set(frame.columns):
        yield from _key_failures(contract, frame)
    if contract.event_time in frame.columns and contract.event_time not in reading.broken:
        yield from _time_failures(contract, frame, contract.event_time, as_of, zone)


def _key_failures(contract: Contract, frame: pl.DataFrame) -> Iterator[CheckFailure]:
    key, name = list(contract.key), ", ".join(contract.key)
    opaque = [column for column in key if frame.schema[column] == pl.Object]
    if opaque:
        said = "the key has values that cannot be compared (type Object)"
        yield CheckFailure(contract.table, ", ".join(opaque), said, frame.height, samples.of_column(frame, opaque[0]))
        return
    empty = frame.select(pl.any_horizontal(_is_empty(column, frame.schema[column]) for column in key)).to_series()
    if empty.any():
        shown = samples.of_rows(frame, key, empty)
        yield CheckFailure(contract.table, name, "the key is null", int(empty.sum()), shown)
    repeated = _repeated(frame.select(key))
    if repeated is not None:
        repeated = repeated & ~empty
        if repeated.any():
            shown = samples.of_rows(frame, key, repeated)
            yield CheckFailure(contract.table, name, "the key is not unique", int(repeated.sum()), shown)


def _is_empty(column: str, kind: pl.DataType) -> pl.Expr:
    empty = pl.col(column).is_null()
    return empty | pl.col(column).is_nan() if kind.is_float() else empty


def _repeated(keys: pl.DataFrame) -> pl.Series | None:
    """Which rows have a key that another row has too, shape (rows,); None if there are none.

    Equal keys have equal hashes, so as many hashes as rows proves all keys different, in a fifth of the time. Anything
    else, a collision included, is looked at in full.
    """
    if keys.hash_rows().n_unique() == keys.height:
        return None
    return keys.is_duplicated()


def _time_failures(
    contract: Contract, frame: pl.DataFrame, column: str, as_of: datetime, of: ZoneInfo | None
) -> Iterator[CheckFailure]:
    times = frame.get_column(column)
    if times.dtype == pl.Null:  # the schema gives it no type, and it has no value
        return
    if not isinstance(times.dtype, pl.Date | pl.Datetime):
        said = f"the type is {times.dtype}; an event time is a Date or a Datetime"
        yield CheckFailure(contract.table, column, said, frame.height, samples.of_column(frame, column))
        return
    later = _later_than(contract, times, as_of, of)
    if later.any():
        said = f"later than {as_of.isoformat(sep=' ')}"
        yield CheckFailure(contract.table, column, said, int(later.sum()), samples.of_column(frame, column, later))


def _later_than(contract: Contract, times: pl.Series, as_of: datetime, of: ZoneInfo | None) -> pl.Series:
    """Which times are later than a moment, shape (rows,); one without a zone is a clock time of ``of``."""
    zone = times.dtype.time_zone if isinstance(times.dtype, pl.Datetime) else None
    if zone is None and as_of.tzinfo is not None:
        raise ValueError(
            f"table {contract.table!r}: as_of is {as_of.isoformat(sep=' ')}, and event time {times.name!r} has no time "
            "zone; pass as_of without one, in the time that the data is in"
        )
    if zone is not None and as_of.tzinfo is None:
        # A moment that a clock shows twice, or leaves out: the later reading, which refuses no row wrongly.
        as_of = max(as_of.replace(tzinfo=of or ZoneInfo(zone), fold=fold).astimezone(UTC) for fold in (0, 1))
    column = times.cast(pl.Datetime("us")) if times.dtype == pl.Date else times
    limit = pl.lit(as_of) if zone is None else pl.lit(as_of.astimezone(UTC)).dt.convert_time_zone(zone)
    return column.to_frame("time").select((pl.col("time") > limit).fill_null(False)).to_series()
