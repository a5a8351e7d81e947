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
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.exceptions import FlowRunWaitTimeout
from prefect.flow_runs import wait_for_flow_run

from trimtab_flows import tracking
from trimtab_flows.answers import Answer, answer_of, keep_answer
from trimtab_flows.automations import RetrainRequested
from trimtab_flows.history import Outcome, outcome_of
from trimtab_flows.locality import reads, tell_reads
from trimtab_flows.retrain_runs import (
    MAX_ATTEMPTS,
    cancel,
    cancelled_by_hand,
    open_questions,
    runs_of,
    waiting_runs,
)

__all__ = ["RetrainLost", "announce", "cancel_waiting", "is_acted_on", "is_at_an_end", "runs_for", "settle"]

#: Seconds after which a decision that nothing came of is announced as another event. On a busy SQLite database Prefect
#: loses a firing now and then.
LOST_AFTER_S = 120

#: Seconds an automation may take from the event to its run (0.7 s in the median on an idle server).
APPEARS_WITHIN_S = 60


class RetrainLost(RuntimeError):
    """A decision to retrain that no run came of, or whose runs did not end well."""


def settle(request: RetrainRequested, timeout_s: int) -> Outcome | None:
    """Wait until a decision to retrain has an outcome, announcing it as often as needed; None if a person says no.

    Args:
        request: the decision.
        timeout_s: seconds to wait for each attempt's run to end.

    Raises:
        RetrainLost: no run appeared, or none of the attempts' runs completed.
    """
    logger = get_run_logger()
    while (outcome := outcome_of(request.model, request.decision)) is None:
        runs = runs_for(request.model, request.decision)
        run = next((run for run in runs if run.state is None or not run.state.is_final()), None)
        if run is None:
            if len(runs) >= MAX_ATTEMPTS:
                raise RetrainLost(
                    f"{request.model}: the decision to retrain on {request.windows} led to {len(runs)} runs and none "
                    f"completed; the last, {runs[0].name}, says: {runs[0].state and runs[0].state.message}"
                )
            attempt = replace(request, attempt=len(runs) + 1, again=_again(request))
            attempt.send()
            logger.info("announced: retrain %s on %s (attempt %s)", request.model, request.windows, attempt.attempt)
            run = _appearing(request, known={run.id for run in runs})
            if run is None:
                return None
            _tell_reads(request, run)
        logger.info("waiting for %s (%s)", run.name, run.id)
        try:
            asyncio.run(wait_for_flow_run(run.id, timeout=timeout_s))
        except FlowRunWaitTimeout:
            raise RetrainLost(
                f"{request.model}: {run.name} has not ended within {timeout_s} s; look at it in Prefect"
            ) from None
    return outcome


def announce(request: RetrainRequested) -> None:
    """Send a decision to retrain, unless something has come of it already, or a person is asked about it."""
    if is_at_an_end(request.model, request.decision) or runs_for(request.model, request.decision):
        return
    with get_client(sync_client=True) as client:
        asked = [run.parameters.get("decision") for run in open_questions(client, request.model)]
    if request.decision not in asked:
        replace(request, again=_again(request)).send()


def _again(request: RetrainRequested) -> int:
    """How often it should have led to something by now: another number, another event."""
    run = tracking.find_run(tracking.monitoring_experiment(request.model), request.decision)
    decided_ms = (run.info.end_time or run.info.start_time) if run is not None else None
    return max(0, int((time.time() - decided_ms / 1000) // LOST_AFTER_S)) if decided_ms else 0


def is_at_an_end(model: str, decision: str) -> bool:
    """Whether there is nothing more to come of a decision: a version came of it, a person said no, or an order came."""
    answer = answer_of(model, decision)
    if (answer is not None and answer.kind != "joined") or outcome_of(model, decision) is not None:
        return True
    return answer is None and _was_cancelled(model, decision)


def _was_cancelled(model: str, decision: str) -> bool:
    """Whether a person cancelled what was to make the run: that is a no, and it is kept like one."""
    with get_client(sync_client=True) as client:
        cancelled = cancelled_by_hand(client, model, decision)
    if cancelled is None or cancelled.state is None:
        return False
    keep_answer(model, decision, Answer("refused", at=cancelled.state.timestamp.isoformat()))
    return True


def runs_for(model: str, decision: str) -> list[FlowRun]:
    """The retrain runs that a decision led to, or that do its work, newest first."""
    found = runs_of(decision)
    if found:
        return found
    answer = answer_of(model, decision)
    return runs_of(answer.by) if answer is not None and answer.kind == "joined" else []


def is_acted_on(model: str, decision: str, verdict: str) -> bool:
    """Whether a decision led to a retraining, is about to, or was put to a person: not if its runs were cancelled, as
    a later order does.

    One to retrain now that has no run yet was announced a moment ago.
    """
    answer = answer_of(model, decision)
    if answer is not None and answer.kind != "joined":
        return answer.kind == "refused"
    if outcome_of(model, decision) is not None:
        return True
    runs = runs_for(model, decision)
    if runs:
        return any(run.state_type != StateType.CANCELLED for run in runs)
    return verdict == "retrain" or _was_cancelled(model, decision)


def cancel_waiting(model: str, order: str) -> list[FlowRun]:
    """Take back what was decided and has not begun, for an order of this kind: retrain runs that wait, and questions
    to a person."""
    with get_client(sync_client=True) as client:
        cancelled = cancel(client, waiting_runs(client, model), order)
        asked = [run for run in open_questions(client, model) if run.state_type == StateType.PAUSED]
        for question in cancel(client, asked, order):
            keep_answer(model, str(question.parameters["decision"]), Answer("overtaken", order))
            cancelled.append(question)
    return cancelled


def _tell_reads(request: RetrainRequested, run: FlowRun) -> None:
    """A run that has to wait is best placed where its data is. It is a wish: the run goes on without."""
    try:
        with get_client(sync_client=True) as client:
            tell_reads(client, run.id, reads(request.recipe, request.windows))
    except Exception as error:  # noqa: BLE001
        get_run_logger().debug("what %s reads could not be told to the workers: %s", run.name, error)


def _appearing(request: RetrainRequested, known: set[UUID]) -> FlowRun | None:
    """The run that the automation makes of an announcement; None if a person cancels what was to make it."""
    deadline = time.monotonic() + APPEARS_WITHIN_S
    while time.monotonic() < deadline:
        for run in runs_for(request.model, request.decision):
            if run.id not in known:
                return run
        time.sleep(0.25)
    if is_at_an_end(request.model, request.decision):
        return None
    raise RetrainLost(
        f"{request.model}: the decision to retrain was announced and no run came of it within {APPEARS_WITHIN_S} s; "
        "is there an enabled automation for trimtab.retrain.requested (prefect.yaml, triggers)?"
    )
