"""The domain classifier: what it tells apart, what it must not, and windows it says nothing of."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from trimtab_flows.drift.domain import domain_shift
from trimtab_flows.drift.signals import fit_reference, measure


def table(rows: int, seed: int, correlation: float = 0.9) -> pl.DataFrame:
    random = np.random.default_rng(seed)
    x = random.normal(size=rows)
    y = correlation * x + np.sqrt(1 - correlation**2) * random.normal(size=rows)
    return pl.DataFrame({"x": x, "y": y, "kind": random.choice(["a", "b", "c"], rows)})


COLUMNS = ("x", "y", "kind")


def test_rows_drawn_alike_are_seldom_told_apart():
    found = [domain_shift(table(700, seed), table(700, seed + 100), COLUMNS) for seed in range(20)]
    assert sum(each.drifted for each in found) <= 1
    assert np.mean([each.auc for each in found]) == pytest.approx(0.5, abs=0.015)


def test_what_no_single_column_shows_is_seen():
    before, now = table(3000, 0), table(3000, 1, correlation=-0.9)
    columns = measure(fit_reference(before, COLUMNS, np.empty(0)), now, np.empty(0))
    assert max(each.value for each in columns if each.kind == "psi") < 0.02
    found = domain_shift(before, now, COLUMNS)
    assert found.drifted
    assert found.low > 0.8
    assert {column for column, _ in found.columns[:2]} == {"x", "y"}


def test_a_new_category_is_seen_and_named():
    now = table(2000, 1).with_columns(kind=pl.lit("new"))
    found = domain_shift(table(2000, 0), now, COLUMNS)
    assert found.auc > 0.95
    assert found.columns[0][0] == "kind"


def test_the_same_arguments_give_the_same_figures():
    pair = table(2000, 0), table(9000, 1)
    assert domain_shift(*pair, COLUMNS) == domain_shift(*pair, COLUMNS)


NULLS = pl.DataFrame({"x": [None] * 200}, schema={"x": pl.Float64})
CONSTANT = pl.DataFrame({"x": [1.0] * 200})


@pytest.mark.parametrize(
    ("before", "now", "known"),
    [
        (table(0, 0), table(500, 1), False),
        (table(500, 0), table(10, 1), False),
        (pl.DataFrame({"z": range(500)}), table(500, 1), False),
        (NULLS, NULLS, True),
        (CONSTANT, CONSTANT, True),
    ],
)
def test_small_empty_constant_and_null_windows_raise_no_alarm(before: pl.DataFrame, now: pl.DataFrame, known: bool):
    found = domain_shift(before, now, COLUMNS)
    assert (found.auc, found.drifted, found.known) == (0.5, False, known)


def test_a_column_that_lost_its_values_gives_every_row_away():
    assert domain_shift(CONSTANT, NULLS, ["x"]).auc == 1
    infinite = pl.DataFrame({"x": [np.inf, -np.inf] * 100})
    assert domain_shift(CONSTANT, infinite, ["x"]).auc == 1


def test_all_signals_of_a_million_rows_of_twenty_columns_against_as_many():
    """In a process of its own: what other tests left in memory is not counted."""
    script = Path(__file__).with_name("million_rows.py")
    ran = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=100)
    print(ran.stdout, ran.stderr)
    assert ran.returncode == 0
    found = json.loads(ran.stdout)
    assert found["signals"] == 2 * 21 + 2 * 20 + 5
    assert found["recounted_rows"] == 1_000_000
    assert found["all_s"] < 5
    assert found["peak_mib"] < 1536
