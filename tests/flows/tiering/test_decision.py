"""Where data should lie: by use, age, cost, and what must be kept."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from trimtab_blocks.tiering_rules import DataRule, StorageTier, TieringRules
from trimtab_flows.tiering.decision import Stored, decide, fetching

NOW = datetime(2026, 6, 1, tzinfo=UTC)
GIB = 2**30
TIERS = (
    StorageTier(name="hot", gib_month=0.023),
    StorageTier(name="warm", store="trimtab-s3-store/warm", gib_month=0.0125, gib_read=0.01, min_days=30),
    StorageTier(
        name="cold", store="trimtab-s3-store/cold", gib_month=0.004, gib_read=0.03, gib_write=0.01, wait_s=5, gib_s=20
    ),
)
RULES = TieringRules(
    tiers=TIERS,
    rules=(
        DataRule(
            subject="credit",
            keep_days=3650,
            why="tax law",
            warm_after_days=30,
            cold_after_days=90,
            delete_after_days=400,
        ),
        DataRule(table="raw.*", warm_after_days=10, cold_after_days=60, delete_after_days=400),
        DataRule(warm_after_days=30, cold_after_days=90),
    ),
)


def days_ago(days: float) -> datetime:
    return NOW - timedelta(days=days)


def snapshot(idle_days: float, tier: str = "hot", table: str = "features", subject: str = "flights") -> Stored:
    return Stored("aa", GIB, tier, days_ago(1000), days_ago(1000), days_ago(idle_days), 0.0, ((subject, table),))


@pytest.mark.parametrize(
    ("one", "target"),
    [
        (snapshot(5), None),
        (snapshot(40), "warm"),
        (snapshot(100), "cold"),
        (snapshot(100, tier="cold"), None),
        (snapshot(40, tier="warm"), None),
        (snapshot(100, tier="warm"), "cold"),
        (snapshot(20, table="raw.flights"), "warm"),
        (snapshot(500, table="raw.flights"), "delete"),
        (snapshot(500, table="raw.flights", subject="credit"), "cold"),
        (replace(snapshot(500, table="raw.flights"), needed_by="a manifest"), "cold"),
        # Two tables name it: the stricter rule counts.
        (replace(snapshot(20), tables=(("flights", "raw.flights"), ("flights", "features"))), None),
        # Read every third day, cold is dearer than hot; a cold one that is read so often comes back.
        (replace(snapshot(95), reads_per_month=10.0), None),
        (replace(snapshot(1, tier="cold"), reads_per_month=10.0), "hot"),
        # Read once in three months, it may stay.
        (replace(snapshot(1, tier="cold"), reads_per_month=1 / 3), None),
        (replace(snapshot(100), tables=()), "cold"),
    ],
)
def test_where_it_goes(one: Stored, target: str | None) -> None:
    moves = decide([one], RULES, NOW).moves
    assert [move.target for move in moves] == ([target] if target else [])


def test_what_deletion_spares_is_said() -> None:
    held = snapshot(500, table="raw.flights", subject="credit")
    needed = replace(snapshot(500, table="raw.flights"), digest="bb", needed_by="a manifest")
    spared = decide([held, needed], RULES, NOW).spared
    assert spared == (("aa", "kept until 2033-09-02: tax law"), ("bb", "needed by a manifest"))
    on_hold = RULES.model_copy(update={"rules": (DataRule(hold=True, why="case 12", delete_after_days=1),)})
    assert decide([held], on_hold, NOW).spared == (("aa", "held: case 12"),)


def test_what_it_saves_and_costs() -> None:
    plan = decide([snapshot(100), replace(snapshot(5), digest="bb")], RULES, NOW)
    (move,) = plan.moves
    assert move.saves_month == pytest.approx(0.023 - 0.004)
    assert move.costs_once == pytest.approx(0.01)
    assert (plan.month_before, plan.month_after) == (pytest.approx(0.046), pytest.approx(0.027))
    assert plan.saves_month == pytest.approx(0.019)
    assert move.reasons == ("unused for 100 days", "read on 0.0 days a month", "pays after 0.5 months")


def test_a_move_that_does_not_pay_within_the_horizon_is_not_made() -> None:
    dear = (TIERS[0], TIERS[2].model_copy(update={"gib_write": 1.0}))
    assert decide([snapshot(100)], TieringRules(tiers=dear, rules=RULES.rules), NOW).moves == ()
    patient = TieringRules(tiers=dear, rules=RULES.rules, horizon_months=120)
    assert [move.target for move in decide([snapshot(100)], patient, NOW).moves] == ["cold"]


def test_leaving_a_tier_early_is_paid_for() -> None:
    fresh = replace(snapshot(100, tier="warm"), since=days_ago(0))
    (move,) = decide([fresh], RULES, NOW).moves
    assert move.costs_once == pytest.approx(0.01 + 0.01 + 0.0125 * 30 / (365.25 / 12))


def test_the_price_of_a_fetch() -> None:
    found = fetching([("hot", GIB), ("cold", 2 * GIB), ("cold", GIB)], RULES)
    assert (found.snapshots, found.bytes, found.tiers) == (2, 3 * GIB, ("cold",))
    assert found.price == pytest.approx(0.09)
    assert found.seconds == pytest.approx(70)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.builds(
            Stored,
            digest=st.uuids().map(str),
            bytes=st.integers(0, 2**40),
            tier=st.sampled_from(["hot", "warm", "cold"]),
            since=st.floats(0, 900).map(days_ago),
            made_at=st.floats(0, 4000).map(days_ago),
            used_at=st.floats(0, 900).map(days_ago),
            reads_per_month=st.floats(0, 30),
            tables=st.lists(
                st.tuples(st.sampled_from(["credit", "flights"]), st.sampled_from(["raw.a", "features"])), max_size=3
            ).map(tuple),
            needed_by=st.sampled_from(["", "a manifest"]),
        ),
        max_size=6,
    )
)
def test_never_deletes_what_is_needed_or_retained_and_never_costs_more(stored: list[Stored]) -> None:
    plan = decide(stored, RULES, NOW)
    by_digest = {one.digest: one for one in stored}
    for move in plan.moves:
        one = by_digest[move.digest]
        assert move.source == one.tier != move.target
        if move.target == "delete":
            assert not one.needed_by
            assert all(table == "raw.a" or subject == "credit" for subject, table in one.tables)
            assert one.tables
            young = one.made_at > days_ago(3650)
            assert not (young and any(subject == "credit" for subject, _ in one.tables))
        else:
            assert move.costs_once <= RULES.horizon_months * move.saves_month + 1e-9
    assert plan.month_after <= plan.month_before + 1e-9
    # Done, nothing is left to do.
    there = {move.digest: move.target for move in plan.moves}
    after = [replace(one, tier=there.get(one.digest, one.tier)) for one in stored if there.get(one.digest) != "delete"]
    assert not [move for move in decide(after, RULES, NOW).moves if move.digest in there]


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ({"tiers": [TIERS[1]]}, "hot first"),
        ({"tiers": [TIERS[0], TIERS[2], TIERS[1]]}, "hot first, then warm, cold"),
        ({"tiers": [TIERS[0], {"name": "cold", "gib_month": 1}]}, "tier cold needs a `store`"),
        ({"tiers": [{"name": "hot", "gib_month": -1}]}, "greater than or equal to 0"),
        ({"tiers": TIERS, "rules": [{"keep_days": 3}]}, "need a `why`"),
        ({"tiers": TIERS, "rules": [{"cold_days": 3}]}, "Extra inputs"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(broken: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        TieringRules(**broken)  # type: ignore[arg-type]
