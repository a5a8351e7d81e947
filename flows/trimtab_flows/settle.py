"""From a decision to its outcome: announce it, find the run that the automation made of it, wait for that run.

A decision whose run was lost (crashed, cancelled) is announced again, as another attempt; one that has an outcome, or
a run under way, is not.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from uuid import UUID

from prefect import get_run_logger
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.responses import SetStateStatus
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import FlowRunWaitTimeout
from prefect.flow_runs import wait_for_flow_run
from prefect.states import Cancelled

from trimtab_flows.automations import RetrainRequested
from trimtab_flows.history import Outcome, outcome_of

__all__ = ["MAX_ATTEMPTS", "RetrainLost", "announce", "cancel_waiting", "is_acted_on", "runs_of", "settle"]

#: How often a decision is announced before a person has to look.
MAX_ATTEMPTS = 3

#: Seconds an automation may take from the event to its run (0.7 s in the median on an idle server).
APPEARS_WITHIN_S = 60


class RetrainLost(RuntimeError):
    """A decision to retrain that no run came of, or whose runs did not end well."""


def settle(request: RetrainRequested, timeout_s: int) -> Outcome:
    """Wait until a decision to retrain has an outcome, announcing it as often as needed.

    Args:
        request: the decision.
        timeout_s: seconds to wait for each attempt's run to end.

    Raises:
        RetrainLost: no run appeared, or none of the attempts' runs completed.
    """
    logger = get_run_logger()
    while (outcome := outcome_of(request.model, request.decision)) is None:
        runs = runs_of(request.decision)
        run = next((run for run in runs if run.state is None or not run.state.is_final()), None)
        if run is None:
            if len(runs) >= MAX_ATTEMPTS:
                raise RetrainLost(
                    f"{request.model}: the decision to retrain on {request.windows} led to {len(runs)} runs and none "
                    f"completed; the last, {runs[0].name}, says: {runs[0].state and runs[0].state.message}"
                )
            attempt = replace(request, attempt=len(runs) + 1)
            attempt.send()
            logger.info("announced: retrain %s on %s (attempt %s)", request.model, request.windows, attempt.attempt)
            run = _appearing(request, known={run.id for run in runs})
        logger.info("waiting for %s (%s)", run.name, run.id)
        try:
            asyncio.run(wait_for_flow_run(run.id, timeout=timeout_s))
        except FlowRunWaitTimeout:
            raise RetrainLost(
                f"{request.model}: {run.name} has not ended within {timeout_s} s; look at it in Prefect"
            ) from None
    return outcome


def announce(request: RetrainRequested) -> None:
    """Send a decision to retrain, unless something has come of it already."""
    if outcome_of(request.model, request.decision) is None and not runs_of(request.decision):
        request.send()


def runs_of(decision: str) -> list[FlowRun]:
    """The retrain runs that a decision led to, newest first."""
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=["retrain"])), sort=FlowRunSort.EXPECTED_START_TIME_DESC
        )
    return [run for run in runs if run.parameters.get("decision") == decision]


def is_acted_on(model: str, decision: str, verdict: str) -> bool:
    """Whether a decision led to a retraining, or is about to: not if its runs were cancelled, as a later order does.

    One to retrain now that has no run yet was announced a moment ago.
    """
    if outcome_of(model, decision) is not None:
        return True
    runs = runs_of(decision)
    return any(run.state_type != StateType.CANCELLED for run in runs) if runs else verdict == "retrain"


def cancel_waiting(model: str, why: str) -> list[FlowRun]:
    """Cancel the retrain runs of a model that have not started; what runs goes on."""
    waiting = FlowRunFilter(
        tags=FlowRunFilterTags(all_=[model]),
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])),
    )
    cancelled = []
    with get_client(sync_client=True) as client:
        flow = FlowFilter(name=FlowFilterName(any_=["retrain"]))
        for run in client.read_flow_runs(flow_filter=flow, flow_run_filter=waiting):
            if client.set_flow_run_state(run.id, Cancelled(message=why)).status == SetStateStatus.ACCEPT:
                cancelled.append(run)
    return cancelled


def _appearing(request: RetrainRequested, known: set[UUID]) -> FlowRun:
    """The run that the automation makes of an announcement."""
    deadline = time.monotonic() + APPEARS_WITHIN_S
    while time.monotonic() < deadline:
        for run in runs_of(request.decision):
            if run.id not in known:
                return run
        time.sleep(0.25)
    raise RetrainLost(
        f"{request.model}: the decision to retrain was announced and no run came of it within {APPEARS_WITHIN_S} s; "
        "is there an enabled automation for trimtab.retrain.requested (prefect.yaml, triggers)?"
    )
