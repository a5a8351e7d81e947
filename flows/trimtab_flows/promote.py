"""Put a version in service, prove that it serves, and put the old one back if it does not."""

from __future__ import annotations

import numpy as np
from prefect import flow, get_run_logger, task
from prefect.transactions import Transaction, transaction
from pydantic import BaseModel

from trimtab_flows import runtime, tracking
from trimtab_flows.faults import RETRIES
from trimtab_flows.loading import load_recipe
from trimtab_flows.windows import Window

__all__ = ["NotAllowed", "Promoted", "promote"]


class NotAllowed(ValueError):
    """A version that the gate did not let through."""


class Promoted(BaseModel, frozen=True):
    """The version now in service, and the one it replaced."""

    model: str
    version: int
    replaced: int | None


@task(task_run_name="point champion at {version}", **RETRIES)
def point_champion(name: str, version: int) -> None:
    """Move the alias; a rollback of the transaction around it puts the earlier one back."""
    tracking.client().set_registered_model_alias(name, tracking.CHAMPION, str(version))


@point_champion.on_rollback
def put_back(transaction: Transaction) -> None:
    """Undo the move: the earlier champion again, or none."""
    name, previous = transaction.get("name"), transaction.get("previous")
    if previous is None:
        tracking.client().delete_registered_model_alias(name, tracking.CHAMPION)
    else:
        tracking.client().set_registered_model_alias(name, tracking.CHAMPION, str(previous))


@task(task_run_name="try champion of {recipe}", timeout_seconds=600, **RETRIES)
def try_champion(recipe: str, version: int) -> None:
    """Load what the alias now names, and score rows that it was held back from: finite scores, one a row.

    Raises:
        RuntimeError: the alias names another version, or the model gives no usable scores.
    """
    found = load_recipe(recipe).recipe
    serving = tracking.model_version(found.name, tracking.CHAMPION)
    if int(serving.version) != version:
        raise RuntimeError(f"{found.name}: the alias champion names version {serving.version}, not {version}")
    run = tracking.client().get_run(tracking.training_run(serving))
    newest = max(tracking.logged_inputs(run).items(), key=lambda item: Window.parse(item[0]))[1]
    rows = runtime.library().get(newest).tail(100)
    scores = np.asarray(found.predict(tracking.load_model(found.name, version, found.flavor), rows))
    if scores.shape != (rows.height,) or not np.isfinite(scores).all():
        raise RuntimeError(
            f"{found.name} version {version} gave no usable scores for {rows.height} rows "
            f"(shape {scores.shape}, {int((~np.isfinite(scores)).sum())} not finite)"
        )


@flow(name="promote", flow_run_name="promote version {version}", persist_result=True)
def promote(recipe: str, version: int, force: bool = False) -> Promoted:
    """Make a version the champion, if the gate let it through.

    Args:
        recipe: ``module:attribute``.
        version: version in MLflow's registry.
        force: promote whatever the gate said (a rollback to an earlier version, for example).

    Raises:
        NotAllowed: the gate refused this version, or never saw it.
        RuntimeError: the version does not serve; the earlier champion is in service again.
    """
    name = load_recipe(recipe).recipe.name
    candidate = tracking.model_version(name, version)
    verdict = candidate.tags.get("trimtab.gate")
    if verdict != "promote" and not force:
        said = (
            f"the gate said {verdict!r}: {candidate.tags.get('trimtab.reason')}" if verdict else "the gate never saw it"
        )
        raise NotAllowed(f"{name} version {version} is not promoted: {said}. Evaluate it, or promote it with force.")
    current = tracking.champion(name)
    previous = None if current is None else int(current.version)
    if previous == version:
        return Promoted(model=name, version=version, replaced=None)
    with transaction() as moving:
        moving.set("name", name)
        moving.set("previous", previous)
        point_champion(name, version)
        try_champion(recipe, version)
    tracking.client().set_model_version_tag(name, str(version), "trimtab.outcome", "promoted")
    get_run_logger().info("%s: version %s is champion%s", name, version, f", after {previous}" if previous else "")
    return Promoted(model=name, version=version, replaced=previous)
