"""The year of flights through the recipe, the decision and the gate, all with their defaults.

The defaults were chosen on this same year: this shows that the parts work together, not how good they are elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache

import numpy as np
import polars as pl
import pytest

from trimtab_flows.contracts.check import check
from trimtab_flows.drift.decision import Challenge, Decision, Evidence, Policy, decide
from trimtab_flows.drift.gain import expected_of, observed_loss
from trimtab_flows.drift.gate import GateVerdict, gate, standard_error
from trimtab_flows.drift.signals import PREDICTION, Reference, fit_reference, measure
from trimtab_flows.recipe import Resources
from trimtab_flows.recipes.flights import flights
from trimtab_flows.steps.fitting import Fitted, fit
from trimtab_flows.steps.split import labelled
from trimtab_flows.windows import Window

MONTHS = tuple(Window.parse("2013-01..2013-12").split("month"))
METRIC = flights.metrics[0]


@cache
def features(month: int) -> pl.DataFrame:
    window = MONTHS[month - 1]
    tables = flights.load(window)
    accepted = {
        name: check(contract, tables[name], as_of=window.end_time).accepted_or_raise()
        for name, contract in flights.raw.items()
    }
    return check(flights.features, flights.build(accepted), as_of=window.end_time).accepted_or_raise()


@cache
def trained(last: int) -> Fitted:
    """A model of January to this month, and its twin of the same months less the holdout."""
    frame = pl.concat([features(month) for month in range(1, last + 1)])
    return fit(flights, frame, MONTHS[last - 1].end_time, flights.parameters, 0, Resources(cpus=1))


@cache
def reference(last: int) -> Reference:
    fitted = trained(last)
    return fit_reference(fitted.seen, flights.inputs, fitted.predictions.get_column("score").to_numpy())


def labels(rows: pl.DataFrame) -> np.ndarray:
    return rows.get_column("late").cast(pl.Float64).to_numpy()


def days(rows: pl.DataFrame) -> np.ndarray:
    return rows.get_column("scheduled").dt.date().to_numpy()


def performance(model: int, month: int) -> float:
    rows = labelled(features(month), flights)
    return METRIC.function(labels(rows), flights.predict(trained(model).model, rows))


def evidence(champion: int, month: int, last_retrain: int | None) -> Evidence:
    rows, holdout, model = labelled(features(month), flights), trained(champion).split.holdout, trained(champion).model
    twin = trained(champion).judged
    signals = measure(reference(champion), features(month), flights.predict(model, features(month)))
    psi = {signal.column: signal.value for signal in signals if signal.kind == "psi"}
    return Evidence(
        window=MONTHS[month - 1].label,
        labelled_rows=rows.height,
        metric=METRIC.name,
        higher_is_better=METRIC.higher_is_better,
        performance=performance(champion, month),
        performance_se=standard_error(labels(rows), flights.predict(model, rows), METRIC, 0, days(rows), 50),
        reference_performance=trained(champion).metrics[METRIC.name],
        reference_se=standard_error(labels(holdout), flights.predict(twin, holdout), METRIC, 0, days(holdout), 50),
        input_psi=tuple(sorted((column, value) for column, value in psi.items() if column != PREDICTION)),
        prediction_psi=psi[PREDICTION],
        windows_since_retrain=None if last_retrain is None else month - last_retrain,
        champion_age=month - champion - 1,
        window_days=30.0,
        training_rows=trained(champion).seen.height,
        new_labelled_rows=trained(month).seen.height - trained(champion).seen.height,
    )


def judged(challenger: int, champion: int | None, found: Evidence | None = None) -> GateVerdict:
    rows = trained(challenger).split.holdout
    old = None if champion is None else flights.predict(trained(champion).judged, rows)
    new = flights.predict(trained(challenger).judged, rows)
    expected = None if found is None or champion is None else expected_of(found, challenge(challenger, champion, found))
    return gate(labels(rows), old, new, flights.metrics, groups=days(rows), expected=expected)


def challenge(challenger: int, champion: int, found: Evidence) -> Challenge:
    return Challenge(
        found.window,
        None,
        rows=trained(challenger).split.training.height,
        champion_rows=trained(champion).split.training.height,
        champion_loss=observed_loss(found),
        newer_days=(trained(challenger).split.cut - trained(champion).split.cut) / timedelta(days=1),
    )


@dataclass
class Year:
    """What came of each month."""

    ours: list[float] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    verdicts: list[GateVerdict] = field(default_factory=list)


def lived(policy: Policy) -> Year:
    year, champion, last_retrain = Year(), flights.bootstrap_windows, None
    for month in range(champion + 1, 13):
        found = evidence(champion, month, last_retrain)
        year.ours.append(performance(champion, month))
        year.decisions.append(decide(found, year.decisions[-1] if year.decisions else None, policy))
        if year.decisions[-1].retrain:
            last_retrain = month
            year.verdicts.append(judged(month, champion, found))
            champion = month if year.verdicts[-1].promote else champion
    return year


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_year_of_flights_with_every_default():
    assert judged(flights.bootstrap_windows, None).promote
    year = lived(Policy())
    frozen = [performance(2, month) for month in range(3, 13)]
    for decision, ours in zip(year.decisions, year.ours, strict=True):
        print(f"{decision.window} {ours:.4f} {decision.verdict:8}", *decision.reasons)
    print(*(verdict.reason for verdict in year.verdicts), sep="\n")
    # Beside other rules: `trimtab bench trigger`. A model of each month would double the trainings here.
    means = [float(np.mean(values)) for values in (frozen, year.ours)]
    print(f"mean AUC: frozen {means[0]:.4f}, ours {means[1]:.4f}")
    assert 2 <= len(year.verdicts) <= 6
    assert all(verdict.expected_gain is not None for verdict in year.verdicts)
    assert means[0] < means[1]
