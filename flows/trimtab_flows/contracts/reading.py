"""A table as the schema of its contract reads it: which columns it has, of which types, and what cannot be read.

pandera stops at the first column it cannot coerce, fails without a report when a column to coerce is absent, and turns
1.5 into 1 where whole numbers are asked for. Here each column is read by itself, so that all findings are reported.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pandera.polars as pa
import polars as pl
from pandera.api.polars.types import PolarsData
from pandera.backends.polars.components import ColumnBackend
from pandera.constants import CHECK_OUTPUT_KEY
from pandera.errors import ParserError

from trimtab_flows.contracts import samples
from trimtab_flows.contracts.contract import CheckFailure, Contract

__all__ = ["RESERVED", "Reading", "read", "schema_of"]

#: Columns that pandera adds to a table while it checks it; a column of the table's own by such a name makes it fail.
RESERVED = frozenset({CHECK_OUTPUT_KEY, "_duplicated"})

#: What polars and pandera raise for values or types that cannot be cast.
_UNREADABLE = (pl.exceptions.PolarsError, TypeError, ValueError)


@dataclass(frozen=True)
class Reading:
    """What was read. ``frame`` has the table's rows in their order, its types coerced and its defaults filled in.

    ``columns`` are the schema's columns by their name in the frame (a pattern stands once for each column it matches);
    ``named`` the columns of ``frame`` that the contract names, and ``extra`` the others. ``broken`` are the columns
    that are missing or cannot be read: checks on them would say nothing more.
    """

    frame: pl.DataFrame
    schema: pa.DataFrameSchema
    columns: Mapping[str, pa.Column]
    named: tuple[str, ...]
    extra: tuple[str, ...]
    failures: tuple[CheckFailure, ...]
    broken: frozenset[str]


def schema_of(contract: Contract) -> pa.DataFrameSchema:
    """The contract's schema; of a model, the one it stands for."""
    return contract.schema if isinstance(contract.schema, pa.DataFrameSchema) else contract.schema.to_schema()


def read(contract: Contract, frame: pl.DataFrame) -> Reading:
    """Read a table by its contract; whatever cannot be read is among ``failures``, and left as it came in ``frame``."""
    schema = schema_of(contract)
    columns, missing = _match(contract, schema, frame)
    demanded = [*contract.key, *([contract.event_time] if contract.event_time else [])]
    # A schema without columns has checks on rows only: then every column of the table is the contract's.
    named = dict.fromkeys([*(columns if schema.columns else frame.columns), *demanded])
    known = tuple(column for column in named if column in columns or column in frame.columns)
    extra = tuple(column for column in frame.columns if column not in known)
    ready = frame.drop([column for column in extra if column in RESERVED])
    ready, unread = _read_columns(contract, columns, ready)
    failures = [*missing, *unread]
    reported = {failure.column for failure in failures}
    failures += [
        CheckFailure(contract.table, column, "the column is missing", frame.height)
        for column in dict.fromkeys(demanded)
        if column not in ready.columns and column not in reported
    ]
    broken = frozenset(failure.column for failure in failures)
    failures += _misplaced(contract, schema, columns, frame)
    return Reading(ready, schema, columns, known, extra, tuple(failures), broken)


def _match(
    contract: Contract, schema: pa.DataFrameSchema, frame: pl.DataFrame
) -> tuple[dict[str, pa.Column], list[CheckFailure]]:
    """The schema's columns that the frame has or gets, by name, and those it lacks."""
    found: dict[str, pa.Column] = {}
    failures: list[CheckFailure] = []
    for name, column in schema.columns.items():
        if column.regex:
            matches = [each for each in frame.select(pl.col(column.selector)).columns if each not in schema.columns]
            missing = "no column has a name like this"
        else:
            added = schema.add_missing_columns and (column.default is not None or column.nullable)
            matches = [name] if name in frame.columns or (added and column.required) else []
            missing = "the column is missing"
        if not matches and column.required:
            failures.append(CheckFailure(contract.table, name, missing, frame.height))
        found |= {match: _as_named(column, match, schema) for match in matches}
    if not schema.columns and schema.dtype is not None:
        found = {name: pa.Column(schema.dtype, name=name, nullable=True) for name in frame.columns}
    return found, failures


def _as_named(column: pa.Column, name: str, schema: pa.DataFrameSchema) -> pa.Column:
    """A copy for one column of the frame, with what the schema says for all of them."""
    column = copy.copy(column)
    column.coerce = bool(column.coerce or schema.coerce)
    column.regex = False
    column.name = name
    if schema.dtype is not None:
        column.dtype = schema.dtype
    return column


def _read_columns(
    contract: Contract, columns: Mapping[str, pa.Column], frame: pl.DataFrame
) -> tuple[pl.DataFrame, list[CheckFailure]]:
    """Coerce and fill in each column; and those that are of another type or cannot be coerced."""
    failures = []
    for name, column in columns.items():
        if name not in frame.columns:
            frame = frame.with_columns(pl.lit(None).alias(name))
        values = frame.get_column(name)
        read, failure = _read_values(contract, column, values)
        if failure is not None:
            failures.append(failure)
            continue
        if read is not values:
            frame = frame.with_columns(read.alias(name))
        if column.default is not None:
            frame = ColumnBackend().set_default(frame.lazy(), column).collect()
    return frame, failures


def _read_values(contract: Contract, column: pa.Column, values: pl.Series) -> tuple[pl.Series, CheckFailure | None]:
    """The values in the type that the schema asks for, or why not."""
    kind, frame = column.dtype, values.to_frame()
    if kind is None:
        return values, None
    if values.dtype == pl.Null:
        # A column without a single value has no type of its own (an empty CSV, a field that is null all month).
        try:
            return values.cast(kind.type), None
        except _UNREADABLE:
            pass
    if not column.coerce:
        if kind.check(values.dtype, PolarsData(frame.lazy(), values.name)):
            return values, None
        said = f"the type is {values.dtype}, not {kind}"
        return values, CheckFailure(
            contract.table, values.name, said, frame.height, samples.of_column(frame, values.name)
        )
    try:
        read = kind.try_coerce(PolarsData(frame.lazy(), values.name)).collect().get_column(values.name)
        lost = _cut_off(values, read)
    except ParserError as error:
        lost = _not_coercible(error, values)
    except _UNREADABLE:
        lost = values.is_not_null()
    if not lost.any():
        return read, None
    said = f"cannot be read as {kind}; the type is {values.dtype}"
    return values, CheckFailure(
        contract.table, values.name, said, int(lost.sum()), samples.of_column(frame, values.name, lost)
    )


def _cut_off(values: pl.Series, read: pl.Series) -> pl.Series:
    """Which numbers lost their fraction when they were made whole."""
    if values.dtype.is_float() and read.dtype.is_integer():
        return (values != read.cast(values.dtype)).fill_null(False)
    return pl.repeat(False, values.len(), dtype=pl.Boolean, eager=True)


def _not_coercible(error: ParserError, values: pl.Series) -> pl.Series:
    """Which values pandera could not coerce; it also counts nulls among them, which are none."""
    output = error.parser_output
    if isinstance(output, pl.DataFrame) and output.height == values.len():
        lost = ~output.get_column(CHECK_OUTPUT_KEY) & values.is_not_null()
        if lost.any():
            return lost
    return pl.repeat(True, values.len(), dtype=pl.Boolean, eager=True)


def _misplaced(
    contract: Contract, schema: pa.DataFrameSchema, columns: Mapping[str, pa.Column], frame: pl.DataFrame
) -> Iterator[CheckFailure]:
    """Columns beside the schema's where it is strict, and columns in another order where it is ordered."""
    if schema.strict is True:
        for column in frame.columns:
            if column not in columns:
                said = "the column is not in the schema, which is strict"
                shown = samples.of_column(frame, column)
                yield CheckFailure(contract.table, column, said, frame.height, shown)
    if schema.ordered:
        wanted = [column for column in columns if column in frame.columns]
        for column, other in zip(wanted, (each for each in frame.columns if each in columns), strict=True):
            if column != other:
                said = f"the column is out of order: the schema has {column!r} in its place"
                yield CheckFailure(contract.table, other, said, frame.height)
                return
