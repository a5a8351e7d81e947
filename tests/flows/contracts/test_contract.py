"""Contracts that make no sense, and the texts of failures."""

from __future__ import annotations

import pandera.pandas
import pandera.polars as pa
import polars as pl
import pytest

from trimtab_flows.contracts.contract import CheckFailure, Contract, ContractRefused

SCHEMA = pa.DataFrameSchema({"id": pa.Column(pl.Int64)})


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"max_quarantined_share": 1.5}, ValueError, "max_quarantined_share is 1.5; it is a share, 0 to 1"),
        ({"max_quarantined_share": float("nan")}, ValueError, "max_quarantined_share is nan"),
        ({"min_rows": -1}, ValueError, "min_rows is -1; it must be 0 or more"),
        ({"key": "id"}, TypeError, r"key is the text 'id'; write a tuple: \('id',\)"),
        ({"schema": {"id": pl.Int64}}, TypeError, "schema is a builtins.dict; it must be a DataFrameSchema"),
        ({"schema": pandera.pandas.DataFrameSchema()}, TypeError, "must be a DataFrameSchema or DataFrameModel of"),
        ({"schema": pandera.pandas.DataFrameModel}, TypeError, "must be a DataFrameSchema or DataFrameModel of"),
    ],
)
def test_a_contract_that_cannot_be_meant(changes: dict[str, object], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text) as caught:
        Contract(**{"table": "flights", "schema": SCHEMA} | changes)  # type: ignore[arg-type]
    assert "contract 'flights'" in str(caught.value)


def test_a_failure_in_words() -> None:
    failure = CheckFailure("flights", "delay", "greater_than(0)", 1234, ("-1", "-2"))
    assert str(failure) == "table 'flights', column 'delay': greater_than(0): 1,234 rows (for example -1, -2)"
    assert str(CheckFailure("t", "c", "not_nullable", 1)) == "table 't', column 'c': not_nullable: 1 row"


def test_a_long_refusal_is_cut() -> None:
    failures = tuple(CheckFailure("t", f"c{place}", "the column is missing", 5) for place in range(25))
    text = str(ContractRefused("t", failures))
    assert "column 'c9'" in text
    assert "column 'c10'" not in text
    assert text.endswith("; and 15 more failed checks")
