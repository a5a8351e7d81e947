"""Decide about a model now: on what was monitored last, what others reported since, and what the business ordered."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from mlflow.entities import Run
from prefect import flow, get_run_logger, task
from prefect.runtime import flow_run
from pydantic import BaseModel

from trimtab_flows import tracking
from trimtab_flows.automations import RetrainRequested
from trimtab_flows.conclude import conclude, emit_decision, previous_decision
from trimtab_flows.drift.decision import Decision, Evidence, Policy, in_words
from trimtab_flows.drift.decision import decide as decide_on
from trimtab_flows.faults import RETRIES
from trimtab_flows.gather import refresh
from trimtab_flows.history import DECIDE, decisions_of, monitored_windows
from trimtab_flows.loading import load_recipe
from trimtab_flows.local_time import moment_of
from trimtab_flows.order_book import keep_order, orders_of
from trimtab_flows.policies import PolicyGiven, resolve
from trimtab_flows.recipe import Recipe
from trimtab_flows.reported import reported
from trimtab_flows.settle import announce, cancel_waiting, is_at_an_end, runs_for
from trimtab_flows.waiting import take_over
from trimtab_flows.windows import Window

__all__ = ["Decided", "NotMonitored", "decide"]


class NotMonitored(LookupError):
    """A model of which no window has been monitored, or that has no champion."""


class Decided(BaseModel, frozen=True):
    """A decision on record: ``decision`` is its id, ``run_id`` the MLflow run that holds what it was made from."""

    model: str
    window: str
    verdict: str
    at: str | None
    reasons: tuple[str, ...]
    confidence: float | None
    decision: str
    run_id: str
    retrain_on: str
    resources: dict[str, Any]
    needs_approval: bool


@task(task_run_name="decide about {recipe}", timeout_seconds=600, **RETRIES)
def weigh(recipe: str, policy: dict[str, Any], because: str, as_of: datetime) -> Decided:
    """Gather, decide, log. The same evidence again gives the decision made before, and no other run in MLflow."""
    found = load_recipe(recipe).recipe
    chosen = Policy.from_mapping(policy).in_zone(found.timezone)
    champion, windows = tracking.champion(found.name), monitored_windows(found.name)
    if champion is None or not windows:
        raise NotMonitored(
            f"{found.name}: there is nothing to decide on: "
            + ("no version is champion" if champion is None else "no window has been monitored")
            + " (the lifecycle flow does both)"
        )
    open_one = _without_run(found)
    if open_one is not None:
        return _read(found, open_one)
    monitored = list(windows.values())[-1]
    evidence = reported(found, monitored, refresh(found, monitored, champion, as_of))
    key = _key(found, evidence, chosen)
    experiment = tracking.monitoring_experiment(found.name)
    run = tracking.find_run(experiment, key)
    if run is None:
        tags = {
            "trimtab.window": evidence.window,
            "trimtab.model_version": str(champion.version),
            "trimtab.recipe": recipe,
            "trimtab.because": because[:4000],
        }
        with tracking.open_run(experiment, DECIDE, key, f"decide {evidence.window}", tags) as opened:
            decision = conclude(opened.info.run_id, found, evidence, chosen)
            emit_decision(found, key, opened.info.run_id, decision)
        run = tracking.find_run(experiment, key)
        assert run is not None
    return _read(found, run)


@flow(name="decide", flow_run_name="decide: {because}", persist_result=True)
def decide(
    recipe: str,
    policy: PolicyGiven = None,
    order: dict[str, Any] | None = None,
    because: str = "asked",
    as_of: datetime | None = None,
) -> Decided:
    """Whether to retrain a model: now, at a later time, or not. A decision to retrain is announced.

    Args:
        recipe: ``module:attribute``.
        policy: name of a policy block, or fields that differ from the defaults.
        order: of the business, kept before deciding: ``kind`` force, forbid, postpone or withdraw, and ``until``,
            ``reason``, ``source``.
        because: what led to this, for people.
        as_of: the moment to decide at; now, when not given; without a zone, a clock time of the recipe's.

    Raises:
        NotMonitored: the model has no champion, or no monitored window.
        InvalidPolicy, InvalidRecord: a policy or an order that is not allowed; the message names the field.
        NotConfigured: there is no policy block of this name.
    """
    chosen = resolve(policy)
    if order:
        name = load_recipe(recipe).recipe.name
        keep_order(name, order)
        # What was decided before the order, and has not begun, is decided again with it.
        kind = str(order.get("kind"))
        for run in cancel_waiting(name, kind):
            get_run_logger().info("%s is cancelled: there is an order to %s", run.name, kind)
    for run in take_over(flow_run.id if as_of is None else None):
        get_run_logger().info("%s was to look at the same, and is cancelled", run.name)
    moment = as_of or datetime.now(UTC)
    moment = moment if moment.tzinfo else moment_of(moment, load_recipe(recipe).recipe.zone)
    decided = weigh(recipe, chosen.to_plain(), because, moment)
    said = in_words(decided.verdict, decided.at)
    get_run_logger().info("%s %s: %s. %s", decided.model, decided.window, said, " ".join(decided.reasons))
    if decided.verdict != "wait":
        announce(
            RetrainRequested(
                decided.model,
                recipe,
                decided.retrain_on,
                decided.decision,
                decided.reasons,
                at=decided.at,
                resources=decided.resources,
                needs_approval=decided.needs_approval,
            )
        )
    return decided


def _key(recipe: Recipe, evidence: Evidence, policy: Policy) -> str:
    """Of a decision that would come out the same: on the same evidence but for the time, with the same verdict."""
    decision = decide_on(evidence, previous_decision(recipe, Window.parse(evidence.window)), policy)
    known = {name: value for name, value in asdict(evidence).items() if name not in ("as_of", "champion_age_days")}
    return tracking.stage_key(
        DECIDE, evidence=known, policy=policy.digest, verdict=decision.verdict, at=decision.at, name=recipe.name
    )


def _without_run(recipe: Recipe) -> Run | None:
    """A decision to retrain that this flow made last and that no run has come of, though the orders are the same:
    its announcement may have been lost, so it stands, and is announced again."""
    runs = decisions_of(recipe.name)
    last = next((run for run in reversed(runs) if run.data.tags["trimtab.verdict"] in ("retrain", "later")), None)
    if last is None or last.data.tags["trimtab.stage"] != DECIDE:
        return None
    key = last.data.tags["trimtab.key"]
    if is_at_an_end(recipe.name, key) or runs_for(recipe.name, key):
        return None
    evidence = Evidence.from_json(json.dumps(tracking.read_json(last.info.run_id, "evidence.json")))
    return last if evidence.orders == orders_of(recipe.name) else None


def _read(recipe: Recipe, run: Run) -> Decided:
    decision = Decision.from_json(json.dumps(tracking.read_json(run.info.run_id, "decision.json")))
    return Decided(
        model=recipe.name,
        window=decision.window,
        verdict=decision.verdict,
        at=decision.at,
        reasons=decision.reasons,
        confidence=decision.confidence,
        decision=run.data.tags["trimtab.key"],
        run_id=run.info.run_id,
        retrain_on=run.data.tags["trimtab.retrain_on"],
        resources=decision.resources,
        needs_approval=decision.needs_approval,
    )
