"""The contract that most tables of predictions need."""

from __future__ import annotations

import math
from datetime import datetime

import polars as pl
import pytest

from trimtab_flows.contracts.check import check
from trimtab_flows.contracts.contract import Verdict
from trimtab_flows.contracts.predictions import prediction_contract


def ask(scores: list[float | None], **bounds: float) -> Verdict:
    frame = pl.DataFrame({"id": range(len(scores)), "score": scores}, schema={"id": pl.Int64, "score": pl.Float64})
    return check(prediction_contract({"id": pl.Int64}, **bounds), frame, as_of=datetime(2013, 2, 1))


def test_scores_within_bounds_pass() -> None:
    assert ask([0.0, 0.5, 1.0], low=0, high=1).status == "ok"
    assert ask([-1e9, 1e9]).status == "ok"


@pytest.mark.parametrize(
    ("score", "check_name"),
    [(None, "not_nullable"), (math.nan, "not_nullable"), (math.inf, "finite"), (-math.inf, "finite"),
     (1.5, "less_than_or_equal_to(1)"), (-0.5, "greater_than_or_equal_to(0)")],
)  # fmt: skip
def test_a_score_that_is_none_refuses_the_table(score: float | None, check_name: str) -> None:
    verdict = ask([0.5, score], low=0, high=1)
    assert verdict.status == "refused"
    assert check_name in [failure.check for failure in verdict.failures]


def test_a_share_of_unusable_scores_may_be_allowed() -> None:
    verdict = ask([0.5, math.inf], max_quarantined_share=0.5)
    assert verdict.status == "quarantined"
    assert verdict.quarantined["id"].to_list() == [1]


def test_the_key_is_unique_and_nothing_else_is_there() -> None:
    contract = prediction_contract({"id": pl.Int64, "day": pl.Date})
    assert contract.key == ("id", "day")
    frame = pl.DataFrame({"id": [1, 1], "day": [None, None], "score": [0.1, 0.2], "label": [0, 1]})
    verdict = check(contract, frame, as_of=datetime(2013, 2, 1))
    assert [failure.column for failure in verdict.failures][:2] == ["label", "id, day"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"key": {}}, "needs a key"),
        ({"key": {"score": pl.Float64}}, "may not have a column 'score'"),
        ({"key": {"id": pl.Int64}, "low": 1, "high": 0}, "at least 1 and at most 0"),
        ({"key": {"id": pl.Int64}, "low": math.nan}, "at least nan"),
    ],
)
def test_a_contract_that_nothing_can_meet(arguments: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        prediction_contract(**arguments)  # type: ignore[arg-type]
