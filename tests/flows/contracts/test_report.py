"""What a person and a machine read of a verdict."""

from __future__ import annotations

import json
from datetime import datetime

import pandera.polars as pa
import polars as pl

from trimtab_flows.contracts.check import check
from trimtab_flows.contracts.contract import Contract, Verdict
from trimtab_flows.contracts.report import to_markdown, to_record

SCHEMA = pa.DataFrameSchema(
    {"n": pa.Column(pl.Int64, pa.Check.ge(0)), "c": pa.Column(pl.String, pa.Check.isin(["a", "b"]), nullable=True)}
)


def ask(frame: pl.DataFrame, share: float = 0.5) -> Verdict:
    return check(Contract("flights", SCHEMA, max_quarantined_share=share), frame, as_of=datetime(2013, 2, 1))


def test_a_clean_table() -> None:
    verdict = ask(pl.DataFrame({"n": [1, 2], "c": ["a", None]}))
    assert to_markdown(verdict) == "## `flights`: ok\n\nAll of 2 rows passed."


def test_rows_in_quarantine() -> None:
    verdict = ask(pl.DataFrame({"n": [1, 2, -3], "c": ["a", "b", "z"], "more": [1, 2, 3]}))
    assert to_markdown(verdict).splitlines() == [
        "## `flights`: quarantined",
        "",
        "2 of 3 rows passed; 1 in quarantine (33.33%).",
        "",
        "Columns that the contract does not name, left out: `more`.",
        "",
        "| column | check | rows | for example |",
        "|---|---|---:|---|",
        "| `n` | `greater_than_or_equal_to(0)` | 1 | `-3` |",
        "| `c` | `isin(['a', 'b'])` | 1 | `'z'` |",
    ]


def test_a_refused_table() -> None:
    lines = to_markdown(ask(pl.DataFrame({"n": [-1], "c": ["a"]}))).splitlines()
    assert lines[2] == "Refused: none of 1 row may be handed on."
    assert lines[-2] == "| `(any)` | `more than 50.00% of all rows (1) would be held back` | 1 |  |"


def test_no_value_of_the_data_is_read_as_markup() -> None:
    frame = pl.DataFrame({"n": [1, 2, 3, 4, 5, 6], "c": ["a|b", "`<b>x</b>`", "two\nlines", "a", "a", "a"]})
    row = to_markdown(ask(frame)).splitlines()[-1]
    assert row == r"| `c` | `isin(['a', 'b'])` | 3 | `'a\|b'`, ``'`<b>x</b>`'``, `'two\nlines'` |"


def test_names_of_columns_are_no_markup_either() -> None:
    verdict = ask(pl.DataFrame({"n": [1], "c": ["a"], "`x`\n| *y*": [1]}))
    assert to_markdown(verdict).splitlines()[-1].endswith(r"left out: `` `x` \| *y* ``.")


def test_the_record_is_plain_data_without_rows() -> None:
    verdict = ask(pl.DataFrame({"n": [1, 2, -3], "c": ["a", "b", "z"], "more": [1, 2, 3]}))
    assert json.loads(json.dumps(to_record(verdict), allow_nan=False)) == {
        "table": "flights",
        "status": "quarantined",
        "rows": 3,
        "accepted": 2,
        "quarantined": 1,
        "extra_columns": ["more"],
        "failures": [
            {"column": "n", "check": "greater_than_or_equal_to(0)", "count": 1, "samples": ["-3"]},
            {"column": "c", "check": "isin(['a', 'b'])", "count": 1, "samples": ["'z'"]},
        ],
    }


def test_a_long_value_is_cut() -> None:
    (_, failure) = ask(pl.DataFrame({"n": [1], "c": ["x" * 500]})).failures
    assert len(failure.samples[0]) == 80
    assert failure.samples[0].endswith("...")
