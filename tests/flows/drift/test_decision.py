"""The decision: performance decides, drift and age have a say, and anyone can replay it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from trimtab_flows.drift.decision import Decision, Evidence, InvalidPolicy, InvalidRecord, Policy, decide, in_words

#: A window in which all is well: as good as on the holdout, no drift, a young champion.
CALM = Evidence(
    window="2024-05",
    labelled_rows=10_000,
    metric="auc",
    higher_is_better=True,
    performance=0.70,
    performance_se=0.005,
    reference_performance=0.70,
    reference_se=0.005,
    input_psi=(("a", 0.01), ("b", 0.02)),
    prediction_psi=0.01,
    windows_since_retrain=None,
    champion_age=1,
)
POLICY = Policy(enter_loss=0.05, leave_loss=0.02, drifted_enter_loss=0.03, confidence_z=2, cooldown=2, max_age=6)
DRIFTED_INPUTS = (("a", 17.0), ("b", 9.0), ("c", 5.0), ("d", 0.3), ("e", 0.01))


def after(evidence: Evidence, previous: Decision | None = None, policy: Policy = POLICY, **changes) -> Decision:
    return decide(replace(evidence, **changes), previous, policy)


def alarmed(age: int = 1) -> Decision:
    return Decision("2024-04", "wait", True, (), age)


def test_when_all_is_well_it_waits_and_says_what_it_saw():
    decision = after(CALM)
    assert (decision.verdict, decision.retrain, decision.alarmed) == ("wait", False, False)
    assert decision.reasons == (
        "auc 0.7000 is 0.0% better than the 0.7000 seen when the champion was made; an alarm begins at 5.0%.",
    )


def test_a_loss_beyond_the_threshold_and_beyond_chance_retrains():
    decision = after(CALM, performance=0.65)
    assert decision.retrain
    assert decision.alarmed
    assert decision.reasons == (
        "auc 0.6500 is 7.1% worse than the 0.7000 seen when the champion was made; from 5.0% on that is an alarm.",
    )


def test_a_loss_that_may_be_chance_waits():
    decision = after(CALM, performance=0.65, performance_se=0.03)
    assert not decision.retrain
    assert "may be chance: 2 standard errors are 8.7%" in decision.reasons[0]


def test_for_a_metric_where_lower_is_better_a_rise_is_a_loss():
    lower = replace(CALM, metric="rmse", higher_is_better=False)
    assert after(lower, performance=0.75).retrain
    assert not after(lower, performance=0.65).retrain


@pytest.mark.parametrize("reference", [0.0, -0.5, -2.0])
def test_a_reference_of_zero_or_below_is_compared_too(reference: float):
    low = replace(CALM, metric="r2", reference_performance=reference, performance=reference - 0.5)
    assert after(low).retrain
    assert not after(low, performance=reference + 0.5).retrain


def test_drift_of_inputs_alone_never_retrains_and_is_named():
    decision = after(CALM, input_psi=DRIFTED_INPUTS)
    assert not decision.retrain
    assert decision.reasons[-1] == (
        "Inputs that drifted (PSI from 0.25; alone no reason to retrain): a 17.00, b 9.00, c 5.00 and 1 more."
    )


def test_drift_of_predictions_alone_does_not_retrain_but_lowers_the_bar():
    assert not after(CALM, prediction_psi=5.0).retrain
    small_loss = replace(CALM, performance=0.67)
    assert not after(small_loss).retrain
    decision = after(small_loss, prediction_psi=0.15)
    assert decision.retrain
    assert "lower since predictions drifted (PSI 0.15)" in decision.reasons[0]


def test_hysteresis_an_alarm_goes_on_below_where_it_began_and_ends_lower():
    between = replace(CALM, performance=0.675, champion_age=2)
    assert not after(between).alarmed
    goes_on = after(between, alarmed())
    assert goes_on.alarmed
    assert goes_on.retrain
    ends = after(CALM, alarmed(), performance=0.69, champion_age=2)
    assert not ends.alarmed
    assert not ends.retrain
    assert "the alarm ends" in ends.reasons[0]


def test_a_replaced_champion_starts_without_an_alarm():
    between = replace(CALM, performance=0.675)
    assert after(between, alarmed(age=3), champion_age=4).alarmed
    assert not after(between, alarmed(age=3), champion_age=1).alarmed


@pytest.mark.parametrize(("since", "retrain"), [(None, True), (1, False), (2, False), (3, True)])
def test_cooldown_holds_a_retraining_back_but_not_the_alarm(since: int | None, retrain: bool):
    decision = after(CALM, performance=0.6, windows_since_retrain=since)
    assert decision.alarmed
    assert decision.retrain is retrain
    assert any("cooldown is 2" in reason for reason in decision.reasons) is not retrain


def test_past_its_maximum_age_a_champion_is_retrained_whatever_it_does():
    assert not after(CALM, champion_age=5).retrain
    decision = after(CALM, champion_age=6)
    assert decision.retrain
    assert not decision.alarmed
    assert "The champion's data ended 6 windows ago; the limit is 6." in decision.reasons
    assert not after(CALM, champion_age=600, policy=replace(POLICY, max_age=None)).retrain


def test_after_a_refused_challenger_age_counts_from_that_attempt():
    assert not after(CALM, champion_age=9, windows_since_retrain=3).retrain
    assert after(CALM, champion_age=12, windows_since_retrain=6).retrain


@pytest.mark.parametrize("before", [None, alarmed()])
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"performance": None}, "auc is not known in this window"),
        ({"performance": math.nan}, "auc is not known in this window"),
        ({"reference_performance": math.nan}, "not known on the rows held back"),
        ({"labelled_rows": 199, "performance": 0.1}, "199 labelled rows are too few to judge by (200 needed)"),
    ],
)
def test_what_is_not_known_changes_nothing(before: Decision | None, changes: dict[str, float], said: str):
    decision = decide(replace(CALM, champion_age=2, **changes), before, POLICY)
    assert decision.alarmed is (before is not None)
    assert said in decision.reasons[0]
    assert f"stays {'on' if before else 'off'}" in decision.reasons[0]


def test_a_performance_without_standard_errors_is_judged_by_the_threshold_alone():
    assert after(CALM, performance=0.66, performance_se=0.0, reference_se=math.nan).retrain


figures = st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True))
shares = st.floats(0, 100, allow_nan=False)
#: A PSI as someone else's code may give it.
any_share = st.one_of(shares, st.sampled_from([math.nan, math.inf]))
evidences = st.builds(
    Evidence,
    window=st.just("2024-05"),
    labelled_rows=st.integers(0, 10**6),
    metric=st.just("auc"),
    higher_is_better=st.booleans(),
    performance=figures,
    performance_se=shares,
    reference_performance=figures,
    reference_se=shares,
    input_psi=st.lists(st.tuples(st.sampled_from("abc"), any_share), max_size=3).map(tuple),
    prediction_psi=shares,
    windows_since_retrain=st.one_of(st.none(), st.integers(0, 50)),
    champion_age=st.integers(0, 50),
    input_js=st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 1)), max_size=3).map(tuple),
    prediction_js=st.floats(0, 1),
    ordinal=st.one_of(st.none(), st.integers(0, 50)),
)
previous = st.one_of(
    st.none(),
    st.builds(Decision, st.just("2024-04"), st.just("wait"), st.booleans(), st.just(()), st.integers(0, 50)),
)
policies = st.builds(
    lambda losses, **rest: Policy(leave_loss=losses[0], drifted_enter_loss=losses[1], enter_loss=losses[2], **rest),
    st.lists(st.floats(0, 1), min_size=3, max_size=3).map(sorted),
    confidence_z=st.floats(0, 5),
    cooldown=st.integers(0, 5),
    max_age=st.one_of(st.none(), st.integers(1, 20)),
)


@given(evidences, previous, policies)
def test_a_decision_can_be_replayed_from_its_records(evidence: Evidence, before: Decision | None, policy: Policy):
    decision = decide(evidence, before, policy)
    kept = [part if part is None else part.to_json() for part in (evidence, before, policy, decision)]
    for text in filter(None, kept):
        json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    again = decide(
        Evidence.from_json(kept[0]), None if kept[1] is None else Decision.from_json(kept[1]), Policy.from_json(kept[2])
    )
    assert again == decision == Decision.from_json(kept[3])


@given(evidences, previous, policies)
def test_what_never_happens(evidence: Evidence, before: Decision | None, policy: Policy):
    decision = decide(evidence, before, policy)
    assert decision.reasons
    since = evidence.windows_since_retrain
    if since is not None and since <= policy.cooldown:
        assert not decision.retrain
    too_old = policy.max_age is not None and evidence.champion_age >= policy.max_age
    if decision.retrain:
        assert decision.alarmed or too_old
    # Whatever the inputs did, the verdict is the same.
    assert decide(replace(evidence, input_psi=DRIFTED_INPUTS), before, policy).verdict == decision.verdict


@given(evidences, previous, policies)
def test_constant_evidence_never_flaps(evidence: Evidence, before: Decision | None, policy: Policy):
    alarms, last = [], before
    for age in range(8):
        last = decide(replace(evidence, champion_age=evidence.champion_age + age), last, policy)
        alarms.append(last.alarmed)
    # The first may end what came before; from then on the same figures give the same state.
    assert len(set(alarms)) == 1


@given(evidences, policies)
def test_between_any_two_retrainings_there_is_the_cooldown(evidence: Evidence, policy: Policy):
    last, since, decided = None, None, []
    for window in range(20):
        seen = replace(evidence, windows_since_retrain=since, champion_age=evidence.champion_age + window)
        last = decide(seen, last, policy)
        if last.retrain:
            decided.append(window)
        since = 1 if last.retrain else None if since is None else since + 1
    assert all(later - earlier > policy.cooldown for earlier, later in pairwise(decided))


@given(st.floats(0.01, 10), st.floats(0, 10), st.floats(0, 1), previous, policies)
def test_a_gain_and_a_loss_change_places_with_the_direction(
    reference: float, performance: float, error: float, before: Decision | None, policy: Policy
):
    up = replace(CALM, reference_performance=reference, performance=performance, performance_se=error)
    down = replace(up, higher_is_better=False, performance=2 * reference - performance)
    # One subtraction more rounds otherwise: a loss that lies on a threshold may fall on either side of it.
    loss = (reference - performance) / reference
    bars = (0, policy.enter_loss, policy.leave_loss, policy.confidence_z * math.hypot(error, 0.005) / reference)
    assume(all(abs(loss - bar) > 1e-9 * max(1, bar, abs(loss)) for bar in bars))
    one, other = decide(up, before, policy), decide(down, before, policy)
    assert (one.verdict, one.alarmed) == (other.verdict, other.alarmed)


@given(evidences, policies, st.integers(0, 10**6))
def test_too_few_labelled_rows_never_begin_an_alarm(evidence: Evidence, policy: Policy, rows: int):
    few = replace(evidence, labelled_rows=rows % policy.min_labelled_rows)
    assert not decide(few, None, policy).alarmed


def test_an_input_without_a_finite_figure_is_left_out_so_that_the_record_stays_json():
    odd = replace(CALM, input_psi=(("a", math.nan), ("b", 0.3), ("c", math.inf)), input_js=(("a", math.nan),))
    assert (odd.input_psi, odd.input_js) == ((("b", 0.3),), ())
    assert Evidence.from_json(odd.to_json()) == odd


def test_a_policy_is_made_from_some_of_its_fields():
    assert Policy.from_mapping({"cooldown": 3}) == replace(Policy(), cooldown=3)
    assert Policy.from_mapping({}) == Policy()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"cooldwn": 3}, "a policy has no field cooldwn; it has enter_loss, leave_loss"),
        ({"enter_loss": "much"}, "field enter_loss is 'much'; it must be a number 0 or more"),
        ({"enter_loss": -0.1}, "field enter_loss is -0.1"),
        ({"prediction_psi": math.nan}, "field prediction_psi is nan"),
        ({"confidence_z": True}, "field confidence_z is True"),
        ({"cooldown": 1.5}, "field cooldown is 1.5; it must be a whole number, 0 or more"),
        ({"min_labelled_rows": 0}, "field min_labelled_rows is 0; it must be a whole number, 1 or more"),
        ({"max_age": 0}, "field max_age is 0"),
        ({"leave_loss": 0.5}, "field leave_loss is 0.5; it must not be above drifted_enter_loss"),
        ({"drifted_enter_loss": 0.5}, "field drifted_enter_loss is 0.5; it must not be above enter_loss"),
    ],
)
def test_a_bad_policy_is_refused_by_field(fields: dict[str, object], said: str):
    with pytest.raises(InvalidPolicy) as refused:
        Policy.from_mapping(fields)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("kind", "text", "said"),
    [
        (Evidence, "no json", "this is no evidence"),
        (Evidence, "[]", "this is no evidence: it is a list"),
        (Evidence, '{"window": "2024-05"}', "evidence lacks the field labelled_rows"),
        (Evidence, '{"input_psi": [1]}', "field input_psi must list pairs"),
        (Decision, '{"window": "2024-05"}', "field verdict is None; it must be retrain, later or wait"),
        (Decision, '{"verdict": "wait", "alarm": 1}', "decision has no field alarm"),
        (Evidence, '{"performance": "good"}', "field performance is 'good'; it must be a number or null"),
        (Evidence, '{"performance_se": null}', "field performance_se is None; it must be a number"),
        (Evidence, '{"labelled_rows": "many"}', "field labelled_rows is 'many'; it must be a whole number"),
        (Evidence, '{"labelled_rows": true}', "field labelled_rows is True; it must be a whole number"),
        (Evidence, '{"champion_age": null}', "field champion_age is None; it must be a whole number"),
        (Decision, '{"verdict": "wait", "alarmed": "no"}', "field alarmed is 'no'; it must be true or false"),
        (Decision, '{"verdict": "wait", "reasons": "so"}', "field reasons is 'so'; it must be a list of texts"),
        (Decision, '{"verdict": "wait", "reasons": [1]}', "field reasons is [1]; it must be a list of texts"),
        (Policy, "[]", "this is no policy"),
    ],
)
def test_a_record_of_something_else_is_refused(kind: type, text: str, said: str):
    with pytest.raises(InvalidRecord) as refused:
        kind.from_json(text)
    assert said in str(refused.value)


#: A summer that is like every summer: worse and drifted against the winter the model was made in, but not its season.
SUMMER = replace(
    CALM,
    performance=0.65,
    input_psi=(("temp", 3.0), ("kind", 0.01)),
    prediction_psi=0.4,
    season="same",
    seasonal_psi=(("temp", 0.02),),
    seasonal_prediction_psi=0.01,
    seasonal_performance=0.66,
    seasonal_se=0.005,
)
BY_SEASON = replace(POLICY, reference="season")


def test_a_policy_may_compare_with_the_same_season_before():
    assert after(SUMMER).retrain
    decision = after(SUMMER, policy=BY_SEASON)
    assert decision.verdict == "wait"
    assert decision.reasons == (
        "auc 0.6500 is 1.5% worse than the 0.6600 of the same time a season ago; an alarm begins at 5.0%.",
    )


def test_what_is_new_for_the_season_too_is_an_alarm():
    decision = after(
        SUMMER, policy=BY_SEASON, performance=0.635, seasonal_prediction_psi=0.5, seasonal_psi=(("temp", 2),)
    )
    assert decision.retrain
    assert (
        "from 3.0% on that is an alarm, lower since predictions drifted (PSI against the season 0.50)"
        in (decision.reasons[0])
    )
    assert decision.reasons[1].startswith("Inputs that drifted (PSI against the season from 0.25; alone")


def test_without_a_season_the_training_is_what_it_is_compared_with():
    assert after(CALM, policy=BY_SEASON).reasons == after(CALM).reasons
    unknown = replace(SUMMER, season="", seasonal_psi=(), seasonal_prediction_psi=None, seasonal_performance=None)
    assert after(unknown, policy=BY_SEASON).reasons == after(unknown).reasons


def test_a_season_is_kept_with_the_evidence():
    assert Evidence.from_json(SUMMER.to_json()) == SUMMER
    before = {name: value for name, value in json.loads(CALM.to_json()).items() if not name.startswith("season")}
    assert Evidence.from_json(json.dumps(before)) == CALM


def test_a_verdict_in_words_has_its_time():
    assert in_words("later", "2026-11-28T03:30:00+01:00") == "Retrain at 2026-11-28 02:30 UTC"
    assert [in_words(verdict, None) for verdict in ("retrain", "wait")] == ["Retrain now", "Keep"]
