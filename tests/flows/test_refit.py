"""A recipe with a refit on real servers: one model is judged, another serves, and decisions learn what the gate saw."""

from __future__ import annotations

import json

import numpy as np
import pytest

from trimtab_flows import tracking
from trimtab_flows.challenges import CHALLENGE, challenges_of, data_end
from trimtab_flows.drift.decision import Evidence
from trimtab_flows.drift.gain import expected_gain
from trimtab_flows.ingest import ingest
from trimtab_flows.monitor import monitor
from trimtab_flows.replay import replay
from trimtab_flows.retrain import retrain
from trimtab_flows.score import score

pytestmark = pytest.mark.usefixtures("environment")

RECIPE, MODEL = "toy_recipe:refitted", "toy-refitted"


@pytest.fixture(scope="module")
def versions(environment: dict[str, str]) -> tuple[int, int]:
    """The first champion, of January and February, and a challenger of April, when the concept turned round."""
    for window in ("2024-01", "2024-02", "2024-03", "2024-04", "2024-05"):
        ingest(RECIPE, window)
    first = retrain(RECIPE, "2024-01..2024-02", decision="first").version
    for window in ("2024-03", "2024-04"):
        score(RECIPE, window)
        monitor(RECIPE, window)
    return first, retrain(RECIPE, "2024-04", decision="second").version


def test_what_serves_has_seen_the_holdout_and_what_is_judged_has_not(versions: tuple[int, int]) -> None:
    first = tracking.model_version(MODEL, versions[0])
    assert data_end(first).isoformat() == "2024-03-01T00:00:00"
    assert data_end(first, judged=True).isoformat() == "2024-02-20T00:00:00"
    metrics = tracking.client().get_run(tracking.training_run(first)).data.metrics
    assert metrics["train/rows"] == 1200
    assert metrics[tracking.JUDGED_ROWS] == 1200 - metrics["holdout/rows"]
    served = tracking.load_model(MODEL, versions[0], "sklearn").coef_
    judged = tracking.load_judged(first, "sklearn").coef_
    assert not np.array_equal(served, judged)


def test_the_gate_leaves_what_it_measured_on_the_version(versions: tuple[int, int]) -> None:
    second = tracking.model_version(MODEL, versions[1])
    challenge = json.loads(second.tags[CHALLENGE])
    assert challenge["promoted"] is True
    assert challenge["gain"] > 0.3
    assert challenge["newer_days"] == 61.0
    assert challenge["champion_loss"] > 0.2
    assert "to be expected in service" in second.tags["trimtab.reason"]
    assert CHALLENGE not in tracking.model_version(MODEL, versions[0]).tags
    assert len(challenges_of(MODEL)) == 1
    assert challenges_of(MODEL, before=versions[1]) == ()


def test_a_decision_in_service_learns_from_it(versions: tuple[int, int]) -> None:
    score(RECIPE, "2024-05")
    run_id = monitor(RECIPE, "2024-05").run_id
    evidence = Evidence.from_json(json.dumps(tracking.read_json(run_id, "evidence.json")))
    assert evidence.challenges == challenges_of(MODEL)
    assert evidence.champion_age == 0
    gain = expected_gain(evidence)
    assert gain is not None
    assert gain.learnt_from == 1


def test_both_models_are_replayed_bit_for_bit(versions: tuple[int, int]) -> None:
    assert replay(f"{MODEL}/{versions[0]}").same


def test_a_tag_that_is_no_challenge_counts_as_none(versions: tuple[int, int]) -> None:
    before = challenges_of(MODEL)
    for text in ("{", "[]", '{"window": 3}', '{"window": "2024-04", "gain": 0.1, "colour": "red"}'):
        tracking.client().set_model_version_tag(MODEL, str(versions[0]), CHALLENGE, text)
        assert challenges_of(MODEL) == before
    tracking.client().delete_model_version_tag(MODEL, str(versions[0]), CHALLENGE)
