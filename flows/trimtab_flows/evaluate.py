"""Compare a challenger with the champion on rows neither has seen, and let the gate decide."""

from __future__ import annotations

from datetime import datetime

import polars as pl
from mlflow.entities.model_registry import ModelVersion
from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import INPUTS, TASK_SOURCE
from pydantic import BaseModel

from trimtab_flows import runtime, tracking
from trimtab_flows.drift.gate import GatePolicy, GateVerdict, gate
from trimtab_flows.faults import RETRIES
from trimtab_flows.loading import load_recipe
from trimtab_flows.recipe import Recipe
from trimtab_flows.steps.split import labelled
from trimtab_flows.train import join_features
from trimtab_flows.windows import Window

__all__ = ["Evaluation", "evaluate"]


class Evaluation(BaseModel, frozen=True):
    """What the gate said of a challenger; ``champion`` is None when there was none to beat."""

    model: str
    challenger: int
    champion: int | None
    promote: bool
    reason: str
    rows: int
    metrics: dict[str, dict[str, float | None]]


@task(
    task_run_name="compare {challenger} with {champion}",
    timeout_seconds=3600,
    persist_result=True,
    cache_policy=INPUTS + TASK_SOURCE,
    **RETRIES,
)
def compare(
    recipe: str, code: str, challenger: int, champion: int | None, since: str, digests: tuple[str, ...]
) -> Evaluation:
    """Score the same labelled rows with both models, and ask the gate; ``since`` is the first moment compared on."""
    found = load_recipe(recipe).recipe
    time = pl.col(found.features.event_time or "")
    rows = labelled(join_features(digests), found).filter(time >= datetime.fromisoformat(since))
    verdict = gate(
        labels=rows.get_column(found.label.column).cast(pl.Float64).to_numpy(),
        champion_scores=None if champion is None else _scores(found, champion, rows),
        challenger_scores=_scores(found, challenger, rows),
        metrics=found.metrics,
        seed=0,
        policy=GatePolicy(),
        groups=rows.get_column(found.features.event_time or "").dt.date().to_numpy(),
    )
    evaluation = Evaluation(
        model=found.name,
        challenger=challenger,
        champion=champion,
        promote=verdict.promote,
        reason=verdict.reason,
        rows=rows.height,
        metrics={c.metric: _figures(c) for c in verdict.comparisons},
    )
    _publish(found, evaluation, verdict)
    return evaluation


@flow(name="evaluate", flow_run_name="evaluate version {challenger}", persist_result=True)
def evaluate(recipe: str, challenger: int, champion: int | None = None, windows: str | None = None) -> Evaluation:
    """Compare two versions of a model and tag the challenger with the gate's verdict.

    Args:
        recipe: ``module:attribute``.
        challenger: version in MLflow's registry.
        champion: version to beat; the one in service when not given.
        windows: ingested windows to compare on; the stretch held back from the challenger when not given.

    Raises:
        ValueError: the champion, or the challenger, was trained on rows of that stretch.
    """
    loaded = load_recipe(recipe)
    found = loaded.recipe
    candidate = tracking.model_version(found.name, challenger)
    incumbent = tracking.model_version(found.name, champion) if champion else tracking.champion(found.name)
    if incumbent is not None and incumbent.version == candidate.version:
        incumbent = None if champion is None else incumbent
    chosen = windows or candidate.tags["trimtab.windows"]
    since = Window.parse(windows).start_time if windows else datetime.fromisoformat(candidate.tags["trimtab.cut"])
    for version in filter(None, (candidate, incumbent)):
        _refuse_seen(found, version, since)
    catalog = runtime.catalog(found.name)
    if windows:
        digests = tuple(catalog.get("features", each).digest for each in Window.parse(chosen).split(found.cadence))
    else:
        run = tracking.client().get_run(candidate.run_id)
        digests = tuple(
            digest for label, digest in tracking.logged_inputs(run).items() if Window.parse(label).end_time > since
        )
    number = None if incumbent is None else int(incumbent.version)
    return compare(recipe, loaded.code, int(candidate.version), number, since.isoformat(), digests)


def _refuse_seen(recipe: Recipe, version: ModelVersion, since: datetime) -> None:
    """A model is never judged on rows it was trained on."""
    cut = datetime.fromisoformat(version.tags["trimtab.cut"])
    if cut > since:
        raise ValueError(
            f"{recipe.name} version {version.version} was trained on data up to {cut:%Y-%m-%d %H:%M}: it cannot be "
            f"judged on rows since {since:%Y-%m-%d %H:%M}; choose later windows"
        )


def _scores(recipe: Recipe, version: int, rows: pl.DataFrame):  # type: ignore[no-untyped-def]
    return recipe.predict(tracking.load_model(recipe.name, version, recipe.flavor), rows)
