"""Checks one table against its contract: which rows may pass, which are held back, or why none may.

pandera runs the row checks; what a table as a whole must be (rows, key, moment) is asked here. pandera's own
``drop_invalid_rows`` is never used: with a column that cannot be read it returns an empty table and no error.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from datetime import datetime

import pandera.polars as pa
import polars as pl
from pandera.errors import SchemaError, SchemaErrorReason, SchemaErrors

from trimtab_flows.contracts.contract import CheckFailure, Contract, Verdict

__all__ = ["FAILED_CHECKS", "check"]

#: The column that quarantined rows have beside their own: ``column: check``, joined by ``; ``.
FAILED_CHECKS = "failed_checks"

_SAMPLES = 3
_SAMPLE_WIDTH = 80
_ROW_REASONS = frozenset({SchemaErrorReason.DATAFRAME_CHECK, SchemaErrorReason.SERIES_CONTAINS_NULLS})


def check(contract: Contract, frame: pl.DataFrame, *, as_of: datetime) -> Verdict:
    """Check a table before it is handed on.

    Args:
        contract: what the table must be.
        frame: the table, shape (rows, columns). Columns that the contract does not name are left out of ``accepted``
            and named in ``extra_columns``, unless the schema is strict: then they refuse the table.
        as_of: the moment the table speaks for. Without a time zone it is read in the event time's own.

    Returns:
        ok: every row is in ``accepted``. quarantined: some rows are in ``quarantined`` with their reasons, the others
        in ``accepted``. refused: both are empty, and ``failures`` has all that was found.

    Raises:
        TypeError: ``frame`` is no polars DataFrame; of a LazyFrame, pandera would check the types only.
    """
    if not isinstance(frame, pl.DataFrame):
        hint = "; call collect() first" if isinstance(frame, pl.LazyFrame) else ""
        raise TypeError(f"table {contract.table!r} is a {type(frame).__name__}; a contract checks a DataFrame{hint}")
    schema = _schema(contract)
    extra = tuple(column for column in frame.columns if column not in schema.columns)
    refusals = list(_table_failures(contract, frame, as_of))
    if frame.is_empty() and refusals:
        return _refused(contract, frame, refusals, extra)
    checked, errors = _run_pandera(schema, frame)
    row_failures: list[tuple[CheckFailure, pl.Series]] = []
    for error in errors:
        failed = _failed_rows(error, frame.height)
        if failed is None:
            refusals.append(_describe_column(contract, frame, error))
        else:
            row_failures.append((_describe_rows(contract, frame, error, failed), failed))
    failures = [*refusals, *(failure for failure, _ in row_failures)]
    if refusals:
        return _refused(contract, frame, failures, extra)
    if checked is not None:
        return Verdict(contract.table, "ok", frame.height, _named(schema, checked), _quarantine(frame.clear(), []), (), extra)
    bad = row_failures[0][1]
    for _, failed in row_failures[1:]:
        bad = bad | failed
    share = int(bad.sum()) / frame.height
    if share > contract.max_quarantined_share:
        limit = f"more than {contract.max_quarantined_share:.2%} of {frame.height:,} rows would be held back"
        failures.insert(0, CheckFailure(contract.table, "(any)", limit, int(bad.sum())))
        return _refused(contract, frame, failures, extra)
    rest, left = _run_pandera(schema, frame.filter(~bad))
    if rest is None or rest.height + int(bad.sum()) != frame.height:
        # A check that looks at several rows at once (a mean, a rank) found other rows once these were gone.
        again = [_describe_column(contract, frame, error) for error in left]
        return _refused(contract, frame, [*again, *failures], extra)
    quarantined = _quarantine(frame, row_failures)
    return Verdict(
        contract.table, "quarantined", frame.height, _named(schema, rest), quarantined, tuple(failures), extra
    )


def _schema(contract: Contract) -> pa.DataFrameSchema:
    """The contract's schema, with nothing in it that drops rows or columns in silence."""
    schema = contract.schema if isinstance(contract.schema, pa.DataFrameSchema) else contract.schema.to_schema()
    if schema.drop_invalid_rows or schema.strict == "filter":
        schema = copy.copy(schema)
        schema.drop_invalid_rows = False
        schema.strict = False if schema.strict == "filter" else schema.strict
    return schema


def _run_pandera(schema: pa.DataFrameSchema, frame: pl.DataFrame) -> tuple[pl.DataFrame | None, list[SchemaError]]:
    """The validated table, or None and all errors."""
    try:
        checked = schema.validate(frame, lazy=True)
    except SchemaErrors as errors:
        return None, list(errors.schema_errors)
    except SchemaError as error:
        return None, [error]
    assert isinstance(checked, pl.DataFrame)
    return checked, []


def _named(schema: pa.DataFrameSchema, frame: pl.DataFrame) -> pl.DataFrame:
    """The columns that the contract names, in its order; an optional one may be absent."""
    return frame.select([column for column in schema.columns if column in frame.columns])


def _table_failures(contract: Contract, frame: pl.DataFrame, as_of: datetime) -> Iterator[CheckFailure]:
    """What refuses the table whatever its rows hold: too few rows, a broken key, a moment yet to come."""
    if frame.height < contract.min_rows:
        found = "the table is empty" if frame.is_empty() else f"fewer than {contract.min_rows:,} rows"
        yield CheckFailure(contract.table, "(table)", found, frame.height)
    key = list(contract.key)
    if key and set(key) <= set(frame.columns) and not frame.is_empty():
        name = ", ".join(key)
        empty = frame.select(pl.any_horizontal(pl.col(key).is_null())).to_series()
        if empty.any():
            yield CheckFailure(contract.table, name, "the key is null", int(empty.sum()), _rows_of(frame, key, empty))
        repeated = frame.select(key).is_duplicated()
        if repeated.any():
            samples = frame.select(key).filter(repeated).unique(maintain_order=True)
            shown = _rows_of(samples, key, pl.repeat(True, samples.height, eager=True))
            yield CheckFailure(contract.table, name, "the key is not unique", int(repeated.sum()), shown)
    column = contract.event_time
    if column in frame.columns and frame.schema[column].is_temporal():
        later = _later_than(frame.get_column(column), as_of)
        if later.any():
            said = f"later than {as_of.isoformat(sep=' ')}"
            yield CheckFailure(contract.table, column, said, int(later.sum()), _samples(frame, column, later))


def _later_than(times: pl.Series, as_of: datetime) -> pl.Series:
    """Which times are later than a moment; a moment without a zone is in the column's own, and the reverse."""
    zone = getattr(times.dtype, "time_zone", None)
    if zone is None:
        limit = pl.lit(as_of.replace(tzinfo=None))
    elif as_of.tzinfo is None:
        limit = pl.lit(as_of).dt.replace_time_zone(zone)
    else:
        limit = pl.lit(as_of).dt.convert_time_zone(zone)
    frame = times.to_frame("time")
    column = pl.col("time").cast(pl.Datetime("us")) if times.dtype == pl.Date else pl.col("time")
    return frame.select((column > limit).fill_null(False)).to_series()


def _failed_rows(error: SchemaError, rows: int) -> pl.Series | None:
    """Which rows failed, shape (rows,); None if the error is not about single rows."""
    output = error.check_output
    if error.reason_code not in _ROW_REASONS or not isinstance(output, pl.DataFrame) or output.height != rows:
        return None
    passed = output.get_column("check_output") if "check_output" in output.columns else output.to_series()
    if passed.dtype != pl.Boolean:
        return None
    failed = ~passed.fill_null(False)
    return failed if failed.any() else None


def _check_name(error: SchemaError) -> str:
    """A check as its author wrote it: greater_than_or_equal_to(0)."""
    found = error.check
    return str(getattr(found, "error", None) or getattr(found, "name", None) or found)


def _column_of(error: SchemaError) -> str:
    column = getattr(error, "column_name", None) or getattr(error.schema, "name", None)
    return str(column) if column else "(row)"


def _describe_rows(contract: Contract, frame: pl.DataFrame, error: SchemaError, failed: pl.Series) -> CheckFailure:
    column = _column_of(error)
    columns = [column] if column in frame.columns else frame.columns
    samples = _samples(frame, column, failed) if len(columns) == 1 else _rows_of(frame, columns, failed)
    return CheckFailure(contract.table, column, _check_name(error), int(failed.sum()), samples)


def _describe_column(contract: Contract, frame: pl.DataFrame, error: SchemaError) -> CheckFailure:
    """An error about a whole column: absent, of another type, not in the contract, or failed as a whole."""
    column = _column_of(error)
    match error.reason_code:
        case SchemaErrorReason.COLUMN_NOT_IN_DATAFRAME:
            return CheckFailure(contract.table, str(error.failure_cases), "the column is missing", frame.height)
        case SchemaErrorReason.COLUMN_NOT_IN_SCHEMA:
            name = str(error.failure_cases)
            return CheckFailure(
                contract.table, name, "the column is not in the contract", frame.height, _head(frame, name)
            )
        case SchemaErrorReason.WRONG_DATATYPE:
            said = f"the type is {frame.schema[column]}, not {error.schema.dtype}"
            return CheckFailure(contract.table, column, said, frame.height, _head(frame, column))
        case SchemaErrorReason.DATATYPE_COERCION:
            values, count = _uncoercible(error, frame, column)
            return CheckFailure(contract.table, column, f"cannot be read as {error.schema.dtype}", count, values)
        case SchemaErrorReason.DUPLICATES | SchemaErrorReason.SERIES_CONTAINS_DUPLICATES:
            repeated = frame.get_column(column).is_duplicated() if column in frame.columns else frame.is_duplicated()
            samples = _samples(frame, column, repeated) if column in frame.columns else ()
            return CheckFailure(contract.table, column, "the values are not unique", int(repeated.sum()), samples)
    return CheckFailure(contract.table, column, _check_name(error), frame.height, _head(frame, column))


def _uncoercible(error: SchemaError, frame: pl.DataFrame, column: str) -> tuple[tuple[str, ...], int]:
    """Values that cannot be read as the column's type, and how many there are."""
    if column not in frame.columns:
        return (), frame.height
    values = frame.get_column(column)
    kind = getattr(error.schema.dtype, "type", None)
    if kind is not None:
        lost = values.cast(kind, strict=False).is_null() & values.is_not_null()
        return _samples(frame, column, lost), int(lost.sum())
    return _head(frame, column), frame.height


def _refused(
    contract: Contract, frame: pl.DataFrame, failures: list[CheckFailure], extra: tuple[str, ...]
) -> Verdict:
    nothing = frame.clear()
    return Verdict(
        contract.table, "refused", frame.height, nothing, _quarantine(nothing, []), tuple(failures), extra
    )


def _quarantine(frame: pl.DataFrame, failures: list[tuple[CheckFailure, pl.Series]]) -> pl.DataFrame:
    """The rows that failed at least one check, with all their reasons."""
    masks = pl.DataFrame([failed.alias(str(place)) for place, (_, failed) in enumerate(failures)])
    reasons = [
        pl.when(pl.col(str(place))).then(pl.lit(f"{failure.column}: {failure.check}"))
        for place, (failure, _) in enumerate(failures)
    ]
    if not reasons:
        return frame.with_columns(pl.lit(None, dtype=pl.String).alias(FAILED_CHECKS))
    text = masks.select(pl.concat_str(reasons, separator="; ", ignore_nulls=True).alias(FAILED_CHECKS)).to_series()
    bad = masks.select(pl.any_horizontal(pl.all())).to_series()
    return frame.with_columns(text).filter(bad)


def _text(value: object) -> str:
    said = repr(value) if isinstance(value, str) else str(value)
    return said if len(said) <= _SAMPLE_WIDTH else f"{said[: _SAMPLE_WIDTH - 3]}..."


def _samples(frame: pl.DataFrame, column: str, rows: pl.Series) -> tuple[str, ...]:
    """Up to three different values of a column in the given rows."""
    found = frame.get_column(column).filter(rows)
    return tuple(_text(value) for value in found.head(1000).unique(maintain_order=True).head(_SAMPLES))


def _rows_of(frame: pl.DataFrame, columns: list[str], rows: pl.Series) -> tuple[str, ...]:
    """Up to three of the given rows, as text."""
    found = frame.select(columns).filter(rows).head(_SAMPLES)
    return tuple(_text(", ".join(f"{name}={value}" for name, value in row.items())) for row in found.iter_rows(named=True))


def _head(frame: pl.DataFrame, column: str) -> tuple[str, ...]:
    if column not in frame.columns:
        return ()
    return _samples(frame, column, pl.repeat(True, frame.height, eager=True))
