"""What a fresh model is expected to gain, and the decision that weighs it against its cost."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab_flows.drift.decision import Challenge, Evidence, Policy, Seen, decide
from trimtab_flows.drift.gain import Expected, expected_gain, expected_of, observed_loss
from trimtab_flows.drift.loss import wavering

PRICED = Policy(value_per_point_day=10.0, retrain_cost=60.0, max_age=None, cooldown=0)


def evidence(**changes: object) -> Evidence:
    base = Evidence(
        window="2024-W10",
        labelled_rows=5000,
        metric="auc",
        higher_is_better=True,
        performance=0.70,
        performance_se=0.005,
        reference_performance=0.70,
        reference_se=0.005,
        input_psi=(),
        prediction_psi=0.0,
        windows_since_retrain=None,
        champion_age=4,
        window_days=7.0,
        champion_age_days=28.0,
        training_rows=40_000,
        new_labelled_rows=20_000,
    )
    return replace(base, **changes)


def challenge(gain: float | None, promoted: bool = False, **changes: object) -> Challenge:
    base = Challenge("2024-W08", gain, 0.002, 50_000, 40_000, champion_age=4, promoted=promoted)
    return replace(base, **changes)


def test_more_rows_age_and_a_loss_each_promise_more():
    plain = expected_gain(evidence())
    assert plain is not None
    assert plain.learnt_from == 0
    more = expected_gain(evidence(new_labelled_rows=60_000))
    older = expected_gain(evidence(champion_age_days=90.0))
    worse = expected_gain(evidence(performance=0.62))
    assert all(each is not None and each.mean > plain.mean for each in (more, worse))
    assert older is not None
    assert older.mean >= plain.mean
    assert math.isclose(plain.mean, sum(part for _, part in plain.parts))


def test_challengers_that_gained_nothing_teach_that_retraining_does_not_pay():
    assert decide(evidence(), None, PRICED).retrain
    beaten = tuple(challenge(0.0) for _ in range(3))
    decision = decide(evidence(challenges=beaten), None, PRICED)
    assert not decision.retrain
    assert "learnt from 3 retrainings" in " ".join(decision.reasons)
    assert decision.expected_gain is not None
    assert decision.expected_gain < decide(evidence(), None, PRICED).expected_gain


def test_one_challenger_that_gained_much_teaches_a_line_that_was_thought_flat():
    told = evidence(challenges=(challenge(0.3, promoted=True, newer_days=28.0),))
    assert expected_gain(told).mean > 5 * expected_gain(evidence()).mean


def test_what_a_challenger_is_expected_to_gain_is_what_a_decision_to_train_it_counted_on():
    # Trained on all that is known now: the same rows, the same age, the same loss.
    now = evidence(performance=0.62, challenges=(challenge(0.01, promoted=True),))
    trained = challenge(None, rows=60_000, newer_days=28.0, champion_loss=observed_loss(now))
    expected, gain = expected_of(now, trained), expected_gain(now)
    assert expected.mean == pytest.approx(gain.mean)
    assert expected.sd == pytest.approx(gain.sd)
    assert expected_of(replace(now, fresh_age_days=7.0), trained) == expected
    assert expected_of(evidence(performance=None, reference_performance=None), trained) is None


def test_a_comparison_moves_what_was_expected_by_as_much_as_it_is_exact():
    before = Expected(0.01, 0.004)
    assert before.given(-0.01, 0.004) == pytest.approx((0.0, 0.004 / 2**0.5))
    assert before.given(-0.01, 1000.0) == pytest.approx((0.01, 0.004), rel=1e-3)
    assert before.given(-0.01, 0.0) == (-0.01, 0.0)
    assert Expected(0.01, 0.0).given(-0.01, 0.0) == (-0.01, 0.0)


def test_a_gain_counts_for_as_long_as_the_champion_has_served():
    policy = replace(PRICED, horizon_days=28.0)
    young, old = evidence(champion_age_days=14.0), evidence(champion_age_days=84.0)
    worth = [decide(each, None, policy) for each in (young, old)]
    assert [each.expected_gain_money / each.expected_gain for each in worth] == pytest.approx([28_000.0, 84_000.0])
    assert "in 84 days" in " ".join(worth[1].reasons)


def test_a_probe_and_an_unknown_gain_teach_nothing():
    told = evidence(challenges=(challenge(None), challenge(0.1, probe=True)))
    assert expected_gain(told) == expected_gain(evidence())


def test_what_a_champion_beat_counts_until_it_is_replaced():
    beaten = expected_gain(evidence(challenges=(challenge(-0.02),)))
    replaced = expected_gain(evidence(challenges=(challenge(-0.02), challenge(0.01, promoted=True))))
    assert beaten is not None
    assert replaced is not None
    assert dict(beaten.parts)["challengers that this champion beat"] < 0
    assert dict(replaced.parts)["challengers that this champion beat"] == 0


def test_small_losses_that_gave_nothing_back_do_not_hide_a_large_one():
    beaten = tuple(challenge(-0.002, gain_se=0.0005, champion_loss=0.02) for _ in range(4))
    after_a_change = evidence(performance=0.45, challenges=beaten)
    assert not decide(evidence(performance=0.68, challenges=beaten), None, PRICED).retrain
    assert decide(after_a_change, None, PRICED).retrain
    assert dict(expected_gain(after_a_change).parts)["the loss seen"] > 0


def test_a_loss_that_may_be_chance_counts_for_next_to_nothing_and_a_large_one_for_nearly_all():
    assert observed_loss(evidence(performance=0.699)) < 1e-4
    assert observed_loss(evidence(performance=0.69)) < 1e-4
    assert observed_loss(evidence(performance=0.5)) == pytest.approx(0.2, abs=0.01)
    assert observed_loss(evidence(performance=0.9)) < 1e-4


def seen(*performances: float, age: int = 1) -> tuple[Seen, ...]:
    return tuple(Seen("w", value, 0.005, champion_age=age + place) for place, value in enumerate(performances))


def test_a_loss_that_stays_counts_for_more():
    once = observed_loss(evidence(performance=0.68, champion_age=4, history=seen(0.7, 0.7, 0.7)))
    thrice = observed_loss(evidence(performance=0.68, champion_age=4, history=seen(0.7, 0.68, 0.68)))
    assert once < 0.3 * thrice
    assert thrice < 0.02
    # The windows of the champion before do not count.
    old = Seen("2024-W09", 0.9, 0.005, champion_age=20)
    assert observed_loss(evidence(performance=0.65, history=(old,))) == observed_loss(evidence(performance=0.65))


def test_a_loss_that_went_away_is_none():
    assert observed_loss(evidence(performance=0.7, champion_age=4, history=seen(0.7, 0.62, 0.7))) < 0.005


def test_a_metric_that_wavers_by_itself_needs_a_larger_loss():
    steady = seen(0.7, 0.701, 0.7, 0.699, 0.7, 0.7)
    wavers = seen(0.7, 0.66, 0.72, 0.67, 0.73, 0.7)
    now = evidence(performance=0.66, champion_age=7)
    assert wavering(replace(now, history=steady)) == 0
    assert 0.02**2 < wavering(replace(now, history=wavers)) < 0.06**2
    assert observed_loss(replace(now, history=wavers)) < 0.5 * observed_loss(replace(now, history=steady))


def test_false_alarms_of_a_champion_that_does_not_change_are_rare():
    random = np.random.default_rng(0)
    found = [
        observed_loss(evidence(performance=values[-1], champion_age=9, history=seen(*values[:-1], age=1)))
        for values in random.normal(0.7, 0.005, (500, 9))
    ]
    assert np.mean([loss > 0.005 for loss in found]) < 0.02


def test_what_is_likely_enough_to_pay_is_the_policys():
    half = decide(evidence(), None, replace(PRICED, min_confidence=0.5))
    sure = decide(evidence(), None, replace(PRICED, min_confidence=0.9))
    assert half.retrain
    assert not sure.retrain
    assert "90% are asked for" in " ".join(sure.reasons)
    assert half.confidence + sure.confidence == pytest.approx(1)


def test_neither_more_rows_nor_newer_ones_are_thought_to_harm():
    harmed = tuple(challenge(-0.03, newer_days=28.0, promoted=True) for _ in range(4))
    parts = dict(expected_gain(evidence(challenges=harmed, champion_age_days=84.0)).parts)
    assert parts["more rows"] >= 0
    assert parts["newer rows"] == 0


def test_the_direction_of_the_metric_is_minded():
    lower = evidence(metric="mae", higher_is_better=False, performance=0.8)
    assert observed_loss(lower) > 0
    assert observed_loss(replace(lower, performance=0.6)) == 0


def test_a_policy_without_a_price_decides_by_alarms():
    policy = replace(PRICED, value_per_point_day=None)
    decision = decide(evidence(), None, policy)
    assert decision.expected_gain is None
    assert not decision.retrain
    assert decide(evidence(performance=0.6), None, policy).retrain


def test_nothing_known_is_no_gain():
    assert expected_gain(evidence(performance=None, reference_performance=None)) is None
    assert not decide(evidence(performance=None, reference_performance=None), None, PRICED).retrain


figure = st.floats(-1, 1)
challenges = st.lists(
    st.builds(
        Challenge,
        st.just("w"),
        st.none() | figure,
        st.floats(0, 0.1),
        st.integers(0, 10**6),
        st.integers(0, 10**6),
        st.integers(0, 50),
        st.floats(0, 1),
        st.booleans(),
        st.booleans(),
    ),
    max_size=6,
).map(tuple)
anything = st.builds(
    evidence,
    performance=st.none() | st.floats(0, 1),
    reference_performance=st.none() | st.floats(0, 1),
    performance_se=st.floats(0, 0.2),
    champion_age_days=st.none() | st.floats(0, 1000),
    training_rows=st.integers(0, 10**7),
    new_labelled_rows=st.none() | st.integers(0, 10**7),
    challenges=challenges,
)


@given(anything)
def test_a_gain_is_always_finite(found: Evidence):
    gain = expected_gain(found)
    if gain is not None:
        assert math.isfinite(gain.mean)
        assert gain.sd >= 0
        assert 0 <= gain.above(0.0) <= 1


@given(anything, st.floats(0, 1e6), st.floats(0, 1e6))
def test_a_dearer_retraining_is_never_decided_where_a_cheaper_one_is_not(found: Evidence, one: float, other: float):
    cheap, dear = sorted((one, other))
    if decide(found, None, replace(PRICED, retrain_cost=dear)).retrain:
        assert decide(found, None, replace(PRICED, retrain_cost=cheap)).retrain


@given(anything)
def test_a_decision_by_money_survives_json_and_is_the_same_again(found: Evidence):
    decision = decide(found, None, PRICED)
    assert decide(Evidence.from_json(found.to_json()), None, PRICED) == decision
    assert type(decision).from_json(decision.to_json()) == decision
    assert decision.confidence is None or 0 <= decision.confidence <= 1
