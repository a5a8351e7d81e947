"""When a retraining may start, and what the business orders."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab_flows.drift.calendar import Blackout, Calendar, Hours
from trimtab_flows.drift.decision import Decision, Evidence, InvalidRecord, Order, Policy, decide
from trimtab_flows.drift.orders import standing

BERLIN = ZoneInfo("Europe/Berlin")
#: A Wednesday noon in UTC.
NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)
BAD = Evidence("w", 10_000, "auc", True, 0.6, 0.005, 0.7, 0.005, (), 0.0, None, 1, as_of=NOON.isoformat())


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("allowed", "blackouts", "moment", "expected"),
    [
        ((), (), NOON, NOON),
        ((Hours(("wed",)),), (), NOON, NOON),
        ((Hours(("sat", "sun")),), (), NOON, at("2026-11-27T23:00")),
        ((Hours(start="22:00", end="06:00"),), (), NOON, at("2026-11-25T21:00")),
        ((Hours(start="22:00", end="06:00"),), (), at("2026-11-25T03:00"), at("2026-11-25T03:00")),
        ((Hours(("tue",), "22:00", "06:00"),), (), at("2026-11-25T03:00"), at("2026-11-25T03:00")),
        ((Hours(("tue",), "22:00", "06:00"),), (), at("2026-11-25T05:00"), at("2026-12-01T21:00")),
        ((), (Blackout("2026-11-24", "2026-11-30"),), NOON, at("2026-11-30T23:00")),
        ((), (Blackout("2026-11-24T00:00", "2026-11-25T12:00+00:00"),), NOON, NOON),
        (
            (),
            (Blackout("2026-11-25", "2026-11-26"), Blackout("2026-11-26", "2026-11-28")),
            NOON,
            at("2026-11-28T23:00"),
        ),
        ((Hours(("fri",)),), (Blackout("2026-11-27", "2026-11-27"),), NOON, at("2026-12-03T23:00")),
        ((), (Blackout("2026-11-01", "2028-11-01"),), NOON, None),
    ],
)
def test_the_next_start(allowed, blackouts, moment: datetime, expected: datetime | None):
    found, held = Calendar(BERLIN, allowed, blackouts).next_start(moment)
    assert found == expected
    assert bool(held) is (found != moment)


moments = st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1)).map(lambda moment: moment.replace(tzinfo=UTC))
hours = st.builds(
    Hours,
    st.lists(st.sampled_from(["mon", "tue", "fri", "sun"]), min_size=1, max_size=3),
    st.sampled_from(["00:00", "02:30", "22:00"]),
    st.sampled_from(["24:00", "03:00", "22:00"]),
)


@given(moments, st.lists(hours, max_size=2).map(tuple), st.sampled_from(["UTC", "Europe/Berlin", "America/New_York"]))
def test_a_start_is_never_in_a_blackout_nor_outside_the_hours(moment: datetime, allowed: tuple[Hours, ...], zone: str):
    blackout = Blackout("2026-03-01", "2026-04-15", "audit")
    calendar = Calendar(ZoneInfo(zone), allowed, (blackout,))
    found, _ = calendar.next_start(moment)
    assert found is not None
    assert found >= moment
    assert calendar.next_start(found)[0] == found
    start, end = blackout.within(ZoneInfo(zone))
    assert not start <= found < end
    if allowed:
        local = found.astimezone(ZoneInfo(zone))
        days = (local, local - timedelta(days=1))
        stretches = [each.opens(day) for each in allowed for day in days]
        assert any(each is not None and each[0] <= local < each[1] for each in stretches)


def order(kind: str, until: str | None = None, issued: str = "2026-11-20T00:00:00+00:00") -> Order:
    return Order(kind, issued, until, "audit", "compliance")  # type: ignore[arg-type]


def verdict(*orders: Order, policy: Policy | None = None, **changes) -> Decision:
    return decide(replace(BAD, orders=orders, **changes), None, policy or Policy())


def test_without_orders_and_calendar_it_is_now():
    decision = verdict()
    assert (decision.verdict, decision.at) == ("retrain", None)


def test_a_blackout_makes_it_later_and_says_when():
    policy = Policy(
        timezone="Europe/Berlin", blackouts=(Blackout("2026-11-25", "2026-11-30", "Black Friday"),), deadline_hours=6
    )
    decision = verdict(policy=policy)
    assert (decision.verdict, decision.at) == ("later", "2026-11-30T23:00:00+00:00")
    assert decision.deadline == "2026-12-01T05:00:00+00:00"
    assert "Black Friday" in decision.reasons[-1]
    assert not decision.retrain
    at_that_time = replace(BAD, as_of=decision.at)
    assert decide(at_that_time, decision, policy).verdict == "retrain"


def test_a_calendar_without_a_known_time_waits():
    decision = verdict(policy=Policy(allowed=(Hours(),)), as_of=None)
    assert decision.verdict == "wait"
    assert "the time of this decision is not known" in decision.reasons[-1]


def test_forbid_waits_and_with_an_end_it_is_later():
    assert verdict(order("forbid")).verdict == "wait"
    assert "an order by compliance to forbid retraining (audit)" in verdict(order("forbid")).reasons[-1]
    decision = verdict(order("forbid", "2026-12-01T00:00:00+00:00"))
    assert (decision.verdict, decision.at) == ("later", "2026-12-01T00:00:00+00:00")
    assert verdict(order("forbid", "2026-11-24T00:00:00+00:00")).verdict == "retrain"


def test_postpone_moves_what_would_be_done():
    postponed = order("postpone", "2026-11-27T08:00:00+01:00")
    assert verdict(postponed).at == "2026-11-27T07:00:00+00:00"
    assert verdict(postponed, performance=0.7).verdict == "wait"


def test_force_retrains_once_whatever_the_figures_say():
    forced = order("force")
    fine = {"performance": 0.7, "windows_since_retrain": 1}
    assert verdict(forced, **fine).verdict == "retrain"
    assert verdict(forced, **fine, last_retrain_at="2026-11-21T00:00:00+00:00").verdict == "wait"
    assert verdict(forced, order("forbid"), **fine).verdict == "wait"
    assert verdict(replace(forced, issued="2026-11-26T00:00:00+00:00"), **fine).verdict == "wait"


def test_what_a_decision_asks_of_the_run():
    policy = Policy(priority="high", deadline_hours=2, regions=("eu-1",), needs_approval=True, tell=("ml@example.org",))
    decision = verdict(policy=policy)
    assert decision.resources == {
        "priority": 1,
        "deadline": "2026-11-25T14:00:00+00:00",
        "labels": {"region": ["eu-1"]},
    }
    assert decision.needs_approval
    assert decision.tell == ("ml@example.org",)
    assert decision.policy == policy.digest
    assert Decision.from_json(decision.to_json()) == decision


def test_new_rows_and_days_hold_a_retraining_back():
    few = verdict(policy=Policy(min_new_labelled_rows=500), new_labelled_rows=499)
    assert few.verdict == "wait"
    assert "499 labelled rows are new" in few.reasons[-1]
    assert verdict(policy=Policy(min_new_labelled_rows=500), new_labelled_rows=500).retrain
    recent = {"last_retrain_at": "2026-11-20T12:00:00+00:00"}
    assert not verdict(policy=Policy(cooldown_days=6), **recent).retrain
    assert verdict(policy=Policy(cooldown_days=5), **recent).retrain


def test_maximum_age_in_days_counts_from_the_last_attempt():
    policy = Policy(max_age=None, max_age_days=90)
    old = {"performance": 0.7, "champion_age_days": 100.0}
    assert verdict(policy=policy, **old).retrain
    assert not verdict(policy=policy, **old, last_retrain_at="2026-11-01T00:00:00+00:00").retrain
    assert not verdict(policy=policy, performance=0.7, champion_age_days=89.0).retrain


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"kind": "stop"}, "field kind is 'stop'; it must be one of force, forbid, postpone"),
        ({"kind": "postpone"}, "field until is missing"),
        ({"kind": "force", "issued": "2026-11-20"}, "field issued is '2026-11-20'; it must name its time zone"),
        ({"kind": "force", "issued": 5}, "field issued is 5; it must be a text"),
        ({"kind": "forbid", "until": "never"}, "field until is 'never'; it must be a date or a time"),
    ],
)
def test_a_bad_order_is_refused_by_field(fields: dict[str, object], said: str):
    with pytest.raises(InvalidRecord) as refused:
        Order(**{"issued": "2026-11-20T00:00:00+00:00", **fields})
    assert said in str(refused.value)


def test_evidence_comes_back_with_its_orders_history_and_challenges():
    text = replace(BAD, orders=(order("force"), order("forbid", "2026-12-01T00:00:00+00:00"))).to_json()
    assert Evidence.from_json(text).to_json() == text
    with pytest.raises(InvalidRecord, match="field as_of is '2026-11-25'; it must name its time zone"):
        Evidence.from_json(text.replace(NOON.isoformat(), "2026-11-25"))


def test_orders_are_counted_by_when_they_were_given_in_whichever_zone():
    early = Order("force", "2026-11-20T18:00:00+09:00", reason="from Tokyo, at nine in the morning UTC")
    late = Order("force", "2026-11-20T10:00:00+00:00", reason="from London, at ten")
    moment = datetime(2026, 11, 21, tzinfo=UTC)
    assert standing((late, early), moment, None).force == early
    assert sorted([late, early], key=lambda order: order.given) == [early, late]
