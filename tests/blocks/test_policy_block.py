"""The policy block: its fields are the policy's, and what one refuses, naming the field, the other refuses too."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from prefect.blocks.core import Block
from prefect.utilities.dispatch import get_registry_for_type
from pydantic import ValidationError

from trimtab_blocks import RetrainPolicy
from trimtab_flows.drift.policy import Policy
from trimtab_flows.drift.values import InvalidPolicy


def test_the_defaults_are_those_of_the_policy():
    assert Policy.from_mapping(RetrainPolicy().plain()) == Policy()
    assert set(RetrainPolicy().plain()) == {field.name for field in fields(Policy)}


def test_a_full_policy_comes_through():
    given: dict[str, Any] = {
        "value_per_point_day": 120.0,
        "gpu_hours": 2,
        "gpu_hour_price": 1.9,
        "timezone": "Europe/Berlin",
        "allowed": [{"weekdays": ["sat", "sun"], "start": "22:00", "end": "06:00"}],
        "blackouts": [{"start": "2026-11-27", "end": "2026-11-30", "reason": "Black Friday"}],
        "priority": "urgent",
        "deadline_hours": 8,
        "regions": ["eu-1"],
        "needs_approval": True,
        "max_age": None,
        "max_age_days": 90,
        "reference": "season",
    }
    assert Policy.from_mapping(RetrainPolicy(**given).plain()) == Policy.from_mapping(given)


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("enter_loss", {"enter_loss": -1}),
        ("drifted_enter_loss", {"drifted_enter_loss": 0.5}),
        ("leave_loss", {"leave_loss": 0.025}),
        ("reference", {"reference": "moon"}),
        ("cooldown", {"cooldown": 1.5}),
        ("min_labelled_rows", {"min_labelled_rows": 0}),
        ("max_age", {"max_age": 0}),
        ("gpu_hour_price", {"gpu_hours": 3}),
        ("timezone", {"timezone": "Mars/Olympus"}),
        ("weekdays", {"allowed": [{"weekdays": ["monday"]}]}),
        ("start", {"allowed": [{"start": "25:00"}]}),
        ("end", {"blackouts": [{"start": "2026-11-30", "end": "2026-11-27"}]}),
        ("start", {"blackouts": [{"start": "soon", "end": "2026-11-27"}]}),
        ("priority", {"priority": "extreme"}),
        ("priorities", {"priorities": {"low": 5000, "normal": 0}}),
        ("deadline_hours", {"deadline_hours": 0}),
        ("format", {"format": 2}),
        ("colour", {"colour": "red"}),
    ],
)
def test_what_is_not_allowed_is_refused_by_field_when_saved_and_when_read(field: str, wrong: dict[str, Any]):
    with pytest.raises(ValidationError, match=field):
        RetrainPolicy(**wrong)
    with pytest.raises(InvalidPolicy, match=field):
        Policy.from_mapping(wrong)


def test_the_block_type_is_found_through_the_entry_point():
    assert get_registry_for_type(Block)["trimtab-retraining-policy"] is RetrainPolicy
