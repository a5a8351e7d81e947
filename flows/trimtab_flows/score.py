"""Score one window in a batch with a registered model, and keep the predictions as a checked snapshot."""

from __future__ import annotations

from prefect import flow, task
from prefect.cache_policies import INPUTS, TASK_SOURCE
from pydantic import BaseModel

from trimtab_flows import runtime, tracking
from trimtab_flows.contracts.check import check
from trimtab_flows.faults import RETRIES
from trimtab_flows.handover import Checked, digests_of, keep, record, report, with_data
from trimtab_flows.ingest import FEATURES
from trimtab_flows.loading import load_recipe
from trimtab_flows.steps.predictions import predictions_table
from trimtab_flows.windows import Window

__all__ = ["PREDICTIONS", "Scored", "score"]

#: Name of the predictions table in the catalog.
PREDICTIONS = "predictions"


class Scored(BaseModel, frozen=True):
    """The predictions of one window: the version that made them, and the table after its check."""

    model: str
    version: int
    window: str
    table: Checked

    @property
    def predictions(self) -> str:
        """Digest of the predictions that count."""
        return self.table.accepted


@task(
    task_run_name="predict {window} with version {version}",
    timeout_seconds=3600,
    persist_result=True,
    cache_policy=INPUTS + TASK_SOURCE,
    **RETRIES,
)
def predict(recipe: str, code: str, window: str, version: int, features: str) -> Checked:
    """Predictions of a features snapshot, checked against the recipe's contract and stored.

    Raises:
        ContractRefused: the predictions may not be handed on.
    """
    found = load_recipe(recipe).recipe
    period = Window.parse(window)
    frame = runtime.library().get(features)
    scores = found.predict(tracking.load_model(found.name, version, found.flavor), frame)
    verdict = check(found.predictions, predictions_table(found, frame, scores), as_of=period.end_time, zone=found.zone)
    report(f"contract-{found.name}-predictions-{period}", f"Predictions of {found.name}, {period}", [verdict])
    origins = (f"model:{found.name}/{version}", features)
    return keep(found.name, period, verdict, PREDICTIONS, origins, "score")


@flow(name="score", flow_run_name="score {window}", persist_result=True)
def score(recipe: str, window: str, model: str = tracking.CHAMPION) -> Scored:
    """Score an ingested window.

    Args:
        recipe: ``module:attribute``.
        window: ``2013-03`` and the like.
        model: a version number or an alias of the recipe's model.

    Raises:
        NotIngested: the window has not been brought in yet.
        NoSuchModel: no such version or alias.
        ContractRefused: the predictions may not be handed on.
    """
    loaded = load_recipe(recipe)
    name, period = loaded.recipe.name, Window.parse(window)
    features = runtime.catalog(name).get(FEATURES, period).digest
    version = int(tracking.model_version(name, model).version)
    table: Checked = with_data(predict, digests_of, recipe, loaded.code, window, version, features)
    record(name, period, [table], made_by=f"model:{name}/{version}")
    return Scored(model=name, version=version, window=window, table=table)
