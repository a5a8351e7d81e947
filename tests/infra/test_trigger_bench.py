"""`trimtab bench trigger`: rules that live a series of made-up data, and the README's recipe from the command line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from trimtab_flows.drift.gate import GatePolicy
from trimtab_flows.drift.policy import Policy
from trimtab_flows.loading import LoadedRecipe
from trimtab_infra.bench import app
from trimtab_infra.bench.trigger import compare
from trimtab_infra.bench.trigger_chance import at, chance, even, sentence
from trimtab_infra.bench.trigger_replay import Life, Now, decided, every, evidence, judged, live, never, oracle, spread
from trimtab_infra.bench.trigger_series import Series, SeriesError, windows_of
from trimtab_infra.bench.trigger_synthetic import _BEGIN, CHANGE, Made, report

README = Path(__file__).parents[2] / "README.md"
PRICED = Policy(value_per_point_day=10.0, retrain_cost=60.0, max_age=None, cooldown=0)


def made(kind: str, windows: int, cache: Path | None = None) -> Series:
    last = _BEGIN.fromordinal(_BEGIN.toordinal() + 7 * windows)
    loaded, windows = LoadedRecipe(kind, Made(kind, 0), kind), windows_of(_BEGIN, last, 7)
    return Series(loaded, windows, 6, cache=cache, gate=GatePolicy(resamples=100))


@pytest.fixture(scope="module")
def abrupt() -> Series:
    return made("abrupt", CHANGE + 8)


def mean(series: Series, champions: list[int]) -> float:
    places = range(series.first, len(series.windows))
    values = [series.sign * series.metric_of(model, place) for model, place in zip(champions, places, strict=True)]
    return sum(values) / len(values)


def test_no_rule_serves_a_window_with_a_model_that_has_seen_it(abrupt: Series):
    for rule in (every(1), decided(PRICED)):
        life = live(abrupt, "x", rule)
        assert len(life.champions) == len(abrupt.windows) - abrupt.first
        assert all(model < abrupt.first + place for place, model in enumerate(life.champions))


def test_the_oracle_is_no_worse_than_any_rule_with_as_many_retrainings(abrupt: Series):
    for rule in (never, every(1), every(3), decided(PRICED)):
        life = live(abrupt, "x", rule)
        best = oracle(abrupt, len(life.retrains))
        assert len(best.retrains) <= len(life.retrains)
        assert mean(abrupt, best.champions) >= mean(abrupt, life.champions) - 1e-12


@pytest.mark.parametrize("count", [1, 2, 5, 17, 31])
def test_a_spread_rule_retrains_as_often_as_it_was_told(abrupt: Series, count: int):
    steps = len(abrupt.windows) - abrupt.first - 1
    assert len(live(abrupt, "x", spread(count, steps)).retrains) == count


def test_ours_sees_an_abrupt_change_at_once(abrupt: Series):
    after = [each.after for each in live(abrupt, "x", decided(PRICED)).retrains]
    assert any(CHANGE <= place <= CHANGE + 1 for place in after)


def test_the_gate_judges_on_rows_that_neither_model_was_trained_on(abrupt: Series):
    held = abrupt.held_back(10, 8)
    assert held.labels.shape == held.scores.shape == (500,)
    assert abrupt.training_rows(10) == 500 * 10
    challenge, why = judged(Now(abrupt, 10, 8, Life("x", champions=[5, 5, 5, 8]), ()))
    assert challenge.gain is not None
    assert challenge.gain_se > 0
    assert challenge.newer_days == 14
    assert "expected" in why


class Refitted(Made):
    refit = True


def test_with_a_refit_what_serves_has_seen_the_holdout_and_what_is_judged_has_not():
    plain = made("abrupt", 10)
    again = Series(LoadedRecipe("refit", Refitted("abrupt", 0), "refit"), plain.windows, 6, gate=plain.gate)
    assert (plain.training_rows(7), again.training_rows(7), again.training_rows(7, serves=False)) == (3500, 4000, 3500)
    assert np.array_equal(again.held_back(8, 7).scores, plain.held_back(8, 7).scores)
    assert again.reference_of(7) == plain.reference_of(7)
    assert not np.array_equal(again.rows(7, 9).scores, plain.rows(7, 9).scores)
    known = evidence(Now(again, 9, 8, Life("x", champions=[5, 5, 5, 8]), ()))
    assert (known.champion_age, known.champion_age_days, known.fresh_age_days) == (0, 7.0, 0.0)
    assert known.new_labelled_rows == 500


def test_models_are_trained_once_and_kept(tmp_path: Path):
    first = made("none", 9, tmp_path)
    first.train_all()
    again = made("none", 9, tmp_path)
    again.train_all()
    assert len(first.train_seconds) == 3
    assert again.train_seconds == []
    assert again.metric_of(6, 8) == first.metric_of(6, 8)
    assert made("abrupt", 9, tmp_path)._data != first._data


def test_all_rules_are_compared_in_one_run():
    found = compare(made("none", 12), PRICED, [])
    names = [each["policy"] for each in found["results"]]
    assert {"trimtab", "never", "every-1", "adwin", "psi>0.25", "oracle"} <= set(names)
    never_at_all = next(each for each in found["results"] if each["policy"] == "never")
    assert never_at_all["retrains"] == never_at_all["false_triggers"] == 0
    json.dumps(found)


def test_a_timing_is_placed_among_others_with_as_many_retrainings(abrupt: Series):
    best = oracle(abrupt, 2)
    ours = live(abrupt, "best", at([each.after for each in best.retrains]))
    count, steps = len(ours.retrains), len(abrupt.windows) - abrupt.first - 1
    calendars = even(count, abrupt.first, steps)
    assert len(set(calendars)) == len(calendars) > 1
    assert all(len(each) == count and each[0] >= abrupt.first for each in calendars)
    scale = mean(abrupt, live(abrupt, "never", never).champions), mean(abrupt, best.champions)
    found = chance(abrupt, ours, PRICED, 10, (abrupt.sign * scale[0], abrupt.sign * scale[1]))
    assert found["random"]["timings"] == 10
    assert found["gain"] == pytest.approx(1)
    assert found["even"]["beaten_in_gain"] == 1
    assert "ours is better than 100%" in sentence(found, "EUR")


def test_too_few_windows_are_refused():
    with pytest.raises(SeriesError, match="too few"):
        made("none", 6)


def test_the_readme_recipe_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    code = re.search(r'```python\n("""sales_recipe.py.*?)```', README.read_text(), re.DOTALL)
    assert code is not None
    (tmp_path / "sales_recipe.py").write_text(code[1])
    (tmp_path / "policy.yaml").write_text("value_per_point_day: 1\npoint: 0.1\nretrain_cost: 50\nmax_age: null\n")
    monkeypatch.chdir(tmp_path)
    asked = ["trigger", "--recipe", "sales_recipe:sales", "--policy", "policy.yaml", "--out", "out.json"]
    done = CliRunner().invoke(app, [*asked, "--from", "2024-01-01", "--to", "2024-04-08", "--window", "7d"])
    assert done.exit_code == 0, done.output
    assert "every-1" in done.output
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["metric"] == "mae"
    assert found["higher_is_better"] is False


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give --recipe"),
        (["--recipe", "nowhere:x", "--from", "2024-01-01", "--to", "2024-02-01"], "nowhere"),
        (["--recipe", "trimtab_flows.recipes.flights:flights", "--from", "May", "--to", "2024-02-01"], "--from"),
        (["--recipe", "x:y", "--from", "2013-01-01", "--to", "2013-02-01", "--window", "week"], "--window"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(arguments: list[str], said: str):
    done = CliRunner().invoke(app, ["trigger", *arguments])
    assert done.exit_code == 2
    assert said in done.output


@pytest.mark.long
@pytest.mark.timeout(900)
def test_changes_are_found():
    found = report(PRICED, 0, Console(), seeds=1, kinds=("none", "abrupt", "unit"))
    assert found["changes"]["abrupt"]["trimtab"][0] <= 1
    assert found["changes"]["unit"]["trimtab"][0] <= 1
