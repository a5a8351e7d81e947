"""A recipe of Berlin whose event times are moments, on a host in Tokyo: trained, monitored, decided for real."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from trimtab_flows import tracking
from trimtab_flows.decide import decide
from trimtab_flows.ingest import ingest
from trimtab_flows.monitor import monitor
from trimtab_flows.retrain import retrain
from trimtab_flows.score import score

pytestmark = pytest.mark.usefixtures("environment")

RECIPE = """
import pandera.polars as pa
import polars as pl
from toy_recipe import Toy
from trimtab_flows.contracts.contract import Contract

ZONED = pl.Datetime("us", "Europe/Berlin")
COLUMNS = {"id": pa.Column(pl.Int64), "at": pa.Column(ZONED), "x": pa.Column(pl.Float64), "y": pa.Column(pl.Boolean)}
SCHEMA = pa.DataFrameSchema(COLUMNS)

class Berlin(Toy):
    name = "toy-berlin"
    timezone = "Europe/Berlin"
    raw = {"events": Contract("events", SCHEMA, key=("id",), event_time="at")}
    features = Contract("features", SCHEMA, key=("id",), event_time="at")

    def load(self, window):
        wall = super().load(window)["events"]
        at = pl.col("at").dt.replace_time_zone("Europe/Berlin", non_existent="null")
        return {"events": wall.with_columns(at).drop_nulls()}

r = Berlin()
"""


@pytest.fixture
def in_tokyo(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as changed:
        changed.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        yield
    time.tzset()


def test_from_data_to_a_decision(in_tokyo: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "berlin_recipe.py").write_text(RECIPE)
    monkeypatch.syspath_prepend(str(tmp_path))
    recipe = "berlin_recipe:r"
    for window in ("2024-01", "2024-02", "2024-03"):
        assert ingest(recipe, window).quarantined_rows == 0
    made = retrain(recipe, "2024-01..2024-02", decision="first")
    assert made.outcome == "promoted"
    assert tracking.model_version("toy-berlin", made.version).tags["trimtab.cut"] == "2024-02-20T00:00:00"
    score(recipe, "2024-03")
    found = monitor(recipe, "2024-03")
    evidence = tracking.read_json(found.run_id, "evidence.json")
    assert evidence["as_of"] == "2024-04-01T22:00:00+00:00"  # a day after March, which ended in summer time
    assert (evidence["window_days"], evidence["champion_age_days"]) == (31, 41)
    policy = {"blackouts": [{"start": "2024-04-05", "end": "2024-04-05"}], "max_age": None, "cooldown": 0}
    order = {"kind": "force", "issued": "2024-04-05T00:00:00+02:00", "reason": "a test"}
    there = datetime(2024, 4, 4, 22, tzinfo=UTC)
    decided = decide(recipe, policy, order=order, because="a test", as_of=there)
    assert (decided.verdict, decided.at) == ("later", "2024-04-05T22:00:00+00:00")
    again = decide(recipe, policy, because="a test", as_of=datetime(2024, 4, 5))  # the same moment by Berlin's clocks
    assert again.decision == decided.decision
    assert json.loads(json.dumps(tracking.read_json(decided.run_id, "policy.json")))["timezone"] == "Europe/Berlin"
    assert there + timedelta(days=1) == datetime.fromisoformat(decided.at or "")
