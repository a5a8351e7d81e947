"""Estimated performance: right while labels mean what they did, and beside NannyML's where that is installed."""

from __future__ import annotations

import os

import numpy as np
import pytest

from trimtab_flows.drift.estimated import Calibration, calibrate, estimate
from trimtab_flows.metrics import accuracy, auc, brier, log_loss, mae

METRICS = (auc, accuracy, log_loss, brier)


def model(rows: int, seed: int, spread: float = 1.5, sure: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Labels and the scores of a model that knows their logit; ``sure`` above 1: it thinks it knows better."""
    random = np.random.default_rng(seed)
    logit = random.normal(-1, spread, rows)
    labels = (random.random(rows) < 1 / (1 + np.exp(-logit))).astype(float)
    return labels, 1 / (1 + np.exp(-sure * logit))


@pytest.mark.parametrize("rows", [600, 5_000])
@pytest.mark.parametrize("sure", [1.0, 2.5])
def test_the_estimate_is_near_what_labels_say_later(rows: int, sure: float):
    calibration = calibrate(*model(rows, 0, sure=sure))
    assert calibration is not None
    assert calibration.method == ("logistic" if rows < 1_000 else "isotonic")
    for metric in METRICS:
        # Rows of a harder kind: the model tells them apart less well, and says so.
        labels, scores = model(20_000, 1, spread=0.7, sure=sure)
        found = estimate(calibration, scores, metric)
        assert found is not None
        assert found.value == pytest.approx(metric.function(labels, scores), rel=0.06 if rows > 1_000 else 0.15)


def test_the_error_is_that_of_chance_in_labels():
    calibration = calibrate(*model(200_000, 0))
    assert calibration is not None
    found, seen = [], []
    for seed in range(60):
        labels, scores = model(500, seed + 10)
        found.append(estimate(calibration, scores, auc))
        seen.append(auc.function(labels, scores))
    off = np.array([(each.value - truth) / each.standard_error for each, truth in zip(found, seen, strict=True)])
    assert abs(off.mean()) < 0.4
    assert 0.75 < off.std() < 1.25


def test_the_expected_auc_is_the_mean_over_drawn_labels():
    random = np.random.default_rng(0)
    scores = np.round(random.random(60), 1)  # with ties
    calibration = Calibration((0.0, 1.0), (0.05, 0.9), 1000, 400, "isotonic")
    drawn = [auc.function((random.random(60) < calibration(scores)).astype(float), scores) for _ in range(4000)]
    found = estimate(calibration, scores, auc)
    assert found is not None
    assert found.value == pytest.approx(np.mean(drawn), abs=0.004)


def test_what_is_no_probability_is_not_estimated():
    labels, scores = model(5_000, 0)
    assert calibrate(labels * 3, scores) is None
    assert calibrate(labels, scores * 3) is None
    assert calibrate(labels[:100], scores[:100]) is None
    assert calibrate(np.zeros(5_000), scores) is None
    assert calibrate(np.empty(0), np.empty(0)) is None
    calibration = calibrate(labels, scores)
    assert calibration is not None
    assert estimate(calibration, scores, mae) is None
    assert estimate(calibration, np.empty(0), auc) is None
    assert estimate(calibration, np.array([np.nan]), auc) is None


def test_constant_and_single_scores_are_defined():
    calibration = calibrate(*model(5_000, 0))
    assert calibration is not None
    same = estimate(calibration, np.full(100, 0.3), auc)
    assert same is not None
    assert same.value == 0.5
    assert estimate(calibration, np.array([0.3]), auc) is None
    assert estimate(calibration, np.array([0.3]), brier) is not None


def test_a_calibration_comes_back_from_json():
    calibration = calibrate(*model(5_000, 0))
    assert calibration is not None
    assert Calibration.from_json(calibration.to_json()) == calibration
    for text in ("no json", "{}", '{"at": [], "probability": [], "rows": 1, "positive": 1, "method": "x"}'):
        with pytest.raises(ValueError, match="this is no calibration"):
            Calibration.from_json(text)


@pytest.mark.long
def test_beside_nannyml():
    """Mean absolute error of the estimated AUC over 40 chunks, some harder; NannyML's own telemetry is off."""
    os.environ["NML_DISABLE_USAGE_LOGGING"] = "1"
    nannyml = pytest.importorskip("nannyml", reason="NannyML is not installed (pip install nannyml)")
    import pandas as pd

    chunk = 2_000
    reference = model(10_000, 0, sure=2.0)
    chunks = [model(chunk, seed, spread=0.6 + 0.04 * seed, sure=2.0) for seed in range(1, 41)]

    def frame(labels: np.ndarray, scores: np.ndarray) -> pd.DataFrame:
        return pd.DataFrame({"y": labels.astype(int), "p": scores, "said": (scores > 0.5).astype(int)})

    theirs = nannyml.CBPE(
        y_pred_proba="p",
        y_pred="said",
        y_true="y",
        metrics=["roc_auc"],
        chunk_size=chunk,
        problem_type="classification_binary",
    )
    theirs.fit(frame(*reference))
    joined = frame(np.concatenate([one[0] for one in chunks]), np.concatenate([one[1] for one in chunks]))
    found = theirs.estimate(joined.drop(columns="y")).filter(period="analysis").to_df()
    estimated = found[("roc_auc", "value")].to_numpy()
    calibration = calibrate(*reference)
    assert calibration is not None
    truth = np.array([auc.function(*one) for one in chunks])
    ours = np.array([estimate(calibration, scores, auc).value for _, scores in chunks])
    errors = float(np.abs(ours - truth).mean()), float(np.abs(estimated - truth).mean())
    print(
        f"mean absolute error of the estimated AUC: ours {errors[0]:.4f}, NannyML {nannyml.__version__} {errors[1]:.4f}"
    )
    assert errors[0] < 1.1 * errors[1]
