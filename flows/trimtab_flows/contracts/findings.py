"""What pandera's checks found in a table: each finding says which rows it is about, or that it is about no single row.

The parts of pandera's polars backend are called one by one. ``DataFrameSchema.validate`` ends in a report of all
failing values, and with pandera 0.35 that report raises for binary, duration and object columns, and takes more than a
second for each 100,000 rows that fail a check on whole rows (tests/flows/contracts/test_speed.py measures it).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import pandera.polars as pa
import polars as pl
from pandera.api.function_dispatch import Dispatcher
from pandera.backends.base import CoreCheckResult
from pandera.backends.polars.components import ColumnBackend
from pandera.backends.polars.container import DataFrameSchemaBackend
from pandera.config import ValidationDepth, config_context
from pandera.constants import CHECK_OUTPUT_KEY
from pandera.errors import SchemaErrorReason

from trimtab_flows.contracts import samples
from trimtab_flows.contracts.contract import CheckFailure, Contract
from trimtab_flows.contracts.reading import Reading

__all__ = ["Finding", "findings", "looks_at_one_row"]

Part = TypeVar("Part", pa.Column, pa.DataFrameSchema)

_ROW = "(row)"
_DUPLICATES = SchemaErrorReason.SERIES_CONTAINS_DUPLICATES


@dataclass(frozen=True)
class Finding:
    """A check that failed, and in which rows: booleans of shape (rows,), or None if it is not about single rows."""

    failure: CheckFailure
    failed: pl.Series | None


def looks_at_one_row(check: pa.Check) -> bool:
    """Whether the check says the same of a row whatever the other rows are: so do all that pandera ships but one."""
    built_in = isinstance(check._check_fn, Dispatcher) and check.name != "unique_values_eq"
    return built_in or bool(check.element_wise)


def findings(
    contract: Contract, reading: Reading, frame: pl.DataFrame, keep: Callable[[pa.Check], bool] | None = None
) -> list[Finding]:
    """Run the schema's checks.

    Args:
        contract: names the table and its key.
        reading: the columns to check; broken ones are left alone.
        frame: ``reading.frame`` or rows of it, shape (rows, columns).
        keep: only the checks that this says yes to, and neither nulls nor uniqueness. None: everything.

    Returns:
        what failed, in the order of the schema: column by column, then the checks on whole rows.
    """
    # pandera can be switched off by an environment variable; a contract is never skipped in silence.
    with config_context(validation_enabled=True, validation_depth=ValidationDepth.SCHEMA_AND_DATA):
        found = []
        for name, column in reading.columns.items():
            if name not in reading.broken:
                results = _column_results(frame, column, keep)
                found += [_finding(contract, reading, frame, name, result) for result in results]
        found += [
            _finding(contract, reading, frame, _ROW, result)
            for result in _row_results(frame, reading.schema, keep)
            # A check on rows may read a broken column; that it then cannot be run is no news.
            if not (reading.broken and result.reason_code == SchemaErrorReason.CHECK_ERROR)
        ]
    return found if keep is not None else [*found, *_repeated_rows(contract, reading, frame)]


def _column_results(
    frame: pl.DataFrame, column: pa.Column, keep: Callable[[pa.Check], bool] | None
) -> list[CoreCheckResult]:
    column = _limited(column, keep)
    backend, lazy = ColumnBackend(), frame.lazy()
    results = [] if keep is not None else [*backend.check_nullable(lazy, column), *backend.check_unique(lazy, column)]
    return [result for result in (*results, *backend.run_checks(lazy, column)) if not result.passed]


def _row_results(
    frame: pl.DataFrame, schema: pa.DataFrameSchema, keep: Callable[[pa.Check], bool] | None
) -> list[CoreCheckResult]:
    results = DataFrameSchemaBackend().run_checks(frame.lazy(), _limited(schema, keep))
    return [result for result in results if not result.passed]


def _limited(part: Part, keep: Callable[[pa.Check], bool] | None) -> Part:
    """A copy whose checks collect one failing value: which rows failed is known without them."""
    part = copy.copy(part)
    part.checks = [copy.copy(check) for check in part.checks if keep is None or keep(check)]
    for check in part.checks:
        check.n_failure_cases = 1
    return part


def _repeated_rows(contract: Contract, reading: Reading, frame: pl.DataFrame) -> Iterator[Finding]:
    """Groups of columns that the schema wants to be unique together."""
    unique = reading.schema.unique or []
    for group in [unique] if all(isinstance(name, str) for name in unique) else unique:
        absent = [str(name) for name in group if name not in frame.columns and name not in reading.schema.columns]
        for name in absent:
            said = "the column is missing; the schema wants it to be unique"
            yield Finding(CheckFailure(contract.table, name, said, frame.height), None)
        # Without a column of the schema that may be absent, the others have to be unique: so says pandera.
        columns = [str(name) for name in group if name in frame.columns]
        if columns and not absent and not reading.broken & set(group):
            repeated = frame.select(columns).is_duplicated()
            if repeated.any():
                shown = samples.of_rows(frame, columns, repeated)
                name = ", ".join(columns)
                said = "the values are not unique"
                yield Finding(CheckFailure(contract.table, name, said, int(repeated.sum()), shown), None)


def _finding(
    contract: Contract, reading: Reading, frame: pl.DataFrame, column: str, result: CoreCheckResult
) -> Finding:
    failed = _failed_rows(result, frame.height)
    if failed is None:
        said = f"{_name(result)}, asked of the column as a whole"
        if result.reason_code == SchemaErrorReason.CHECK_ERROR:
            said = f"{_name(result)} could not be run: {_what_it_raised(result)}"
        shown = samples.of_column(frame, column)
        return Finding(CheckFailure(contract.table, column, said, frame.height, shown), None)
    if column == _ROW:
        first = [name for name in contract.key if name in frame.columns]
        shown = samples.of_rows(frame, list(dict.fromkeys([*first, *reading.named])), failed)
    else:
        shown = samples.of_column(frame, column, failed)
    repeated = result.reason_code == _DUPLICATES
    said = "the values are not unique" if repeated else _name(result)
    failure = CheckFailure(contract.table, column, said, int(failed.sum()), shown)
    # Which of two equal values is the wrong one is not known: neither may pass, nor be held back alone.
    return Finding(failure, None if repeated else failed)


def _failed_rows(result: CoreCheckResult, rows: int) -> pl.Series | None:
    """Which rows failed, shape (rows,); None if the check answered for the column as a whole."""
    output = result.check_output
    if not isinstance(result.failure_cases, pl.DataFrame) or not isinstance(output, pl.DataFrame):
        return None
    if output.height != rows or output.schema.get(CHECK_OUTPUT_KEY) != pl.Boolean:
        return None
    return ~output.get_column(CHECK_OUTPUT_KEY).fill_null(False)


def _name(result: CoreCheckResult) -> str:
    """A check as its author wrote it: greater_than_or_equal_to(0)."""
    check = result.check
    if not isinstance(check, pa.Check):
        return str(check)
    name = check.error or check.name
    code = getattr(check._check_fn, "__code__", None)
    if name == "<lambda>" and code is not None:
        return f"unnamed check (line {code.co_firstlineno} of {code.co_filename.rpartition('/')[2]})"
    return str(name)


def _what_it_raised(result: CoreCheckResult) -> str:
    """The error in one line: ``KeyError: 'delay'``."""
    error = result.original_exc
    if error is None:
        return str(result.failure_cases).partition("\n")[0]
    text = str(error).replace("\\n", "\n").strip().partition("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
