"""Run a training again from its manifest, and say what differs: the model's metrics bit for bit, or which part."""

from __future__ import annotations

import re
from math import isfinite

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from pydantic import BaseModel

from trimtab_flows import runtime, tracking
from trimtab_flows.faults import RETRIES
from trimtab_flows.history import REPLAY
from trimtab_flows.ingest import FEATURES
from trimtab_flows.loading import load_recipe
from trimtab_flows.manifest import collect, compare, compare_metrics
from trimtab_flows.manifest import load as load_manifest
from trimtab_flows.recipe import Resources
from trimtab_flows.steps.fitting import fit
from trimtab_flows.train import join_features
from trimtab_flows.windows import Window

__all__ = ["NotReplayable", "Replayed", "find_training", "replay"]


class NotReplayable(LookupError):
    """No training run with a manifest was found under this name."""


class Replayed(BaseModel, frozen=True):
    """What a replay found. ``same`` is about results; ``differences`` also names parts that changed without effect."""

    run_id: str
    manifest: str
    same: bool
    differences: tuple[str, ...]
    metrics: dict[str, float]
    replay_run_id: str


def find_training(run: str) -> str:
    """MLflow run id of a training, from that id, a ``model/version``, or the id of a Prefect flow run.

    Raises:
        NotReplayable: none of these is known to MLflow as a training run.
    """
    api = tracking.client()
    if "/" in run:
        name, _, version = run.rpartition("/")
        return str(tracking.model_version(name, version).run_id)
    # Nothing else is an id; and nothing else may reach MLflow's filter language.
    if re.fullmatch(r"[0-9a-f-]{32,36}", run):
        everywhere = tracking.all_experiments()
        for condition in (f"attributes.run_id = '{run}'", f"tags.`trimtab.flow_run_id` = '{run}'"):
            found = api.search_runs(everywhere, f"{condition} and tags.`trimtab.manifest` != ''", max_results=1)
            if found:
                return str(found[0].info.run_id)
    raise NotReplayable(
        f"no training run {run!r} in MLflow: give an MLflow run id, a model and version (flights/3), "
        "or the id of the Prefect flow run that trained"
    )


@task(task_run_name="train again", timeout_seconds=6 * 3600, persist_result=True, **RETRIES)
def train_again(run_id: str) -> Replayed:
    """Train from the manifest of a finished run, log the result beside it, and compare."""
    original = tracking.client().get_run(run_id)
    old = load_manifest(original.data.tags["trimtab.manifest"], runtime.store())
    loaded = load_recipe(old.recipe)
    recipe = loaded.recipe
    new = collect(
        stage="train",
        recipe=old.recipe,
        parameters=old.parameters,
        seed=old.seed,
        inputs=old.inputs,
        threads=old.devices.threads,
        flow_run_id=runtime.flow_run_id(),
    )
    tags = {"trimtab.replay_of": run_id, "trimtab.recipe": old.recipe}
    key = tracking.stage_key("replay", run=run_id, flow_run=runtime.flow_run_id(), manifest=new.id)
    with tracking.open_run(recipe.name, REPLAY, key, f"replay of {original.info.run_name}", tags) as run:
        fitted = fit(
            recipe,
            join_features(old.inputs[FEATURES]),
            Window.parse(old.parameters["windows"]).end_time,
            old.parameters["parameters"],
            old.seed,
            Resources(cpus=old.devices.threads),
        )
        # What is not finite is not logged.
        before = {
            name.removeprefix("holdout/"): value
            for name, value in original.data.metrics.items()
            if name.startswith("holdout/") and name != "holdout/rows"
        }
        results = [
            str(difference)
            for difference in compare_metrics(
                before, {name: value for name, value in fitted.metrics.items() if isfinite(value)}
            )
        ]
        predictions = runtime.library().put(fitted.predictions).digest
        if predictions != original.data.tags["trimtab.holdout_predictions"]:
            results.append("predictions on the holdout differ")
        served = runtime.library().put(fitted.served).digest
        if served != original.data.tags.get("trimtab.served_predictions", served):
            results.append("predictions of the model trained on all rows differ")
        replayed = Replayed(
            run_id=run_id,
            manifest=old.id,
            same=not results,
            differences=(*results, *(str(difference) for difference in compare(old, new))),
            metrics=fitted.metrics,
            replay_run_id=run.info.run_id,
        )
        tracking.log_metrics(run.info.run_id, {f"holdout/{name}": value for name, value in fitted.metrics.items()})
        tracking.client().set_tag(run.info.run_id, "trimtab.same", str(replayed.same).lower())
        tracking.client().set_tag(run.info.run_id, "trimtab.found", describe(replayed))
    return replayed


@flow(name="replay", flow_run_name="replay {run}", persist_result=True)
def replay(run: str) -> Replayed:
    """Train again exactly as a recorded run did; nothing is registered or promoted.

    Args:
        run: MLflow run id, ``model/version`` (``flights/3``), or the id of the Prefect flow run that trained.

    Raises:
        NotReplayable: there is no such training run.
        CorruptSnapshot, SnapshotNotFound: an input is no longer what it was, or gone.
    """
    runtime.connect_mlflow()
    replayed = train_again(find_training(run))
    text = describe(replayed)
    create_markdown_artifact(markdown=text, key=f"replay-{replayed.run_id[:12]}", description=text.splitlines()[0])
    get_run_logger().info(text.replace("\n", " "))
    return replayed


def describe(replayed: Replayed) -> str:
    """A replay's outcome in words."""
    figures = ", ".join(f"{name} {value!r}" for name, value in replayed.metrics.items())
    if replayed.same:
        head = f"Bit for bit the same: {figures}."
        rest = "Parts that changed without effect on the result:" if replayed.differences else ""
    else:
        head = f"Not the same: {figures}."
        rest = "What differs:"
    return "\n".join(filter(None, [head, rest, *(f"- {difference}" for difference in replayed.differences)]))
