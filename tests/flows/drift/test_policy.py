"""The policy: plain data in any of three forms, every bad field refused by name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab_flows.drift.calendar import Blackout, Hours
from trimtab_flows.drift.policy import Policy
from trimtab_flows.drift.policy_file import parse_policy, read_policy
from trimtab_flows.drift.values import InvalidPolicy

FULL = Policy(
    value_per_point_day=120.0,
    gpu_hours=2.0,
    gpu_hour_price=3.5,
    retrain_cost=10.0,
    timezone="Europe/Berlin",
    allowed=(Hours(("sat", "sun")), Hours(("mon",), "22:00", "06:00")),
    blackouts=(Blackout("2026-11-26", "2026-11-30", "Black Friday"),),
    priority="high",
    deadline_hours=12.0,
    regions=("eu-1", "eu-2"),
    needs_approval=True,
    tell=("slack-webhook/ml",),
    name="shop",
)
TOML = """
name = "shop"
value_per_point_day = 120
gpu_hours = 2
gpu_hour_price = 3.5
retrain_cost = 10
timezone = "Europe/Berlin"
priority = "high"
deadline_hours = 12
regions = ["eu-1", "eu-2"]
needs_approval = true
tell = ["slack-webhook/ml"]
[[allowed]]
weekdays = ["sun", "sat"]
[[allowed]]
weekdays = ["mon"]
start = 22:00:00
end = "06:00"
[[blackouts]]
start = 2026-11-26
end = 2026-11-30
reason = "Black Friday"
"""
YAML = """
name: shop
value_per_point_day: 120
gpu_hours: 2
gpu_hour_price: 3.5
retrain_cost: 10
timezone: Europe/Berlin
priority: high
deadline_hours: 12
regions: [eu-1, eu-2]
needs_approval: true
tell: [slack-webhook/ml]
allowed:
  - weekdays: [sat, sun]
  - {weekdays: [mon], start: 22:00, end: "06:00"}
blackouts:
  - {start: 2026-11-26, end: 2026-11-30, reason: Black Friday}
"""


@pytest.mark.parametrize(("suffix", "text"), [(".toml", TOML), (".yaml", YAML), (".json", FULL.to_json())])
def test_a_policy_is_read_from_any_of_three_forms(tmp_path: Path, suffix: str, text: str):
    file = tmp_path / f"policy{suffix}"
    file.write_text(text)
    read = read_policy(file)
    assert read == FULL
    assert read.digest == parse_policy(text, {".toml": "toml", ".yaml": "yaml", ".json": "json"}[suffix]).digest


def test_what_a_policy_says_of_a_run():
    assert FULL.cost == pytest.approx(17.0)
    assert FULL.priority_number == 1
    assert Policy(priority="gold", priorities={"gold": 7}).priority_number == 7
    assert FULL.digest != replace(FULL, cooldown=2).digest


@given(
    st.builds(
        Policy,
        value_per_point_day=st.none() | st.floats(0, 1e6),
        horizon_days=st.floats(0.1, 1000),
        allowed=st.lists(
            st.builds(
                Hours,
                st.lists(st.sampled_from(["mon", "wed", "sun"]), min_size=1),
                st.sampled_from(["00:00", "08:30"]),
                st.sampled_from(["24:00", "08:30", "02:00"]),
            ),
            max_size=3,
        ),
        blackouts=st.lists(
            st.builds(lambda days: Blackout(str(days[0]), str(days[1])), st.lists(st.dates(), min_size=2).map(sorted)),
            max_size=2,
        ),
        regions=st.lists(st.text(min_size=1).filter(str.strip), unique=True, max_size=3),
        priority=st.sampled_from(["low", "normal", "high", "urgent"]),
        max_age_days=st.none() | st.floats(1, 1000),
    )
)
def test_a_policy_comes_back_from_its_json_and_its_plain_data(policy: Policy):
    assert Policy.from_json(policy.to_json()) == policy == Policy.from_mapping(policy.to_plain())
    json.dumps(policy.to_plain(), allow_nan=False)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"format": 2}, "field format is 2; this version reads format 1"),
        ({"value_per_point_day": -1}, "field value_per_point_day is -1; it must be a number 0 or more"),
        ({"point": 0}, "field point is 0"),
        ({"horizon_days": 0}, "field horizon_days is 0"),
        ({"min_confidence": 1}, "field min_confidence is 1; it must be a number from 0 to 0.99"),
        ({"gpu_hours": 2}, "field gpu_hour_price is 0, and gpu_hours is 2; give the price"),
        ({"currency": ""}, "field currency is ''; it must be a text, not empty"),
        ({"timezone": "Mars/Olympus"}, "field timezone is 'Mars/Olympus'; it must be a time zone's IANA name"),
        ({"timezone": 5}, "field timezone is 5"),
        ({"allowed": "nights"}, "field allowed is 'nights'; it must be a list"),
        ({"allowed": [1]}, "field allowed lists 1; each must have fields by name"),
        ({"allowed": [{"from": "22:00"}]}, "field allowed has no field from; it has weekdays, start, end"),
        ({"allowed": [{"weekdays": ["monday"]}]}, "field allowed.weekdays is ['monday']"),
        ({"allowed": [{"start": "25:00"}]}, "field allowed.start is '25:00'; it must be a time of day"),
        ({"blackouts": [{"start": "2026-11-26"}]}, "field blackouts lacks the field end"),
        ({"blackouts": [{"start": "soon", "end": "2026-11-26"}]}, "field blackouts.start is 'soon'"),
        ({"blackouts": [{"start": "2026-11-26", "end": "2026-11-25"}]}, "field blackouts.end is '2026-11-25'"),
        ({"priority": "top"}, "field priority is 'top'; it must be a class: low, normal, high, urgent"),
        ({"priorities": {"normal": 5000}}, "field priorities.normal is 5000"),
        ({"priorities": []}, "field priorities is []"),
        ({"deadline_hours": 0}, "field deadline_hours is 0"),
        ({"regions": "eu-1"}, "field regions is 'eu-1'; it must be a list of texts"),
        ({"regions": ["eu-1", "eu-1"]}, "field regions is ['eu-1', 'eu-1']; a text is there twice"),
        ({"tell": [""]}, "field tell (each of the list) is ''"),
        ({"needs_approval": "yes"}, "field needs_approval is 'yes'; it must be true or false"),
        ({"cooldown_days": -1}, "field cooldown_days is -1"),
        ({"max_age_days": 0}, "field max_age_days is 0"),
        ({"min_new_labelled_rows": 1.5}, "field min_new_labelled_rows is 1.5"),
    ],
)
def test_a_bad_field_is_refused_by_name(fields: dict[str, object], said: str):
    with pytest.raises(InvalidPolicy) as refused:
        Policy.from_mapping(fields)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("p.txt", "", "the name must end in one of .json, .toml, .yaml, .yml"),
        ("p.json", "{", "this is no policy in JSON"),
        ("p.toml", "= 1", "this is no policy in TOML"),
        ("p.yaml", "a: [", "this is no policy in YAML"),
        ("p.yaml", "- 1", "this is no policy: it is a list"),
        ("p.yaml", "1: 2", "a field's name is no text"),
        ("p.toml", "cooldown = -1", "p.toml: policy: field cooldown is -1"),
    ],
)
def test_a_bad_file_is_refused_by_name(tmp_path: Path, name: str, text: str, said: str):
    (tmp_path / name).write_text(text)
    with pytest.raises(InvalidPolicy) as refused:
        read_policy(tmp_path / name)
    assert said in str(refused.value)
    assert name in str(refused.value)


def test_a_missing_file_is_named():
    with pytest.raises(InvalidPolicy, match="there is no such file"):
        read_policy("nowhere/policy.toml")
