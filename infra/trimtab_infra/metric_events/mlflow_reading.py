"""What the sender asks an MLflow server, over its REST API, with MLflow's own client and its settings."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from mlflow.entities import Experiment, Run, ViewType
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from trimtab_blocks.paging import Page, by_token
from trimtab_infra.metric_events.events import RunInfo, model_of
from trimtab_infra.metric_events.points import Point, point, wanted

__all__ = ["MlflowAway", "MlflowReading", "RunSeen"]

_PAGE = 1000


class MlflowAway(ConnectionError):
    """MLflow does not answer now."""


@dataclass(frozen=True)
class RunSeen:
    """A run and the latest point of each of its wanted metrics."""

    info: RunInfo
    latest: tuple[Point, ...]


class MlflowReading:
    """Reads runs and their metrics.

    Args:
        tracking_uri: ``http(s)://`` address.
        prefixes: how the names of wanted metrics begin.
    """

    def __init__(self, tracking_uri: str, prefixes: tuple[str, ...]) -> None:
        # MLflow's own retries take minutes; the sender comes back by itself. Read by MLflow at each request.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        self._client = MlflowClient(tracking_uri)
        self._prefixes = prefixes
        self._experiments: dict[str, str] = {}

    def run(self, run_id: str) -> RunInfo:
        """A run; one that MLflow does not know (any more) is named by its id.

        Raises:
            MlflowAway: there is no answer.
        """
        try:
            return self._info(self._client.get_run(run_id))
        except MlflowException as error:
            if error.error_code not in {"RESOURCE_DOES_NOT_EXIST", "PERMISSION_DENIED"}:
                raise MlflowAway(f"MLflow has no answer about run {run_id}: {str(error)[:300]}") from error
            return RunInfo(run_id, experiment="", model=f"mlflow.run.{run_id}")

    def runs(self, since_ms: int) -> Iterator[RunSeen]:
        """Runs that began since a time, and older ones that are still running, newest first.

        Raises:
            MlflowAway: there is no answer.
        """
        self._experiments.clear()
        experiments = self._experiment_ids()
        for which in (f"attributes.start_time >= {since_ms}", "attributes.status = 'RUNNING'"):
            for run in self._runs(experiments, which) if experiments else ():
                yield RunSeen(self._info(run), tuple(self._latest(run)))

    def history(self, run_id: str, key: str) -> list[Point]:
        """All points of one metric; empty if the run has gone.

        Raises:
            MlflowAway: there is no answer.
        """
        try:
            found = self._client.get_metric_history(run_id, key)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return []
            raise MlflowAway(f"MLflow has no answer about {key} of run {run_id}: {str(error)[:300]}") from error
        return [point(run_id, dict(metric)) for metric in found]

    def _runs(self, experiments: list[str], which: str) -> Iterator[Run]:
        order = ["attributes.start_time DESC"]
        try:
            yield from by_token(
                lambda token: self._client.search_runs(
                    experiments, which, max_results=_PAGE, order_by=order, page_token=token
                )
            )
        except MlflowException as error:
            raise MlflowAway(f"MLflow does not list its runs: {str(error)[:300]}") from error

    def _latest(self, run: Run) -> list[Point]:
        # The protocol buffer, because run.data.metrics has the values only.
        fields = (
            {"key": metric.key, "value": metric.value, "step": metric.step, "timestamp": metric.timestamp}
            for metric in run.data.to_proto().metrics
        )
        return wanted((point(run.info.run_id, each) for each in fields), self._prefixes)

    def _info(self, run: Run) -> RunInfo:
        experiment = self._experiment(run.info.experiment_id)
        tags = run.data.tags
        stage = tags.get("trimtab.stage", "")
        return RunInfo(run.info.run_id, experiment, run.info.run_name or "", model_of(experiment, tags), stage)

    def _experiment(self, experiment_id: str) -> str:
        if experiment_id not in self._experiments:
            self._experiments[experiment_id] = str(self._client.get_experiment(experiment_id).name)
        return self._experiments[experiment_id]

    def _experiment_ids(self) -> list[str]:
        def ask(token: str | None) -> Page[Experiment]:
            found: Page[Experiment] = self._client.search_experiments(
                ViewType.ACTIVE_ONLY, max_results=_PAGE, page_token=token
            )
            return found

        try:
            found = {each.experiment_id: each.name for each in by_token(ask)}
        except MlflowException as error:
            raise MlflowAway(f"MLflow does not list its experiments: {str(error)[:300]}") from error
        self._experiments |= found
        return list(found)
