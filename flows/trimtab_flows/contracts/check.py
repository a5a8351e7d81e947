"""Checks one table against its contract: which rows may pass, which are held back, or why none may.

pandera runs the checks. Its own ``drop_invalid_rows`` is never used, whatever the schema says: it drops rows without a
word, all of them if a column cannot be read.
"""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pandera.polars as pa
import polars as pl

from trimtab_flows.contracts.contract import CheckFailure, Contract, Verdict
from trimtab_flows.contracts.findings import Finding, findings, looks_at_one_row
from trimtab_flows.contracts.reading import RESERVED, Reading, read, schema_of
from trimtab_flows.contracts.rules import table_failures

__all__ = ["FAILED_CHECKS", "check"]

#: The column that quarantined rows have beside their own: ``column: check``, joined by ``; ``.
FAILED_CHECKS = "failed_checks"


def check(contract: Contract, frame: pl.DataFrame, *, as_of: datetime, zone: ZoneInfo | None = None) -> Verdict:
    """Check a table before it is handed on.

    Args:
        contract: what the table must be.
        frame: the table, shape (rows, columns). Columns that the contract does not name are left out of ``accepted``
            and named in ``extra_columns``, unless the schema is strict: then they refuse the table. A column without a
            single value (polars type Null) is read as the type that the schema asks for.
        as_of: the moment the table speaks for. Without a time zone it is a clock time of ``zone``.
        zone: where clocks show ``as_of``; the event time's own zone when not given.

    Returns:
        ok: every row is in ``accepted``. quarantined: some rows are in ``quarantined`` as they came in, with their
        reasons, the others in ``accepted``, which passes the contract by itself. refused: both are empty, and
        ``failures`` has all that was found: first what refused the table, then the rows' failures.

    Raises:
        TypeError: ``frame`` is no polars DataFrame; of a LazyFrame, pandera would check the types only.
        ValueError: ``as_of`` has a time zone and the event time has none; or the contract asks for what cannot be
            checked (a column named ``failed_checks``, pandera parsers, pandera's pydantic row models).
    """
    _must_be_checkable(contract, frame)
    reading = read(contract, frame)
    refusals = [*reading.failures, *table_failures(contract, reading, as_of, zone)]
    # An empty table that may be empty is checked like any other; of one that may not, nothing more can be said.
    found = [] if frame.is_empty() and refusals else findings(contract, reading, reading.frame)
    refusals += [finding.failure for finding in found if finding.failed is None]
    held_back = [finding for finding in found if finding.failed is not None]
    bad = _any_failed(held_back, frame.height)
    accepted = reading.frame.filter(~bad) if held_back else reading.frame
    refusals += _too_many(contract, frame.height, accepted.height)
    if held_back and not refusals and accepted.height:
        refusals += _broken_by_the_gap(contract, reading, accepted)
    failures = (*refusals, *(finding.failure for finding in held_back))
    if refusals:
        nothing = frame.clear()
        return Verdict(
            contract.table, "refused", frame.height, nothing, _quarantine(nothing, [], bad), failures, reading.extra
        )
    return Verdict(
        contract.table,
        "quarantined" if held_back else "ok",
        frame.height,
        accepted.select(reading.named),
        _quarantine(frame, held_back, bad),
        failures,
        reading.extra,
    )


def _must_be_checkable(contract: Contract, frame: pl.DataFrame) -> None:
    if not isinstance(frame, pl.DataFrame):
        hint = "; call collect() first" if isinstance(frame, pl.LazyFrame) else ""
        raise TypeError(f"table {contract.table!r} is a {type(frame).__name__}; a contract checks a DataFrame{hint}")
    schema = schema_of(contract)
    taken = sorted(column for column in schema.columns if column == FAILED_CHECKS or column in RESERVED)
    if taken:
        raise ValueError(f"contract {contract.table!r}: the column name {taken[0]!r} is taken by the check; rename it")
    if any(getattr(part, "parsers", None) for part in (schema, *schema.columns.values())):
        raise ValueError(
            f"contract {contract.table!r}: pandera runs no parsers on polars tables; change the values in build()"
        )
    if "Pydantic" in type(schema.dtype).__name__:
        raise ValueError(f"contract {contract.table!r}: a pydantic row model is not supported; name the columns")


def _any_failed(held_back: list[Finding], rows: int) -> pl.Series:
    """Which rows failed at least one check, shape (rows,)."""
    bad = pl.repeat(False, rows, dtype=pl.Boolean, eager=True)
    for finding in held_back:
        assert finding.failed is not None
        bad = bad | finding.failed
    return bad


def _too_many(contract: Contract, rows: int, left: int) -> list[CheckFailure]:
    """The refusal because too many rows would be held back, or too few left."""
    if left == rows:
        return []
    if (rows - left) / rows > contract.max_quarantined_share:
        said = f"more than {contract.max_quarantined_share:.2%} of all rows ({rows:,}) would be held back"
        return [CheckFailure(contract.table, "(any)", said, rows - left)]
    if rows >= contract.min_rows > left:
        said = f"fewer than {contract.min_rows:,} rows would be left" if left else "no row would be left"
        return [CheckFailure(contract.table, "(table)", said, left)]
    return []


def _broken_by_the_gap(contract: Contract, reading: Reading, accepted: pl.DataFrame) -> list[CheckFailure]:
    """What the other rows fail once the bad ones are gone: a check on a mean, a rank, a group."""
    left = findings(contract, reading, accepted, keep=_looks_at_other_rows)
    return [
        CheckFailure(
            finding.failure.table,
            finding.failure.column,
            f"{finding.failure.check}, once the failing rows are held back",
            finding.failure.count,
            finding.failure.samples,
        )
        for finding in left
    ]


def _looks_at_other_rows(check: pa.Check) -> bool:
    return not looks_at_one_row(check)


def _quarantine(frame: pl.DataFrame, held_back: list[Finding], bad: pl.Series) -> pl.DataFrame:
    """The bad rows as they came in, with all their reasons."""
    rows = frame.filter(bad) if held_back else frame.clear()
    reasons = pl.DataFrame(
        [
            pl.select(pl.when(finding.failed.filter(bad)).then(pl.lit(reason)).alias(str(place))).to_series()
            for place, finding in enumerate(held_back)
            if finding.failed is not None
            for reason in [f"{finding.failure.column}: {finding.failure.check}"]
        ]
    )
    if not held_back:
        return rows.with_columns(pl.lit(None, dtype=pl.String).alias(FAILED_CHECKS))
    return rows.with_columns(
        reasons.select(pl.concat_str(pl.all(), separator="; ", ignore_nulls=True).alias(FAILED_CHECKS)).to_series()
    )
