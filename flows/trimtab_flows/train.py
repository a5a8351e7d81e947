"""Train a model on the features of some windows, and register it in MLflow with all it takes to do it again."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from importlib.metadata import version as installed_version
from typing import Any

import mlflow
import polars as pl
from mlflow.entities import Param, Run
from mlflow.models import ModelSignature, infer_signature
from mlflow.types import Schema
from prefect import flow, get_run_logger, task
from prefect.artifacts import create_link_artifact
from prefect.cache_policies import INPUTS, TASK_SOURCE
from pydantic import BaseModel

from trimtab_flows import progress, runtime, tracking
from trimtab_flows.drift.estimated import calibrate
from trimtab_flows.drift.gate import standard_error
from trimtab_flows.drift.reference import sample_rows
from trimtab_flows.drift.signals import fit_reference
from trimtab_flows.faults import RETRIES
from trimtab_flows.ingest import FEATURES
from trimtab_flows.loading import LoadedRecipe, load_recipe
from trimtab_flows.manifest import Manifest, collect, save
from trimtab_flows.recipe import Recipe, Resources
from trimtab_flows.snapshots.lineage import Edge
from trimtab_flows.steps.fitting import Fitted, fit
from trimtab_flows.steps.predictions import SCORE, scored_labels
from trimtab_flows.windows import Window

__all__ = ["CALIBRATION", "REFERENCE", "Trained", "granted", "join_features", "train"]

#: Artifact of the training run that later windows are compared with.
REFERENCE = "reference.json"

#: Artifact that turns the model's scores into probabilities, where they are some.
CALIBRATION = "calibration.json"


class Trained(BaseModel, frozen=True):
    """A registered model version and what it was made of."""

    model: str
    version: int
    run_id: str
    manifest: str
    windows: str
    metrics: dict[str, float]


def granted(recipe: Recipe) -> Resources:
    """What this process may use: what the recipe demands, within what its host gives it."""
    cpus = min(int(recipe.resources.get("cpus", 1)), len(os.sched_getaffinity(0)))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return Resources(cpus=cpus, gpu_uuids=tuple(filter(None, visible.split(","))))


def join_features(digests: tuple[str, ...]) -> pl.DataFrame:
    """The features of several windows, verified and joined in the order given."""
    runtime.about_to_read(digests)
    return pl.concat([runtime.library().get(digest) for digest in digests])


@task(task_run_name="find features {windows}", **RETRIES)
def find_features(recipe: str, windows: str) -> dict[str, str]:
    """Digest of the features of each window, oldest first.

    Raises:
        NotIngested: a window has not been brought in yet.
    """
    found = load_recipe(recipe).recipe
    catalog = runtime.catalog(found.name)
    return {each.label: catalog.get(FEATURES, each).digest for each in found.windows(Window.parse(windows))}


@task(
    task_run_name="fit {windows}",
    timeout_seconds=6 * 3600,
    persist_result=True,
    cache_policy=INPUTS + TASK_SOURCE,
    **RETRIES,
)
def fit_model(
    recipe: str, code: str, windows: str, digests: dict[str, str], parameters: dict[str, Any], seed: int
) -> Trained:
    """Train, measure on the holdout, log to MLflow, register. The same inputs give the version made before."""
    loaded = load_recipe(recipe)
    name = loaded.recipe.name
    key = tracking.stage_key("train", code=code, digests=digests, parameters=parameters, seed=seed)
    run = tracking.find_run(name, key)
    if run is None:
        _train_and_log(loaded, key, windows, digests, parameters, seed)
        run = tracking.find_run(name, key)
        assert run is not None
    return _registered(name, run)


@flow(name="train", flow_run_name="train {windows}", persist_result=True)
def train(recipe: str, windows: str, parameters: dict[str, Any] | None = None, seed: int = 0) -> Trained:
    """Train on the features of ``windows``, less the holdout, and register the model; with a refit, that of all rows.

    Args:
        recipe: ``module:attribute``.
        windows: ingested windows, for example ``2013-01..2013-06``.
        parameters: given to the recipe's ``train`` over its own defaults.
        seed: of everything random.

    Raises:
        NotIngested: a window has not been brought in yet.
        ValueError: an unknown parameter, or nothing to train on.
    """
    loaded = load_recipe(recipe)
    unknown = sorted(set(parameters or {}) - set(loaded.recipe.parameters))
    if unknown:
        allowed = ", ".join(sorted(loaded.recipe.parameters))
        raise ValueError(f"recipe {recipe} has no parameter {', '.join(unknown)}; it has {allowed}")
    chosen = {**loaded.recipe.parameters, **(parameters or {})}
    get_run_logger().info("code %s", loaded.source)
    return fit_model(recipe, loaded.code, windows, find_features(recipe, windows), chosen, seed)


def _train_and_log(
    loaded: LoadedRecipe, key: str, windows: str, digests: dict[str, str], parameters: dict[str, Any], seed: int
) -> None:
    """One training run in MLflow. Its manifest is in the store before the work starts."""
    recipe = loaded.recipe
    resources = granted(recipe)
    manifest = collect(
        stage="train",
        recipe=loaded.reference,
        parameters={"parameters": parameters, "windows": windows},
        seed=seed,
        inputs={FEATURES: tuple(digests.values())},
        threads=resources.cpus,
        flow_run_id=runtime.flow_run_id(),
    )
    save(manifest, runtime.store())
    tags = {"trimtab.recipe": loaded.reference, "trimtab.windows": windows, "trimtab.manifest": manifest.id}
    api = tracking.client()
    with tracking.open_run(recipe.name, "train", key, f"train {windows}", tags) as run:
        run_id = run.info.run_id
        tracking.log_inputs(run_id, digests, source=f"store://{recipe.name}/{FEATURES}")
        api.log_batch(run_id, params=[Param(name, str(value)) for name, value in {**parameters, "seed": seed}.items()])
        frame = join_features(tuple(digests.values()))
        with progress.logging_to(run_id):
            fitted = fit(recipe, frame, Window.parse(windows).end_time, parameters, seed, resources)
        _log_fitted(run_id, recipe, fitted, manifest)


def _log_fitted(run_id: str, recipe: Recipe, fitted: Fitted, manifest: Manifest) -> None:
    """Log metrics, drift reference, manifest and model of a training run."""
    split = fitted.split
    held = scored_labels(recipe, split.holdout, fitted.predictions)
    deciding = recipe.metrics[0]
    others = {
        "train/rows": fitted.seen.height,
        tracking.JUDGED_ROWS: split.training.height,
        "holdout/rows": split.holdout.height,
        f"holdout_se/{deciding.name}": standard_error(held.labels, held.scores, deciding, seed=0, groups=held.days),
    }
    tracking.log_metrics(run_id, {f"holdout/{name}": value for name, value in fitted.metrics.items()} | others)
    api = tracking.client()
    reference = fit_reference(fitted.seen, recipe.inputs, fitted.predictions.get_column(SCORE).to_numpy())
    api.log_dict(run_id, json.loads(reference.to_json()), REFERENCE)
    calibration = calibrate(held.labels, held.scores)
    if calibration is not None:
        api.log_dict(run_id, json.loads(calibration.to_json()), CALIBRATION)
    api.log_dict(run_id, json.loads(manifest.to_json()), "manifest.json")
    api.set_tag(run_id, "trimtab.model_id", _log_model(run_id, recipe, fitted.model, "model", fitted.seen))
    if fitted.judged is not fitted.model:
        judged = _log_model(run_id, recipe, fitted.judged, "judged", split.training)
        api.set_tag(run_id, tracking.JUDGED, judged)
    api.set_tag(run_id, "trimtab.cut", fitted.cut.isoformat())
    api.set_tag(run_id, "trimtab.held_from", split.cut.isoformat())
    kept = sample_rows(fitted.seen, list(recipe.inputs))
    api.set_tag(run_id, "trimtab.reference_rows", runtime.library().put(kept).digest)
    api.set_tag(run_id, "trimtab.holdout_predictions", runtime.library().put(fitted.predictions).digest)
    api.set_tag(run_id, "trimtab.served_predictions", runtime.library().put(fitted.served).digest)


def _log_model(run_id: str, recipe: Recipe, model: Any, name: str, rows: pl.DataFrame) -> str:
    """Save a model with its signature as MLflow's; gives its id."""
    with mlflow.start_run(run_id=run_id):
        logged = tracking.flavor_module(recipe.flavor).log_model(
            model,
            name=name,
            signature=_signature(recipe, rows),
            # Left to find the requirements out, MLflow loads the model in a second process: 6 s more a version.
            pip_requirements=_requirements(recipe.flavor),
        )
    return str(logged.model_id)


def _requirements(flavor: str) -> list[str]:
    """The distribution that loads a flavor's models, at the version that saved them."""
    distribution = {"sklearn": "scikit-learn", "pytorch": "torch"}.get(flavor, flavor)
    return [f"{distribution}=={installed_version(distribution)}"]


def _signature(recipe: Recipe, frame: pl.DataFrame) -> ModelSignature:
    """The model's inputs as MLflow names them, from a few rows; a category is text to MLflow."""
    sample = frame.select(recipe.inputs).head(100).with_columns(pl.selectors.categorical().cast(pl.String))
    return ModelSignature(inputs=Schema(list(infer_signature(sample.to_pandas()).inputs)))


def _registered(name: str, run: Run) -> Trained:
    """The registered version of a finished training run, with its lineage and its link in the Prefect UI."""
    tags: Mapping[str, str] = run.data.tags
    kept = {tag: value for tag, value in tags.items() if tag.startswith("trimtab.")}
    version = tracking.register(name, run.info.run_id, tags["trimtab.model_id"], kept)
    digests = tuple(tracking.logged_inputs(run).values())
    node = f"model:{name}/{version.version}"
    runtime.lineage().record(
        Edge(node, digests, "train", name, tags["trimtab.windows"], tags.get("trimtab.flow_run_id"))
    )
    create_link_artifact(
        link=f"{runtime.connect_mlflow()}/#/models/{name}/versions/{version.version}",
        link_text=f"{name} version {version.version} in MLflow",
        key=f"model-{name}-{version.version}".replace("_", "-"),
        description=f"trained on {tags['trimtab.windows']}",
    )
    return Trained(
        model=name,
        version=int(version.version),
        run_id=run.info.run_id,
        manifest=tags["trimtab.manifest"],
        windows=tags["trimtab.windows"],
        metrics={
            metric.removeprefix("holdout/"): value
            for metric, value in run.data.metrics.items()
            if metric.startswith("holdout/") and metric != "holdout/rows"
        },
    )
