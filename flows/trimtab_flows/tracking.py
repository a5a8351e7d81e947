"""The MLflow side of a stage: runs found again by the key of their inputs, models, versions, the champion alias.

MLflow is the record of models and metrics. A stage that was interrupted leaves a run that never finished; the next try
marks it KILLED and starts another. A stage that finished is found by its key and not repeated.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import isfinite
from time import time
from typing import Any

import mlflow
from mlflow.data.http_dataset_source import HTTPDatasetSource
from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import DatasetInput, InputTag, Metric, Run, RunTag
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from trimtab_blocks.paging import by_token
from trimtab_flows import runtime

__all__ = [
    "CHAMPION",
    "JUDGED",
    "JUDGED_ROWS",
    "NoSuchModel",
    "all_experiments",
    "all_runs",
    "all_versions",
    "champion",
    "client",
    "experiment_id",
    "find_run",
    "flavor_module",
    "load_judged",
    "load_model",
    "log_inputs",
    "log_metrics",
    "logged_inputs",
    "model_version",
    "monitoring_experiment",
    "open_run",
    "order_of",
    "read_json",
    "register",
    "runs_of_stage",
    "stage_key",
    "training_run",
]

#: The registry alias of the version in service.
CHAMPION = "champion"

#: Runs, versions or experiments in an answer of MLflow.
_PAGE = 1000

#: Tag of a version, with a refit: the MLflow model that is judged in place of the one that serves.
JUDGED = "trimtab.judged_model_id"

#: Tag of a run: see ``order_of``.
ORDER = "trimtab.order"

#: Metric of a training: rows that the judged model was trained on; the one that serves has ``train/rows``.
JUDGED_ROWS = "train/rows_before_holdout"


class NoSuchModel(LookupError):
    """A model version or alias that the registry does not have."""


def client() -> MlflowClient:
    """A client of the configured MLflow server."""
    return MlflowClient(runtime.connect_mlflow())


def stage_key(stage: str, **inputs: Any) -> str:
    """SHA-256 (hex) of a stage's name and inputs: the same work has the same key."""
    text = json.dumps([stage, inputs], sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def monitoring_experiment(name: str) -> str:
    """Name of the experiment that holds one run for each monitored window of a model."""
    return f"{name}-monitoring"


def experiment_id(name: str) -> str:
    """Id of an experiment, made if it is not there."""
    api = client()
    found = api.get_experiment_by_name(name)
    if found is None:
        try:
            return str(api.create_experiment(name))
        except MlflowException as error:  # another process was faster
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = api.get_experiment_by_name(name)
            assert found is not None
    return str(found.experiment_id)


def find_run(experiment: str, key: str) -> Run | None:
    """The finished run of this key, or None."""
    runs = client().search_runs(
        [experiment_id(experiment)], f"tags.`trimtab.key` = '{key}' and tags.`trimtab.done` = 'yes'", max_results=1
    )
    return runs[0] if runs else None


def runs_of_stage(experiment: str, stage: str) -> list[Run]:
    """The finished runs of a stage, oldest first (``order_of``)."""
    wanted = f"tags.`trimtab.stage` = '{stage}' and tags.`trimtab.done` = 'yes'"
    return sorted(all_runs([experiment_id(experiment)], wanted), key=order_of)


def order_of(run: Run) -> int:
    """Orders the runs of an experiment as they were begun, whatever the clocks of their hosts said."""
    order = run.data.tags.get(ORDER, "")
    return int(order) if order.isdecimal() else run.info.start_time or 0


def all_runs(experiments: Sequence[str], wanted: str = "") -> Iterator[Run]:
    """Every run of some experiments that a filter lets through, oldest first by their hosts' clocks."""
    api, order = client(), ["attributes.start_time ASC"]
    return by_token(
        lambda token: api.search_runs(list(experiments), wanted, order_by=order, max_results=_PAGE, page_token=token)
    )


def all_versions(wanted: str = "") -> Iterator[ModelVersion]:
    """Every version in the registry that a filter lets through."""
    api = client()
    return by_token(lambda token: api.search_model_versions(wanted or None, max_results=_PAGE, page_token=token))


def all_experiments() -> list[str]:
    """Ids of all experiments that are not deleted."""
    api = client()
    found = by_token(lambda token: api.search_experiments(page_token=token, max_results=_PAGE))
    return [str(each.experiment_id) for each in found]


@contextmanager
def open_run(experiment: str, stage: str, key: str, name: str, tags: Mapping[str, str]) -> Iterator[Run]:
    """A new run that ends FINISHED, or FAILED when the body raises; leftovers of the same key are marked KILLED."""
    api = client()
    where = experiment_id(experiment)
    for stale in all_runs([where], f"tags.`trimtab.key` = '{key}'"):
        if stale.data.tags.get("trimtab.done") is None and stale.info.status != "FAILED":
            api.set_terminated(stale.info.run_id, "KILLED")
    links = {"trimtab.flow_run_id": runtime.flow_run_id(), "trimtab.flow_run_url": runtime.flow_run_url()}
    known = {tag: value for tag, value in links.items() if value}
    own = {"trimtab.stage": stage, "trimtab.key": key, ORDER: _next_order(where), **known, **tags}
    run = api.create_run(where, tags=own, run_name=name)
    try:
        yield run
    except BaseException:
        api.set_terminated(run.info.run_id, "FAILED")
        raise
    # FINISHED alone would not do: saving a model sets it, before the stage has ended.
    api.set_tag(run.info.run_id, "trimtab.done", "yes")
    api.set_terminated(run.info.run_id, "FINISHED")


def _next_order(experiment: str) -> str:
    """The time in ms, or more where a host whose clock is ahead was here before; in 16 digits, which sort as text."""
    ours, newest_first = f"tags.`{ORDER}` != ''", [f"tags.`{ORDER}` DESC"]
    newest = client().search_runs([experiment], ours, order_by=newest_first, max_results=1)
    return f"{max([int(time() * 1000), *(order_of(run) + 1 for run in newest)]):016d}"


def log_metrics(run_id: str, metrics: Mapping[str, float], step: int = 0) -> None:
    """Log metrics in one call; NaN and infinities are left out, since MLflow's stores treat them unlike each other."""
    now = int(time() * 1000)
    batch = [Metric(key, float(value), now, step) for key, value in metrics.items() if isfinite(value)]
    client().log_batch(run_id, metrics=batch)


def log_inputs(run_id: str, inputs: Mapping[str, str], source: str) -> None:
    """Show snapshots as the run's datasets, and keep their whole digests as tags.

    MLflow's dataset digest holds 36 characters at most, and is cut from ours.
    """
    datasets = []
    for name, digest in inputs.items():
        address = HTTPDatasetSource(f"{source}#{digest}")  # type: ignore[no-untyped-call]
        # Declared abstract, made to be instantiated: MLflow's own documentation does.
        dataset = MetaDataset(address, name=name, digest=digest[:36])  # type: ignore[abstract]
        datasets.append(DatasetInput(dataset._to_mlflow_entity(), [InputTag("mlflow.data.context", name)]))
    api = client()
    api.log_inputs(run_id, datasets)
    api.log_batch(run_id, tags=[RunTag(f"trimtab.input.{name}", digest) for name, digest in inputs.items()])


def logged_inputs(run: Run) -> dict[str, str]:
    """The snapshots that ``log_inputs`` recorded: whole digests by name, in order of their names."""
    prefix = "trimtab.input."
    return {tag.removeprefix(prefix): run.data.tags[tag] for tag in sorted(run.data.tags) if tag.startswith(prefix)}


def read_json(run_id: str, path: str) -> Any:
    """A JSON artifact of a run."""
    runtime.connect_mlflow()
    return mlflow.artifacts.load_dict(f"runs:/{run_id}/{path}")


def flavor_module(flavor: str) -> Any:
    """MLflow's module for a flavor (``lightgbm``, ``sklearn`` ...).

    Raises:
        ValueError: MLflow has no such flavor, or its library is not installed.
    """
    try:
        return importlib.import_module(f"mlflow.{flavor}")
    except ImportError as error:
        raise ValueError(f"flavor {flavor!r} cannot be used: {error}") from error


def load_model(name: str, version: int, flavor: str) -> Any:
    """The model of a registered version, as its own library's object."""
    runtime.connect_mlflow()
    return flavor_module(flavor).load_model(f"models:/{name}/{version}")


def load_judged(version: ModelVersion, flavor: str) -> Any:
    """The model that is judged in a version's place: with a refit the one that has not seen the holdout."""
    model_id = version.tags.get(JUDGED)
    if model_id is None:
        return load_model(version.name, int(version.version), flavor)
    runtime.connect_mlflow()
    return flavor_module(flavor).load_model(f"models:/{model_id}")


def register(name: str, run_id: str, model_id: str, tags: Mapping[str, str]) -> ModelVersion:
    """The registered version of a run's model; made once, found afterwards."""
    api = client()
    try:
        api.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    for version in all_versions(f"name = '{name}' and run_id = '{run_id}'"):
        return version
    return api.create_model_version(name, f"models:/{model_id}", run_id=run_id, model_id=model_id, tags=dict(tags))


def training_run(version: ModelVersion) -> str:
    """Id of the run that trained a version.

    Raises:
        NoSuchModel: the version was registered by hand, without a run.
    """
    if not version.run_id:
        raise NoSuchModel(f"model {version.name!r} version {version.version} has no training run in MLflow")
    return str(version.run_id)


def champion(name: str) -> ModelVersion | None:
    """The version in service, or None while there is none."""
    try:
        return client().get_model_version_by_alias(name, CHAMPION)
    except MlflowException as error:
        if error.error_code in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
            return None
        raise


def model_version(name: str, version: str | int) -> ModelVersion:
    """A version by its number, or by an alias such as ``champion``.

    Raises:
        NoSuchModel: the registry has no such model, version or alias.
    """
    api = client()
    try:
        if str(version).isdigit():
            return api.get_model_version(name, str(version))
        return api.get_model_version_by_alias(name, str(version))
    except MlflowException as error:
        if error.error_code not in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
            raise
        known = [found.version for found in all_versions(f"name = '{name}'")]
        have = f"versions {', '.join(sorted(map(str, known), key=int))}" if known else "no versions"
        raise NoSuchModel(f"model {name!r} has no version {version!r} in MLflow; it has {have}") from None
