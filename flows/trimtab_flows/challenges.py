"""What fresh models were worth against the champions of their time, as the registry remembers it.

The gate leaves what it measured on the challenger's version; decisions and the gate itself learn from it.
"""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta

from mlflow.entities.model_registry import ModelVersion

from trimtab_flows import tracking
from trimtab_flows.drift.evidence import Challenge, Evidence
from trimtab_flows.drift.gain import observed_loss
from trimtab_flows.drift.values import InvalidRecord, from_plain, must_be_typed
from trimtab_flows.history import monitored_windows, versions
from trimtab_flows.recipe import Recipe
from trimtab_flows.windows import Window

__all__ = ["CHALLENGE", "challenge_of", "challenges_of", "data_end"]

#: Tag of a version that holds what the gate measured of it.
CHALLENGE = "trimtab.challenge"


def data_end(version: ModelVersion, judged: bool = False) -> datetime:
    """The first moment that a version's model has seen no row of; or the one that is judged in its place."""
    cut = version.tags["trimtab.cut"]
    return datetime.fromisoformat(version.tags.get("trimtab.held_from", cut) if judged else cut)


def challenges_of(name: str, until: datetime | None = None, before: int | None = None) -> tuple[Challenge, ...]:
    """The challenges of a model, oldest first.

    Args:
        until: only of versions whose windows ended by then.
        before: only of versions with a smaller number.
    """
    found = []
    for version in versions(name):
        challenge = _read(version)
        if challenge is None or (before is not None and int(version.version) >= before):
            continue
        if until is not None and Window.parse(version.tags["trimtab.windows"]).end_time > until:
            continue
        outcome = version.tags.get("trimtab.outcome")
        found.append(challenge if outcome is None else replace(challenge, promoted=outcome == "promoted"))
    return tuple(found)


def _read(version: ModelVersion) -> Challenge | None:
    """A tag that somebody changed to what is no challenge counts as none."""
    try:
        plain = json.loads(version.tags[CHALLENGE])
        must_be_typed(Challenge, plain, CHALLENGE)
        return from_plain(Challenge, plain, CHALLENGE, InvalidRecord)
    except (KeyError, TypeError, ValueError):
        return None


def challenge_of(
    recipe: Recipe, candidate: ModelVersion, champion: ModelVersion, judged: bool
) -> tuple[Evidence, Challenge]:
    """What is known of a challenger and the champion before they are compared.

    Args:
        judged: the models that are judged in place of those that serve will be compared.
    """
    window = list(recipe.windows(Window.parse(candidate.tags["trimtab.windows"])))[-1]
    evidence = _evidence(recipe, window, champion)
    evidence = replace(evidence, challenges=challenges_of(recipe.name, before=int(candidate.version)))
    newer = data_end(candidate, judged) - data_end(champion, judged)
    return evidence, Challenge(
        window=window.label,
        gain=None,
        rows=_rows(candidate, judged),
        champion_rows=_rows(champion, judged),
        champion_age=evidence.champion_age,
        champion_loss=observed_loss(evidence),
        newer_days=newer / timedelta(days=1),
    )


def _rows(version: ModelVersion, judged: bool) -> int:
    """Rows that a version was trained on."""
    metrics = tracking.client().get_run(tracking.training_run(version)).data.metrics
    rows = metrics.get("train/rows", 0)
    return int(metrics.get(tracking.JUDGED_ROWS, rows) if judged else rows)


def _evidence(recipe: Recipe, window: Window, champion: ModelVersion) -> Evidence:
    """As it was in the champion's last monitored window until this one; with the champion's holdout alone before."""
    for label, run in reversed(monitored_windows(recipe.name).items()):
        if Window.parse(label).start <= window.start and int(run.data.tags["trimtab.model_version"]) == int(
            champion.version
        ):
            return Evidence.from_json(json.dumps(tracking.read_json(run.info.run_id, "evidence.json")))
    metric = recipe.metrics[0]
    held_out = tracking.client().get_run(tracking.training_run(champion)).data.metrics
    return Evidence(
        window=window.label,
        labelled_rows=0,
        metric=metric.name,
        higher_is_better=metric.higher_is_better,
        performance=None,
        performance_se=0.0,
        reference_performance=held_out.get(f"holdout/{metric.name}"),
        reference_se=held_out.get(f"holdout_se/{metric.name}", 0.0),
        input_psi=(),
        prediction_psi=0.0,
        windows_since_retrain=None,
        champion_age=0,
        window_days=(window.end - window.start) / timedelta(days=1),
    )
