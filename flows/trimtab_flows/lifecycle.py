"""The whole lifecycle of one model: every window that has arrived, in order, from its data to what came of it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from prefect import flow, get_run_logger
from prefect.runtime import flow_run

from trimtab_flows.history import monitored_windows, outcome_of
from trimtab_flows.ingest import ingest
from trimtab_flows.loading import LoadedRecipe, load_recipe
from trimtab_flows.local_time import exists, moment_of
from trimtab_flows.monitor import Monitored, monitor
from trimtab_flows.policies import PolicyGiven
from trimtab_flows.recipe import Recipe
from trimtab_flows.retrain import retrain
from trimtab_flows.score import score
from trimtab_flows.settle import announce, is_at_an_end, settle
from trimtab_flows.windows import Window

__all__ = ["BOOTSTRAP", "arrived", "lifecycle"]

#: The decision that the first champion is tagged with.
BOOTSTRAP = "bootstrap"


def arrived(recipe: Recipe, as_of: datetime) -> Iterator[Window]:
    """The windows of a recipe that are over, and whose labels are known, at a moment; oldest first.

    Args:
        as_of: a naive one is a clock time of the recipe's zone.
    """
    moment = as_of if as_of.tzinfo else moment_of(as_of, recipe.zone)
    window = Window.parse(recipe.start)
    while recipe.due(window) <= moment:
        if exists(window, recipe.zone):
            yield window
        window = window.following(recipe.cadence)


def _run_name() -> str:
    as_of = flow_run.parameters.get("as_of")
    return f"lifecycle as of {as_of:%Y-%m-%d}" if as_of else "lifecycle as of now"


@flow(name="lifecycle", flow_run_name=_run_name)
def lifecycle(
    recipe: str, as_of: datetime | None = None, policy: PolicyGiven = None, retrain_timeout_s: int = 6 * 3600
) -> list[str]:
    """Take a model through every window that has arrived and is not done yet.

    Windows are taken in order, and a retraining that one of them led to is waited for before the next: catching up on
    a year gives what twelve monthly runs would have given. A window is done when its decision is in MLflow and, where
    that was to retrain, the outcome too; run it again after any fault and it goes on from there.

    Args:
        recipe: ``module:attribute``.
        as_of: the moment to act at; now, when not given; without a zone, a clock time of the recipe's. Windows whose
            labels are not known by then are left.
        policy: name of a policy block, or fields of the retraining policy that differ from the defaults.
        retrain_timeout_s: seconds to wait for a retraining.

    Returns:
        The windows that were taken through in this run.

    Raises:
        ContractRefused: a window's data may not be handed on. Later windows wait for it.
        RetrainLost: a retraining did not end well.
    """
    loaded = load_recipe(recipe)
    name = loaded.recipe.name
    windows = list(arrived(loaded.recipe, as_of or datetime.now(UTC)))
    first, rest = windows[: loaded.recipe.bootstrap_windows], windows[loaded.recipe.bootstrap_windows :]
    logger = get_run_logger()
    if len(first) < loaded.recipe.bootstrap_windows:
        logger.info("%s: %s of %s first windows have arrived", name, len(first), loaded.recipe.bootstrap_windows)
        return []
    if outcome_of(name, BOOTSTRAP) is None:
        for window in first:
            ingest(recipe, window.label)
        retrain(recipe, Window(first[0].start, first[-1].end).label, decision=BOOTSTRAP)
    done = []
    for window in rest:
        if _take(loaded, window, policy, retrain_timeout_s, newest=window == rest[-1]):
            done.append(window.label)
    return done


def _take(loaded: LoadedRecipe, window: Window, policy: PolicyGiven, timeout_s: int, newest: bool) -> bool:
    """One window from its data to what came of its decision; False when that was done before.

    Nobody waits for a person: where the policy asks for approval, the champion stays in service until there is one.
    """
    name = loaded.recipe.name
    done = monitored_windows(name).get(window.label)
    if done is None:
        ingest(loaded.reference, window.label)
        score(loaded.reference, window.label)
        monitored = monitor(loaded.reference, window.label, policy)
    else:
        monitored = Monitored.of(name, done)
    if not monitored.retrain or is_at_an_end(name, monitored.decision):
        return done is None
    if monitored.needs_approval:
        if done is not None and newest:
            announce(monitored.request(loaded.reference))
        return done is None
    settle(monitored.request(loaded.reference), timeout_s)
    return True
