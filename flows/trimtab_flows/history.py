"""What happened to each window of a model so far, read back from MLflow and the store: nothing here is remembered."""

from __future__ import annotations

from dataclasses import dataclass

from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion

from trimtab_flows import runtime, tracking
from trimtab_flows.answers import Answer, answer_of
from trimtab_flows.drift.signals import PREDICTION
from trimtab_flows.windows import Window

__all__ = [
    "DECIDE",
    "MONITOR",
    "REPLAY",
    "Outcome",
    "RunLinks",
    "WindowRecord",
    "decisions_of",
    "monitored_windows",
    "outcome_of",
    "replay_record",
    "window_records",
]

#: Stage name of monitoring runs.
MONITOR = "monitor"

#: Stage name of decisions that were made apart from monitoring.
DECIDE = "decide"

#: Stage name of replays.
REPLAY = "replay"


@dataclass(frozen=True)
class Outcome:
    """What came of a decision to retrain: the version made, whether it was promoted, and why."""

    version: int
    promoted: bool
    reason: str
    run_id: str


@dataclass(frozen=True)
class RunLinks:
    """Addresses of the runs that monitored a window."""

    mlflow: str
    prefect: str | None


@dataclass(frozen=True)
class WindowRecord:
    """One monitored window: figures, the decision, and what came of it (None: no retraining, or not done yet).

    ``at`` is the time of a retraining that is for later. ``answer`` is there where something else than a run of its
    own came of it: a person said no, for one.
    """

    window: str
    links: RunLinks
    version: int
    rows: int
    quarantined: int
    metrics: dict[str, float]
    retrain: bool
    reasons: tuple[str, ...]
    decision: str
    outcome: Outcome | None
    answer: Answer | None = None
    at: str | None = None

    @property
    def worst_input(self) -> tuple[str, float]:
        """The input column that drifted most by PSI, and how much; an empty name when none was measured."""
        prefix = "drift/psi/"
        found = {key.removeprefix(prefix): value for key, value in self.metrics.items() if key.startswith(prefix)}
        found.pop(PREDICTION, None)
        return max(found.items(), key=lambda item: item[1]) if found else ("", 0.0)


def monitored_windows(name: str) -> dict[str, Run]:
    """The monitoring run that counts for each window of a model (the newest), by window, oldest window first."""
    runs = tracking.runs_of_stage(tracking.monitoring_experiment(name), MONITOR)
    newest = {run.data.tags["trimtab.window"]: run for run in runs}
    return dict(sorted(newest.items(), key=lambda item: Window.parse(item[0])))


def decisions_of(name: str) -> list[Run]:
    """The runs that hold a decision about a model, of the monitoring or made apart, oldest first.

    A window that was monitored again counts with the newest of its monitoring runs.
    """
    apart = tracking.runs_of_stage(tracking.monitoring_experiment(name), DECIDE)
    return sorted([*monitored_windows(name).values(), *apart], key=tracking.order_of)


def versions(name: str) -> list[ModelVersion]:
    """All registered versions of a model, oldest first."""
    return sorted(tracking.all_versions(f"name = '{name}'"), key=lambda version: int(version.version))


def outcome_of(name: str, decision: str) -> Outcome | None:
    """The version that came of a decision, or of the one that it was joined to; None while there is none."""
    answer = answer_of(name, decision)
    same = {decision, answer.by} if answer is not None and answer.kind == "joined" else {decision}
    for version in versions(name):
        if version.tags.get("trimtab.decision") in same:
            return Outcome(
                version=int(version.version),
                promoted=version.tags["trimtab.outcome"] == "promoted",
                reason=version.tags.get("trimtab.reason", ""),
                run_id=tracking.training_run(version),
            )
    return None


def window_records(name: str) -> list[WindowRecord]:
    """Every monitored window of a model, oldest first."""
    return [record_of(name, run) for run in monitored_windows(name).values()]


def record_of(name: str, run: Run) -> WindowRecord:
    """A monitoring run as a record."""
    tags, metrics = run.data.tags, run.data.metrics
    decision = tags["trimtab.key"]
    retrain, asked_for = tags["trimtab.verdict"] == "retrain", tags["trimtab.verdict"] != "wait"
    return WindowRecord(
        window=tags["trimtab.window"],
        links=RunLinks(
            mlflow=f"{runtime.connect_mlflow()}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}",
            prefect=tags.get("trimtab.flow_run_url"),
        ),
        version=int(tags["trimtab.model_version"]),
        rows=int(metrics["data/rows"]),
        quarantined=int(metrics["data/quarantined"]),
        metrics=dict(metrics),
        retrain=retrain,
        reasons=tuple(tags["trimtab.reasons"].split("\n")),
        decision=decision,
        outcome=outcome_of(name, decision) if asked_for else None,
        answer=answer_of(name, decision) if asked_for else None,
        at=tags.get("trimtab.at") or None,
    )


def replay_record(name: str, version: int) -> str:
    """What the newest replay of a version's training found, as the replay wrote it."""
    run_id = next(found.run_id for found in versions(name) if int(found.version) == version)
    replays = [run for run in tracking.runs_of_stage(name, REPLAY) if run.data.tags["trimtab.replay_of"] == run_id]
    if not replays:
        return f"{name} version {version} has not been replayed."
    return f"{name} version {version} was trained again from its manifest. {replays[-1].data.tags['trimtab.found']}"
