"""What a contract costs beyond pandera itself, on 1,000,000 rows of 20 columns.

The aim is at most 0.3 s more than ``DataFrameSchema.validate(lazy=True)`` in the same process. What is held to it is
processor time, added up over all threads: other work on the machine hardly changes it, and since nothing here waits, an
idle machine's clock shows no more. The clock's medians are printed beside it:
``pytest tests/flows/contracts/test_speed.py -s``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from statistics import median

import numpy as np
import pandera.polars as pa
import polars as pl
import pytest
from pandera.errors import SchemaErrors

from trimtab_flows.contracts.check import check
from trimtab_flows.contracts.contract import Contract

ROWS = 1_000_000
AIM_S = 0.3
ROUNDS = 3
AS_OF = datetime(2014, 1, 1)


@pytest.fixture(scope="module")
def table() -> pl.DataFrame:
    rng = np.random.default_rng(0)
    floats = {f"x{place}": rng.normal(size=ROWS) for place in range(10)}
    integers = {f"n{place}": rng.integers(0, 1000, ROWS) for place in range(6)}
    seconds = rng.integers(0, 31 * 86_400, ROWS).astype("timedelta64[s]")
    frame = pl.DataFrame(
        {
            **floats,
            **integers,
            "id": rng.permutation(ROWS),
            "carrier": rng.choice(["AA", "UA", "DL"], ROWS),
            "tail": pl.Series(rng.integers(0, 10**6, ROWS)).cast(pl.String),
            "at": np.datetime64("2013-01-01", "us") + seconds,
        }
    )
    assert frame.shape == (ROWS, 20)
    return frame


@pytest.fixture(scope="module")
def schema() -> pa.DataFrameSchema:
    return pa.DataFrameSchema(
        {
            **{f"x{place}": pa.Column(pl.Float64, pa.Check.in_range(-100, 100)) for place in range(10)},
            **{f"n{place}": pa.Column(pl.Int64, pa.Check.ge(0)) for place in range(6)},
            "id": pa.Column(pl.Int64),
            "carrier": pa.Column(pl.String, pa.Check.isin(["AA", "UA", "DL"])),
            "tail": pa.Column(pl.String),
            "at": pa.Column(pl.Datetime("us")),
        }
    )


def spoil(table: pl.DataFrame, every: int) -> pl.DataFrame:
    """The table with a negative number in every nth row of one column."""
    chosen = pl.int_range(pl.len()) % every == 0
    return table.with_columns(n0=pl.when(chosen).then(-1 - pl.col("n0")).otherwise(pl.col("n0")))


def beyond(schema: pa.DataFrameSchema, contract: Contract, frame: pl.DataFrame, label: str) -> float:
    """Processor seconds that ``check`` takes more than pandera: medians of three rounds, the two in turn."""
    pandera, ours = [], []
    for _ in range(ROUNDS):
        pandera.append(seconds_of(lambda: bare(schema, frame)))
        ours.append(seconds_of(lambda: check(contract, frame, as_of=AS_OF)))
    pandera_s, pandera_cpu_s = (median(times) for times in zip(*pandera, strict=True))
    check_s, check_cpu_s = (median(times) for times in zip(*ours, strict=True))
    print(f"\n{label}: pandera {pandera_s:.3f} s, check {check_s:.3f} s, {check_s - pandera_s:+.3f} s by the clock;")
    print(f"    processor: {pandera_cpu_s:.3f} s, {check_cpu_s:.3f} s, {check_cpu_s - pandera_cpu_s:+.3f} s")
    return check_cpu_s - pandera_cpu_s


def seconds_of(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds by the clock, and of processor time in all threads of this process."""
    start, start_cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - start, time.process_time() - start_cpu


def bare(schema: pa.DataFrameSchema, table: pl.DataFrame) -> bool:
    try:
        schema.validate(table, lazy=True)
    except SchemaErrors:
        return False
    return True


@pytest.mark.parametrize(
    ("every", "status"), [(0, "ok"), (200, "quarantined"), (1, "refused")], ids=["clean", "5,000 bad", "all bad"]
)
@pytest.mark.parametrize("key", [(), ("id", "at")], ids=["no key", "key of two"])
def test_beyond_pandera_itself(
    table: pl.DataFrame, schema: pa.DataFrameSchema, every: int, status: str, key: tuple[str, ...]
) -> None:
    frame = spoil(table, every) if every else table
    contract = Contract("t", schema, key=key, event_time="at", max_quarantined_share=0.05)
    verdict = check(contract, frame, as_of=AS_OF)
    assert verdict.status == status
    assert bare(schema, frame) == (status == "ok")
    assert beyond(schema, contract, frame, f"{status}, key {key}") <= AIM_S


def test_with_a_check_of_ones_own(table: pl.DataFrame, schema: pa.DataFrameSchema) -> None:
    """A check that may look at other rows is run again on the rows that are handed on."""
    own = pa.Check(lambda data: data.lazyframe.select(pl.col(data.key) >= 0), name="own")
    schema = schema.update_column("n0", checks=own)
    frame = spoil(table, 200)
    contract = Contract("t", schema, key=("id",), event_time="at", max_quarantined_share=0.05)
    assert check(contract, frame, as_of=AS_OF).quarantined.height == ROWS // 200
    assert beyond(schema, contract, frame, "own check") <= AIM_S


def test_with_types_to_coerce(table: pl.DataFrame, schema: pa.DataFrameSchema) -> None:
    coerced = pa.DataFrameSchema(schema.columns, coerce=True)
    frame = table.with_columns(pl.col("n0").cast(pl.String), pl.col("x0").cast(pl.Float32))
    contract = Contract("t", coerced, key=("id",), event_time="at")
    assert check(contract, frame, as_of=AS_OF).accepted.schema == table.select(list(schema.columns)).schema
    assert beyond(coerced, contract, frame, "coerced") <= AIM_S


def test_a_check_on_whole_rows_that_100_000_rows_fail(table: pl.DataFrame, schema: pa.DataFrameSchema) -> None:
    """pandera's report writes each failing row as JSON; ours looks at a thousand of them."""
    on_rows = pa.Check(lambda data: data.lazyframe.select(pl.col("n0") >= 0), name="on rows")
    columns = {**schema.columns, "n0": pa.Column(pl.Int64)}
    schema = pa.DataFrameSchema(columns, checks=on_rows)
    frame = spoil(table.head(ROWS // 10), 1)
    contract = Contract("t", schema, key=("id",), event_time="at", max_quarantined_share=0.05)
    assert check(contract, frame, as_of=AS_OF).failures[-1].count == ROWS // 10
    assert beyond(schema, contract, frame, "100,000 bad rows") < 0
