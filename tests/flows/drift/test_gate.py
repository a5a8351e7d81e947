"""The gate: promotes what is better beyond chance, refuses the rest, and says why with its figures."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab_flows.drift.bootstrap import draws, standard_error
from trimtab_flows.drift.gain import Expected
from trimtab_flows.drift.gate import GatePolicy, compare, gate, judge
from trimtab_flows.drift.values import InvalidPolicy
from trimtab_flows.metrics import auc, brier, log_loss, rmse


def sample(rows: int, strength: float, seed: int = 0, noise_seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and scores that follow them by so much."""
    labels = (np.random.default_rng(seed).random(rows) < 0.3).astype(np.float64)
    noise = np.random.default_rng(noise_seed).normal(0, 1, rows)
    return labels, 1 / (1 + np.exp(-(strength * (labels - 0.5) + noise)))


def test_a_challenger_that_is_better_is_promoted_with_its_figures():
    labels, old = sample(3000, 0.2)
    _, new = sample(3000, 1.0)
    verdict = gate(labels, old, new, (auc, log_loss, brier), seed=0)
    assert verdict.promote
    first = verdict.comparisons[0]
    assert first.champion == pytest.approx(auc.function(labels, old))
    assert first.challenger == pytest.approx(auc.function(labels, new))
    assert first.difference == pytest.approx(first.challenger - first.champion)
    assert 0 < first.ci_low < first.difference < first.ci_high
    assert verdict.reason == (
        f"auc {first.challenger:.4f} against {first.champion:.4f} of the champion, {first.difference:.4f} better "
        f"(90% interval {first.ci_low:+.4f} to {first.ci_high:+.4f}): better beyond chance."
    )


def test_a_challenger_that_is_worse_or_the_same_is_refused():
    labels, old = sample(3000, 1.0)
    _, worse = sample(3000, 0.2)
    assert not gate(labels, old, worse, (auc,)).promote
    same = gate(labels, old, old, (auc,))
    assert not same.promote
    assert (same.comparisons[0].ci_low, same.comparisons[0].ci_high) == (0, 0)
    assert "of the champion, no difference (" in same.reason


def test_a_small_gain_on_few_rows_may_be_chance():
    labels, old = sample(120, 0.50)
    _, new = sample(120, 0.55, noise_seed=2)
    verdict = gate(labels, old, new, (auc,))
    assert not verdict.promote
    assert "not better beyond chance" in verdict.reason


def test_a_gain_that_was_expected_needs_no_proof():
    labels, old = sample(120, 0.50)
    _, new = sample(120, 0.55, noise_seed=5)
    verdict = gate(labels, old, new, (auc,), expected=Expected(0.02, 0.02))
    assert verdict.promote
    assert verdict.expected_gain > 0
    assert "with the +0.0200 that was expected before" in verdict.reason
    # Neither without an expectation, nor where proof is asked for.
    assert not gate(labels, old, new, (auc,)).promote
    proven = gate(labels, old, new, (auc,), policy=GatePolicy(rule="proven"), expected=Expected(0.02, 0.02))
    assert proven == gate(labels, old, new, (auc,))


def test_a_loss_that_was_expected_takes_proof_of_the_contrary():
    labels, old = sample(120, 0.50)
    _, new = sample(120, 0.55, noise_seed=5)
    assert not gate(labels, old, new, (auc,), expected=Expected(-0.5, 0.02)).promote
    _, clearly = sample(3000, 1.5)
    labels, weak = sample(3000, 0.2)
    assert gate(labels, weak, clearly, (auc,), expected=Expected(-0.001, 0.02)).promote


def test_every_metric_is_positive_where_the_challenger_is_better():
    labels, old = sample(3000, 0.2)
    _, new = sample(3000, 1.0)
    up, down = gate(labels, old, new, (auc, log_loss)), gate(labels, new, old, (auc, log_loss))
    for better, worse in zip(up.comparisons, down.comparisons, strict=True):
        assert better.difference == pytest.approx(-worse.difference)
        assert better.difference > 0
        assert better.ci_low == pytest.approx(-worse.ci_high)


seeds = st.integers(0, 2**32 - 1)
metrics = st.sampled_from([auc, log_loss, brier, rmse])
QUICK = GatePolicy(resamples=100)


@settings(max_examples=40, deadline=None)
@given(seeds, metrics, st.integers(100, 400), st.booleans())
def test_the_same_scores_never_promote(seed: int, metric, rows: int, by_day: bool):
    labels, scores = sample(rows, 1.0, seed, seed + 1)
    days = np.arange(rows) % 20 if by_day else None
    assert not gate(labels, scores, scores.copy(), (metric,), seed, QUICK, days).promote


@settings(max_examples=40, deadline=None)
@given(seeds, metrics, st.booleans())
def test_what_is_clearly_better_promotes_and_what_is_clearly_worse_never(seed: int, metric, by_day: bool):
    labels, weak = sample(400, 0.0, seed, seed + 1)
    strong = 0.9 * labels + 0.1 * weak  # ranks and scales better than the other, for every metric
    days = np.arange(400) % 20 if by_day else None
    assert gate(labels, weak, strong, (metric,), seed, QUICK, days).promote
    assert not gate(labels, strong, weak, (metric,), seed, QUICK, days).promote
    assert gate(labels, None, strong, (metric,), seed, QUICK, days).promote


@settings(max_examples=40, deadline=None)
@given(seeds, metrics, st.floats(-10, 10), st.floats(0, 10))
def test_what_is_worse_beyond_chance_is_never_promoted_whatever_was_expected(seed: int, metric, mean: float, sd: float):
    labels, weak = sample(400, 0.0, seed, seed + 1)
    strong = 0.9 * labels + 0.1 * weak
    verdict = gate(labels, strong, weak, (metric,), seed, QUICK, expected=Expected(mean, sd))
    assert not verdict.promote
    assert "worse beyond chance" in verdict.reason


def test_a_comparison_on_record_is_judged_again_as_it_was():
    labels, old = sample(500, 0.4)
    _, new = sample(500, 0.6, noise_seed=3)
    expected = Expected(0.001, 0.01)
    recorded = compare(labels, old, new, (auc, log_loss))
    assert judge(recorded, 500, expected=expected) == gate(labels, old, new, (auc, log_loss), expected=expected)


def test_the_first_metric_decides():
    labels, old = sample(3000, 0.5)
    ranked_better, badly_scaled = sample(3000, 2.0)
    new = badly_scaled**8
    assert gate(labels, old, new, (auc, log_loss)).promote
    verdict = gate(labels, old, new, (log_loss, auc))
    assert not verdict.promote
    assert np.array_equal(labels, ranked_better)


def test_the_least_gain_is_asked_for():
    labels, old = sample(3000, 0.2)
    _, new = sample(3000, 1.0)
    gain = gate(labels, old, new, (auc,)).comparisons[0].ci_low
    assert gate(labels, old, new, (auc,), policy=GatePolicy(min_gain=gain * 0.99)).promote
    refused = gate(labels, old, new, (auc,), policy=GatePolicy(min_gain=gain * 1.01))
    assert not refused.promote
    assert "not better by more than" in refused.reason


def test_the_first_model_must_beat_a_constant():
    labels, good = sample(2000, 1.0)
    _, useless = sample(2000, 0.0)
    verdict = gate(labels, None, good, (auc, brier))
    assert verdict.promote
    assert verdict.comparisons[0].champion == 0.5
    assert "of a constant prediction" in verdict.reason
    assert not gate(labels, None, useless, (auc, brier)).promote


def test_the_first_model_of_a_quantity_must_beat_its_mean():
    random = np.random.default_rng(0)
    truth = random.normal(100, 10, 1000)
    assert gate(truth, None, truth + random.normal(0, 5, 1000), (rmse,)).promote
    assert not gate(truth, None, truth + random.normal(0, 20, 1000), (rmse,)).promote


def test_rows_of_one_day_are_not_taken_for_independent():
    # The challenger is better on some days and worse on others: on single rows that seems certain, on days it is not.
    random = np.random.default_rng(4)
    days = np.repeat(np.arange(10), 300)
    labels = (random.random(3000) < 0.3).astype(np.float64)
    favour = np.repeat(np.array([2.0, 2.0, 2.0, 2.0, 2.0, 2.0, -1.5, -1.5, -1.5, -1.5]), 300)
    old, new = random.normal(0, 1, 3000), random.normal(0, 1, 3000) + favour * (labels - 0.5)
    by_row, by_day = gate(labels, old, new, (auc,)), gate(labels, old, new, (auc,), groups=days)
    assert by_row.promote
    assert not by_day.promote
    widths = [verdict.comparisons[0].ci_high - verdict.comparisons[0].ci_low for verdict in (by_row, by_day)]
    assert widths[1] > 2 * widths[0]
    assert standard_error(labels, new, auc, 0, days) > 2 * standard_error(labels, new, auc, 0)


def test_few_groups_are_ignored_and_the_reason_says_so():
    labels, old = sample(1000, 0.2)
    _, new = sample(1000, 1.0)
    alone = gate(labels, old, new, (auc,), groups=np.zeros(1000))
    assert alone.comparisons == gate(labels, old, new, (auc,)).comparisons
    assert "Fewer than 5 groups" in alone.reason
    assert alone.comparisons[0].ci_low < alone.comparisons[0].ci_high


def test_whole_groups_are_drawn():
    groups = np.array(["c", "a", "b", "a", "e", "d", "c", "a"])
    for rows in draws(8, groups, seed=0, count=50):
        counts = np.bincount(rows, minlength=8)
        for name in "abcde":
            assert len(set(counts[groups == name])) == 1
        assert sum(counts[np.flatnonzero(groups == name)[0]] for name in "abcde") == 5


def test_same_seed_same_verdict_and_other_seed_other_interval():
    labels, old = sample(500, 0.4)
    _, new = sample(500, 0.6, noise_seed=3)
    assert gate(labels, old, new, (auc,), seed=7) == gate(labels, old, new, (auc,), seed=7)
    assert gate(labels, old, new, (auc,), seed=7) != gate(labels, old, new, (auc,), seed=8)


def test_standard_error_of_a_mean_is_the_known_one():
    random = np.random.default_rng(0)
    errors = random.normal(0, 2, 5000)
    found = standard_error(errors, np.zeros(5000), _Bias(), seed=0, resamples=400)
    assert found == pytest.approx(2 / 5000**0.5, rel=0.15)


class _Bias:
    name, higher_is_better = "bias", True
    function = staticmethod(lambda labels, scores: float(np.mean(labels - scores)))


@pytest.mark.parametrize("rows", [0, 1, 99])
def test_too_few_rows_decide_nothing(rows: int):
    labels, new = sample(rows, 1.0)
    verdict = gate(labels, None, new, (auc,))
    assert not verdict.promote
    assert verdict.reason == f"Only {rows} labelled rows to compare on; 100 are needed."
    assert standard_error(labels[:0], new[:0], auc, 0) == 0


def test_where_the_metric_is_not_defined_the_challenger_is_refused():
    labels, new = np.ones(200), np.linspace(0, 1, 200)
    verdict = gate(labels, new, new, (auc, brier))
    assert not verdict.promote
    assert verdict.reason == "auc is not defined on these 200 rows, so the challenger shows no gain."
    assert (verdict.comparisons[0].challenger, verdict.comparisons[0].ci_low) == (None, None)
    assert standard_error(labels, new, auc, 0) == 0


def test_scores_that_are_not_finite_are_refused():
    labels, old = sample(200, 1.0)
    new = old.copy()
    new[3] = np.nan
    verdict = gate(labels, old, new, (auc, log_loss, brier))
    assert not verdict.promote
    assert all(each.challenger is None for each in verdict.comparisons)


def test_arrays_that_do_not_match_are_refused_by_name():
    labels, scores = sample(200, 1.0)
    with pytest.raises(ValueError, match=r"challenger_scores has the shape \(199,\) and labels \(200,\)"):
        gate(labels, scores, scores[1:], (auc,))
    with pytest.raises(ValueError, match="groups has the shape"):
        gate(labels, scores, scores, (auc,), groups=np.zeros(3))
    with pytest.raises(ValueError, match="at least one metric"):
        gate(labels, scores, scores, ())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("confidence", 1),
        ("confidence", 0.0),
        ("confidence", "high"),
        ("min_gain", -0.1),
        ("min_gain", float("nan")),
        ("resamples", 99),
        ("resamples", 500.0),
        ("min_rows", 0),
        ("min_rows", True),
        ("rule", "sure"),
    ],
)
def test_a_bad_policy_is_refused_by_field(field: str, value: object):
    with pytest.raises(InvalidPolicy, match=f"gate policy: field {field} is"):
        GatePolicy(**{field: value})


def test_ten_thousand_rows_and_three_metrics_take_less_than_two_seconds():
    labels, old = sample(10_000, 0.5)
    _, new = sample(10_000, 0.6, noise_seed=2)
    days = np.repeat(np.arange(10), 1000)
    started = time.process_time()
    gate(labels, old, new, (auc, log_loss, brier), groups=days)
    took_s = time.process_time() - started
    print(f"gate of 10,000 rows, three metrics, 500 resamples: {took_s:.2f} s")
    assert took_s < 2
