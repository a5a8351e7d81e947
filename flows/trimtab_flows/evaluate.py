"""Compare a challenger with the champion on rows neither has seen, and let the gate decide."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import datetime
from typing import Any

import numpy as np
import polars as pl
from mlflow.entities.model_registry import ModelVersion
from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import INPUTS, TASK_SOURCE
from pydantic import BaseModel

from trimtab_flows import runtime, tracking
from trimtab_flows.challenges import CHALLENGE, challenge_of, data_end
from trimtab_flows.drift.gain import Expected, expected_of
from trimtab_flows.drift.gate import GatePolicy, gate
from trimtab_flows.faults import RETRIES
from trimtab_flows.ingest import FEATURES
from trimtab_flows.loading import load_recipe
from trimtab_flows.recipe import Recipe
from trimtab_flows.steps.split import from_time, labelled
from trimtab_flows.train import join_features
from trimtab_flows.windows import Window

__all__ = ["EVALUATION", "Evaluation", "evaluate"]

#: Artifact of the training run that holds the gate's verdict.
EVALUATION = "evaluation.json"


class Evaluation(BaseModel, frozen=True):
    """What the gate said of a challenger; ``champion`` is None when there was none to beat.

    ``expected`` is the gain expected before the comparison (``mean``, ``sd``), ``expected_gain`` the one after it, and
    ``challenge`` what later decisions learn from; None where nothing was expected.
    """

    model: str
    challenger: int
    champion: int | None
    promote: bool
    reason: str
    since: str
    rows: int
    metrics: dict[str, dict[str, Any]]
    expected: dict[str, float] | None = None
    expected_gain: float | None = None
    challenge: dict[str, Any] | None = None


@task(
    task_run_name="compare {challenger} with {champion}",
    timeout_seconds=3600,
    persist_result=True,
    cache_policy=INPUTS + TASK_SOURCE,
    **RETRIES,
)
def compare(
    recipe: str,
    code: str,
    challenger: int,
    champion: int | None,
    since: str,
    digests: tuple[str, ...],
    judged: bool = False,
    expected: dict[str, float] | None = None,
    challenge: dict[str, Any] | None = None,
) -> Evaluation:
    """Score the same labelled rows with both models, and ask the gate.

    Args:
        since: the first moment compared on.
        judged: compare the models that are judged in place of those that serve.
        expected: of the challenger, before.
        challenge: what is known of the comparison before it is made.
    """
    found = load_recipe(recipe).recipe
    rows = labelled(join_features(digests), found)
    rows = rows.filter(from_time(rows, found, datetime.fromisoformat(since)))
    verdict = gate(
        labels=rows.get_column(found.label.column).cast(pl.Float64).to_numpy(),
        champion_scores=None if champion is None else _scores(found, champion, rows, judged),
        challenger_scores=_scores(found, challenger, rows, judged),
        metrics=found.metrics,
        seed=0,
        policy=GatePolicy(),
        groups=rows.get_column(found.features.event_time or "").dt.date().to_numpy(),
        expected=None if expected is None else Expected(**expected),
    )
    if challenge is not None:
        first = verdict.comparisons[0]
        measured = {"gain": first.difference, "gain_se": first.standard_error or 0.0, "promoted": verdict.promote}
        challenge = {**challenge, **measured}
    evaluation = Evaluation(
        model=found.name,
        challenger=challenger,
        champion=champion,
        promote=verdict.promote,
        reason=verdict.reason,
        since=since,
        rows=rows.height,
        metrics={each.metric: asdict(each) for each in verdict.comparisons},
        expected=expected,
        expected_gain=verdict.expected_gain,
        challenge=challenge,
    )
    _publish(evaluation)
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
        ValueError: the champion, or the challenger, was trained on rows of that stretch, or they are the same version.
    """
    loaded = load_recipe(recipe)
    found = loaded.recipe
    candidate = tracking.model_version(found.name, challenger)
    incumbent = tracking.model_version(found.name, champion) if champion else tracking.champion(found.name)
    if incumbent is not None and incumbent.version == candidate.version:
        if windows is not None or champion is not None:
            raise ValueError(
                f"{found.name} version {challenger} cannot be compared with itself; name another version as champion"
            )
        if "trimtab.gate" in candidate.tags:
            # It was let through before, on these very rows.
            return Evaluation(**tracking.read_json(tracking.training_run(candidate), EVALUATION))
        incumbent = None  # promoted by force, without having been compared
    judged = windows is None
    since = Window.parse(windows).start_time if windows else data_end(candidate, judged=True)
    for version in filter(None, (candidate, incumbent)):
        _refuse_seen(found, version, since, judged)
    if windows:
        catalog = runtime.catalog(found.name)
        digests = tuple(catalog.get(FEATURES, each).digest for each in found.windows(Window.parse(windows)))
    else:
        run = tracking.client().get_run(tracking.training_run(candidate))
        digests = tuple(
            digest for label, digest in tracking.logged_inputs(run).items() if Window.parse(label).end_time > since
        )
    number = None if incumbent is None else int(incumbent.version)
    expected, challenge = _expected(found, candidate, incumbent, judged)
    return compare(
        recipe,
        loaded.code,
        int(candidate.version),
        number,
        since.isoformat(),
        digests,
        judged,
        expected,
        challenge,
    )


def _expected(
    recipe: Recipe, candidate: ModelVersion, incumbent: ModelVersion | None, judged: bool
) -> tuple[dict[str, float] | None, dict[str, Any] | None]:
    """What is expected of the challenger, and the challenge before it is measured; nothing without a champion."""
    if incumbent is None:
        return None, None
    evidence, challenge = challenge_of(recipe, candidate, incumbent, judged)
    expected = expected_of(evidence, challenge)
    return None if expected is None else asdict(expected), asdict(challenge)


def _refuse_seen(recipe: Recipe, version: ModelVersion, since: datetime, judged: bool) -> None:
    """A model is never judged on rows it was trained on."""
    cut = data_end(version, judged)
    if cut > since:
        raise ValueError(
            f"{recipe.name} version {version.version} was trained on data up to {cut:%Y-%m-%d %H:%M}: it cannot be "
            f"judged on rows since {since:%Y-%m-%d %H:%M}; choose later windows"
        )


def _scores(recipe: Recipe, version: int, rows: pl.DataFrame, judged: bool) -> np.ndarray:
    if judged:
        model = tracking.load_judged(tracking.model_version(recipe.name, version), recipe.flavor)
    else:
        model = tracking.load_model(recipe.name, version, recipe.flavor)
    return np.asarray(recipe.predict(model, rows), dtype=np.float64)


def _publish(evaluation: Evaluation) -> None:
    """The verdict where people look: on the model version, in its run, and in the Prefect UI."""
    api, version = tracking.client(), str(evaluation.challenger)
    run_id = tracking.training_run(tracking.model_version(evaluation.model, version))
    api.log_dict(run_id, evaluation.model_dump(), EVALUATION)
    differences = {
        f"gate/{name}_difference": figures["difference"]
        for name, figures in evaluation.metrics.items()
        if figures["difference"] is not None
    }
    tracking.log_metrics(run_id, differences)
    api.set_model_version_tag(evaluation.model, version, "trimtab.reason", evaluation.reason)
    if evaluation.challenge is not None:
        api.set_model_version_tag(evaluation.model, version, CHALLENGE, json.dumps(evaluation.challenge))
    # Last, since it says that the others are there.
    gate_tag = "promote" if evaluation.promote else "keep"
    api.set_model_version_tag(evaluation.model, version, "trimtab.gate", gate_tag)
    create_markdown_artifact(
        markdown=_markdown(evaluation),
        key=f"gate-{evaluation.model}-{version}".replace("_", "-"),
        description=f"version {version}: {gate_tag}",
    )


def _markdown(evaluation: Evaluation) -> str:
    """Metrics before and after, and the gate's verdict."""
    champion = "no champion" if evaluation.champion is None else f"version {evaluation.champion}"
    lines = [
        f"# {'Promote' if evaluation.promote else 'Keep'}: {evaluation.model} version {evaluation.challenger}",
        "",
        evaluation.reason,
        "",
        f"Compared on {evaluation.rows:,} rows since {evaluation.since} that neither was trained on.",
        "",
        f"| metric | champion ({champion}) | challenger (version {evaluation.challenger}) | better by | interval |",
        "|---|---:|---:|---:|---|",
    ]
    for name, each in evaluation.metrics.items():
        low, high = each["ci_low"], each["ci_high"]
        interval = "" if low is None or high is None else f"{low:+.4f} to {high:+.4f}"
        cells = [_number(each["champion"]), _number(each["challenger"]), _number(each["difference"], "+.4f"), interval]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _number(value: float | None, form: str = ".4f") -> str:
    return "" if value is None else format(value, form)
