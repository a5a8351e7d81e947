"""Of a burst of metric events few are marked to be looked at, and what they set off sees all the others."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab_flows.automations import LEADS, LEADS_EVERY_S, rules
from trimtab_infra.metric_events.leading import Leads

START = datetime(2026, 11, 26, tzinfo=UTC)


def body(at_s: float, name: str = "x", **labels: str) -> dict[str, Any]:
    resource = {"prefect.resource.id": "trimtab.model.flights", "trimtab.metric": "drift/a", "trimtab.stage": "none"}
    return {"id": name, "occurred": (START + timedelta(seconds=at_s)).isoformat(), "resource": {**resource, **labels}}


def marks(leads: Leads, *bodies: dict[str, Any]) -> str:
    return " ".join(leads.mark(one)["resource"][LEADS] for one in bodies)


def test_one_of_a_burst_leads_for_each_model_stage_and_kind() -> None:
    leads = Leads()
    assert marks(leads, *(body(at / 100, str(at)) for at in range(100))) == " ".join(["yes"] + ["no"] * 99)
    others = ({"prefect.resource.id": "other"}, {"trimtab.stage": "monitor"}, {"trimtab.metric": "performance/auc"})
    assert marks(leads, *(body(0.5, "o", **labels) for labels in others)) == "yes yes yes"
    assert marks(leads, body(0.5, **{"trimtab.metric": "drift/b"}), body(1.0)) == "no yes"


def test_what_leads_still_does_when_it_is_sent_again() -> None:
    leads = Leads()
    batch = [body(at, str(at)) for at in (0.0, 0.4, 1.2)]
    assert marks(leads, *batch, *batch) == "yes no yes yes no yes"
    assert marks(leads, body(40), batch[0], body(40.5)) == "yes yes yes"


@given(
    times=st.lists(st.integers(0, 20_000), min_size=1, max_size=60), gather_s=st.sampled_from([0.0, 0.5, 1, 2, 5, 30])
)
def test_a_run_that_was_set_off_begins_after_every_event(times: list[int], gather_s: float) -> None:
    """As Prefect fires: at the first event that matches, then not again for `within`."""
    rule = rules("flights", "nowhere:recipe", gather_s=gather_s)[0]
    only = rule.when.labels.get(LEADS)
    leads, closed_until, runs = Leads(), -1.0, []
    for place, at in enumerate(sorted(times)):
        at_s = at / 1000
        if only not in (None, leads.mark(body(at_s, str(place)))["resource"][LEADS]) or at_s < closed_until:
            continue
        closed_until = at_s + rule.when.within_s
        runs.append(at_s + rule.after_s)
    for at in times:
        assert any(at / 1000 <= run <= at / 1000 + gather_s + 1e-6 for run in runs)
    assert len(runs) <= len(times)
    if gather_s >= LEADS_EVERY_S:
        assert only == "yes"


@pytest.mark.parametrize("gather_s", [0, 5])
def test_drift_with_labels_looks_at_the_same(gather_s: float) -> None:
    metrics, both = (rules("flights", "nowhere:recipe", gather_s=gather_s)[place] for place in (0, 2))
    assert both.when.all_of[0].labels.get(LEADS) == metrics.when.labels.get(LEADS)
