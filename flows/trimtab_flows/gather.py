"""Gathers the evidence of a decision: of a window that was just measured, or of one measured before, as it is now."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion

from trimtab_flows import tracking
from trimtab_flows.challenges import challenges_of
from trimtab_flows.drift.decision import Evidence
from trimtab_flows.drift.evidence import Seen
from trimtab_flows.drift.season import WINDOWS_OF_A_YEAR, Season, seasonal_performance
from trimtab_flows.history import decisions_of, monitored_windows
from trimtab_flows.local_time import wall_time
from trimtab_flows.order_book import orders_of
from trimtab_flows.recipe import Recipe
from trimtab_flows.settle import is_acted_on
from trimtab_flows.windows import Window

if TYPE_CHECKING:  # what measures takes seconds to import, and a decision on what was measured needs none of it
    from trimtab_flows.measuring import Measured

__all__ = ["evidence_of", "place_of", "refresh"]


def place_of(recipe: Recipe, window: Window) -> int:
    """The window's place since the recipe's first, so that metrics line up over time in MLflow."""
    return sum(1 for _ in Window(Window.parse(recipe.start).start, window.end).split(recipe.cadence)) - 1


def evidence_of(recipe: Recipe, window: Window, version: int, measured: Measured) -> Evidence:
    """All that the decision about a window may look at. Its moment is when the window's labels are known."""
    metric, performance = recipe.metrics[0], measured.performance
    trained = tracking.model_version(recipe.name, version)
    held_out = tracking.client().get_run(tracking.training_run(trained)).data.metrics
    cut, earlier = datetime.fromisoformat(trained.tags["trimtab.cut"]), _earlier(recipe, window)
    as_of = recipe.due(window)
    new_rows = sum(
        int(run.data.metrics.get("data/labelled", 0)) for label, run in earlier if Window.parse(label).start_time >= cut
    )
    missing = dict(measured.of("missing"))
    seen = {place_of(recipe, Window.parse(label)): _seen(run, metric.name) for label, run in earlier}
    then = seasonal_performance(seen, place_of(recipe, window), Season(WINDOWS_OF_A_YEAR[recipe.cadence]))
    evidence = Evidence(
        window=window.label,
        labelled_rows=performance.rows,
        metric=metric.name,
        higher_is_better=metric.higher_is_better,
        performance=performance.value,
        performance_se=performance.standard_error or 0.0,
        reference_performance=held_out.get(f"holdout/{metric.name}"),
        reference_se=held_out.get(f"holdout_se/{metric.name}", 0.0),
        input_psi=measured.of("psi"),
        prediction_psi=measured.of_predictions("psi"),
        input_js=measured.of("js"),
        prediction_js=measured.of_predictions("js"),
        ordinal=place_of(recipe, window),
        windows_since_retrain=None,
        champion_age=_age(recipe, cut, window),
        as_of=as_of.isoformat(),
        window_days=(window.end - window.start) / timedelta(days=1),
        champion_age_days=max((window.end_time - cut) / timedelta(days=1), 0.0),
        fresh_age_days=0.0 if recipe.refit else recipe.holdout / timedelta(days=1),
        training_rows=int(held_out.get("train/rows", 0)),
        new_labelled_rows=new_rows + performance.rows,
        estimated_performance=measured.estimate.value if measured.estimate else None,
        estimated_se=measured.estimate.standard_error if measured.estimate else 0.0,
        domain_auc=measured.domain.auc if measured.domain and measured.domain.known else None,
        seasonal_performance=then[0] if then else None,
        seasonal_se=then[1] if then else 0.0,
        season=measured.season.kind if measured.season else "",
        seasonal_psi=measured.seasonal_psi,
        seasonal_prediction_psi=measured.seasonal_prediction_psi,
        missing_change=tuple(missing.items()),
        new_categories=measured.of("unseen"),
        stream_alarms=tuple(change.detector for change in measured.streams if change.worse),
        history=tuple(seen.values()),
        challenges=challenges_of(recipe.name, until=window.start_time),
        orders=orders_of(recipe.name),
    )
    return _with_last_retrain(recipe, window, evidence, earlier_only=True)


def refresh(recipe: Recipe, run: Run, champion: ModelVersion, as_of: datetime) -> Evidence:
    """The evidence of a monitored window, as it is at a later moment.

    What was measured stays; the champion's age, orders and decisions since are new. Where another champion serves by
    now, nothing is known of how it does.
    """
    window = Window.parse(run.data.tags["trimtab.window"])
    stored = Evidence.from_json(json.dumps(tracking.read_json(run.info.run_id, "evidence.json")))
    cut = datetime.fromisoformat(champion.tags["trimtab.cut"])
    now = replace(
        stored,
        as_of=as_of.isoformat(),
        champion_age_days=max((wall_time(as_of, recipe.zone) - cut) / timedelta(days=1), 0.0),
        challenges=challenges_of(recipe.name),
        orders=orders_of(recipe.name),
    )
    if int(champion.version) != int(run.data.tags["trimtab.model_version"]):
        held_out = tracking.client().get_run(tracking.training_run(champion)).data.metrics
        now = replace(
            now,
            performance=None,
            labelled_rows=0,
            estimated_performance=None,
            reference_performance=held_out.get(f"holdout/{stored.metric}"),
            reference_se=held_out.get(f"holdout_se/{stored.metric}", 0.0),
            prediction_psi=0.0,
            prediction_js=0.0,
            seasonal_prediction_psi=None,
            input_psi=(),
            input_js=(),
            domain_auc=None,
            stream_alarms=(),
            champion_age=_age(recipe, cut, window),
            training_rows=int(held_out.get("train/rows", 0)),
        )
    return _with_last_retrain(recipe, window, now, earlier_only=False)


def _with_last_retrain(recipe: Recipe, window: Window, evidence: Evidence, earlier_only: bool) -> Evidence:
    """With the last decision to retrain: in windows before this one alone, or up to now."""
    for run in reversed(decisions_of(recipe.name)):
        last = Window.parse(run.data.tags["trimtab.window"])
        if run.data.tags["trimtab.verdict"] not in ("retrain", "later") or last.start > window.start:
            continue
        if earlier_only and last.start == window.start:
            continue
        if not is_acted_on(recipe.name, run.data.tags["trimtab.key"], run.data.tags["trimtab.verdict"]):
            continue
        since = sum(1 for _ in Window(last.end, window.end).split(recipe.cadence)) if last.end < window.end else 0
        at = run.data.tags.get("trimtab.as_of")
        return replace(evidence, windows_since_retrain=since, last_retrain_at=at)
    return evidence


def _earlier(recipe: Recipe, window: Window) -> list[tuple[str, Run]]:
    """Monitoring runs of the windows before this one, oldest first."""
    runs = monitored_windows(recipe.name)
    return [(label, run) for label, run in runs.items() if Window.parse(label).start < window.start]


def _seen(run: Run, metric: str) -> Seen:
    figures = run.data.metrics
    return Seen(
        window=run.data.tags["trimtab.window"],
        performance=figures.get(f"performance/{metric}"),
        performance_se=figures.get(f"performance/{metric}_standard_error", 0.0),
        champion_age=int(figures.get("data/champion_age", 0)),
        rows=int(figures.get("data/labelled", 0)),
    )


def _age(recipe: Recipe, cut: datetime, window: Window) -> int:
    """Windows since a champion's training data ended."""
    return sum(1 for _ in Window(min(cut.date(), window.start), window.end).split(recipe.cadence)) - 1
