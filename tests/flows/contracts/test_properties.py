"""What holds for every table and contract: no row is lost, doubled or changed on its way through ``check``."""

from __future__ import annotations

import math
from datetime import datetime

import pandera.polars as pa
import polars as pl
from hypothesis import event, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from trimtab_flows.contracts.check import FAILED_CHECKS, check
from trimtab_flows.contracts.contract import Contract
from trimtab_flows.contracts.report import to_markdown, to_record

AS_OF = datetime(2013, 2, 1)
KINDS = {"place": pl.UInt32, "n": pl.Int64, "x": pl.Float64, "c": pl.String, "at": pl.Datetime("us"), "extra": pl.Int64}
#: Checks, each with what it says of a value that is neither null nor NaN, in Python.
CHECKS = {
    "n": [(pa.Check.ge(0), lambda value: value >= 0), (pa.Check.ne(3), lambda value: value != 3)],
    "x": [(pa.Check.in_range(-1, 1), lambda value: -1 <= value <= 1), (pa.Check.lt(0.5), lambda value: value < 0.5)],
    "c": [
        (pa.Check.isin(["a", "b"]), lambda value: value in ("a", "b")),
        (pa.Check.str_length(1, 1), lambda value: len(value) == 1),
    ],
}
SAYS = {(name, check.error): says for name, known in CHECKS.items() for check, says in known}
VALUES = {
    "n": st.integers(-2, 5),
    "x": st.floats(-2, 2) | st.sampled_from([math.nan, math.inf]),
    "c": st.sampled_from(["a", "b", "", "zz", "a|b`c"]),
    "at": st.datetimes(datetime(2013, 1, 1), datetime(2013, 2, 2)),
    "extra": st.integers(0, 9),
}


@st.composite
def tables(draw: st.DrawFn) -> pl.DataFrame:
    """Tables of up to 12 rows; half of them have nulls anywhere, and the key may repeat."""
    rows = draw(st.integers(0, 12))
    gaps = st.none() if draw(st.booleans()) else st.nothing()
    columns = {name: draw(st.lists(gaps | VALUES[name], min_size=rows, max_size=rows)) for name in VALUES}
    # The place of each row, so that what became of it can be told.
    columns = {"place": list(range(rows)), **columns}
    keys = draw(st.just(list(range(rows))) | st.lists(st.none() | st.integers(0, 50), min_size=rows, max_size=rows))
    return pl.DataFrame({"key": keys, **columns}, schema={"key": pl.Int64, **KINDS}, strict=False)


@st.composite
def contracts(draw: st.DrawFn, forgiving: bool = False) -> Contract:
    """Contracts on these tables; a forgiving one asks for nothing that could refuse a table as a whole."""
    columns = {"place": pa.Column(pl.UInt32)}
    for name, known in CHECKS.items():
        checks = draw(st.lists(st.sampled_from([check for check, _ in known]), unique_by=str))
        columns[name] = pa.Column(KINDS[name], checks, nullable=draw(st.booleans()))
    schema = pa.DataFrameSchema(columns)
    if forgiving:
        return Contract("t", schema, key=("place",), max_quarantined_share=1.0, min_rows=0)
    return Contract(
        "t",
        schema,
        key=draw(st.sampled_from([(), ("key",)])),
        event_time=draw(st.sampled_from([None, "at"])),
        max_quarantined_share=draw(st.sampled_from([0.0, 0.1, 0.5, 1.0])),
        min_rows=draw(st.integers(0, 3)),
    )


def row_is_bad(contract: Contract, row: dict[str, object]) -> bool:
    """What the contract says of one row, worked out without pandera and polars."""
    for name, column in contract.schema.columns.items():  # type: ignore[union-attr]
        value = row[name]
        nan = isinstance(value, float) and math.isnan(value)
        if (value is None or nan) and not column.nullable:
            return True
        # NaN is no null to a check, and polars orders it above every number.
        if value is not None and not all(SAYS[name, each.error](value) for each in column.checks):
            return True
    return False


@settings(max_examples=150, deadline=None)
@given(contracts(forgiving=True), tables())
def test_every_row_that_came_in_is_handed_on_or_held_back(contract: Contract, table: pl.DataFrame) -> None:
    verdict = check(contract, table, as_of=AS_OF)
    event(verdict.status)
    bad = [row["place"] for row in table.iter_rows(named=True) if row_is_bad(contract, row)]
    assert verdict.status == ("quarantined" if bad else "ok")
    assert bool(verdict.failures) == bool(bad)
    assert verdict.quarantined["place"].to_list() == bad
    kept = verdict.accepted.columns
    assert_frame_equal(
        pl.concat([verdict.accepted, verdict.quarantined.select(kept)]).sort("place"), table.select(kept)
    )
    held = verdict.quarantined
    assert_frame_equal(held.drop(FAILED_CHECKS), table.filter(pl.col("place").is_in(bad)))
    assert held[FAILED_CHECKS].null_count() == 0
    assert set(kept) | set(verdict.extra_columns) == set(table.columns)


@settings(max_examples=150, deadline=None)
@given(contracts(), tables())
def test_a_table_is_handed_on_within_the_limits_or_not_at_all(contract: Contract, table: pl.DataFrame) -> None:
    verdict = check(contract, table, as_of=AS_OF)
    event(verdict.status)
    assert verdict.rows == table.height
    if verdict.status == "refused":
        assert verdict.failures
        assert verdict.accepted.is_empty()
        assert verdict.quarantined.is_empty()
        return
    assert verdict.accepted.height + verdict.quarantined.height == table.height
    assert verdict.quarantined.height <= contract.max_quarantined_share * table.height + 1e-9
    assert verdict.accepted.height >= contract.min_rows
    if contract.key:
        assert table["key"].null_count() == 0
        assert table["key"].n_unique() == table.height
    if contract.event_time:
        assert all(moment is None or moment <= AS_OF for moment in table["at"])


@settings(max_examples=100, deadline=None)
@given(contracts() | contracts(forgiving=True), tables())
def test_what_was_handed_on_passes_again(contract: Contract, table: pl.DataFrame) -> None:
    verdict = check(contract, table, as_of=AS_OF)
    event(verdict.status)
    if verdict.status != "refused":
        again = check(contract, verdict.accepted, as_of=AS_OF)
        assert again.status == "ok"
        assert_frame_equal(again.accepted, verdict.accepted)


@settings(max_examples=100, deadline=None)
@given(contracts() | contracts(forgiving=True), tables())
def test_the_same_table_gets_the_same_verdict(contract: Contract, table: pl.DataFrame) -> None:
    one, other = (check(contract, table, as_of=AS_OF) for _ in range(2))
    assert one.failures == other.failures
    assert to_record(one) == to_record(other)
    assert all(len(failure.samples) <= 3 and failure.count >= 0 for failure in one.failures)
    assert to_markdown(one).count("\n| `") == len(one.failures)


@settings(max_examples=60, deadline=None)
@given(tables(), st.randoms(use_true_random=False))
def test_the_order_of_rows_changes_no_count(table: pl.DataFrame, chance: object) -> None:
    columns = {name: pa.Column(KINDS[name], [check for check, _ in known]) for name, known in CHECKS.items()}
    contract = Contract("t", pa.DataFrameSchema(columns), key=("key",), event_time="at", max_quarantined_share=1.0)
    places = list(range(table.height))
    chance.shuffle(places)  # type: ignore[attr-defined]
    one, other = check(contract, table, as_of=AS_OF), check(contract, table[places], as_of=AS_OF)
    assert one.status == other.status
    assert [(each.column, each.check, each.count) for each in one.failures] == [
        (each.column, each.check, each.count) for each in other.failures
    ]
