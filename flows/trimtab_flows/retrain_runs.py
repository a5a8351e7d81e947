"""The runs that decisions to retrain lead to, as the Prefect server has them: retrain runs, and open questions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from uuid import UUID

from prefect import get_run_logger
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterIdempotencyKey,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import TERMINAL_STATES, FlowRun, StateType
from prefect.client.schemas.responses import SetStateStatus
from prefect.client.schemas.sorting import FlowRunSort
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectAlreadyExists
from prefect.states import Cancelled

from trimtab_blocks.paging import PAGE, by_offset

__all__ = [
    "MAX_ATTEMPTS",
    "age",
    "cancel",
    "cancelled_by_hand",
    "is_dispatched",
    "one_at_a_time",
    "open_questions",
    "run_key",
    "runs_of",
    "runs_since",
    "waiting_runs",
]

#: How often a decision is announced before a person has to look.
MAX_ATTEMPTS = 3

#: Seconds to wait for another dispatch of the same model.
_TURN_WITHIN_S = 90

#: Seconds after which the turn of one that was killed is over; Prefect allows no fewer.
_TURN_ENDS_AFTER_S = 60

_OPEN = sorted(set(StateType) - TERMINAL_STATES)

#: How the reason begins that runs are cancelled with to make way for an order of the business.
_FOR_AN_ORDER = "an order to "


def run_key(decision: str, attempt: int) -> str:
    """Prefect's idempotency key of the retrain run of a decision: however often it is made, it is one."""
    return f"trimtab/{decision}/{attempt}"


def is_dispatched(run: FlowRun) -> bool:
    """Whether a retrain run was made for a decision; else a person made it."""
    return (run.idempotency_key or "").startswith("trimtab/")


def runs_of(decision: str) -> list[FlowRun]:
    """The retrain runs that were made for a decision, newest attempt first."""
    keys = [run_key(decision, attempt) for attempt in range(1, MAX_ATTEMPTS + 1)]
    wanted = FlowRunFilter(idempotency_key=FlowRunFilterIdempotencyKey(any_=keys))
    with get_client(sync_client=True) as client:
        return sorted(_pages(client, _flow("retrain"), wanted), key=lambda run: run.idempotency_key or "", reverse=True)


def waiting_runs(client: SyncPrefectClient, model: str) -> list[FlowRun]:
    """Retrain runs of a model that have not begun, oldest first."""
    return _retrain_runs(client, model, _in([StateType.SCHEDULED]))


def runs_since(client: SyncPrefectClient, model: str, moment: datetime) -> list[FlowRun]:
    """Retrain runs of a model that have not ended, or were to start after a moment, oldest first."""
    later = FlowRunFilter(expected_start_time=FlowRunFilterExpectedStartTime.model_validate({"after_": moment}))
    found = [*_retrain_runs(client, model, _in(_OPEN)), *_retrain_runs(client, model, later)]
    return sorted({run.id: run for run in found}.values(), key=age)


def open_questions(client: SyncPrefectClient, model: str) -> list[FlowRun]:
    """Dispatch runs of a model that have not ended, oldest first: on their way to a run, or waiting for a person."""
    found = [run for run in _pages(client, _flow("dispatch"), _in(_OPEN)) if run.parameters.get("model") == model]
    return sorted(found, key=age)


def cancelled_by_hand(client: SyncPrefectClient, model: str, decision: str) -> FlowRun | None:
    """The dispatch run of a decision that a person cancelled before it made its retrain run, if there is one.

    One that was cancelled for an order is none of them; nor is one whose announcement had its run by another.
    """
    made = {run.idempotency_key for run in runs_of(decision)}
    for run in _pages(client, _flow("dispatch"), _in([StateType.CANCELLED])):
        given, why = run.parameters, (run.state.message if run.state else None) or ""
        if (given.get("model"), given.get("decision")) != (model, decision) or why.startswith(_FOR_AN_ORDER):
            continue
        if run_key(decision, given.get("attempt", 1)) not in made:
            return run
    return None


def age(run: FlowRun) -> tuple[str, UUID]:
    """Orders runs by when they were made; no two are equal."""
    return (run.created.isoformat() if run.created else "", run.id)


def cancel(client: SyncPrefectClient, runs: Sequence[FlowRun], order: str) -> list[FlowRun]:
    """Cancel runs that have not started, for an order of this kind; which of them were."""
    why = f"{_FOR_AN_ORDER}{order}"
    return [
        run for run in runs if client.set_flow_run_state(run.id, Cancelled(message=why)).status == SetStateStatus.ACCEPT
    ]


@contextmanager
def one_at_a_time(model: str) -> Iterator[None]:
    """Hold the turn of a model: of two that look for runs and make one, the second sees what the first made.

    A turn that cannot be had is gone without: at worst one run too many is made, and it finds the version of the first.
    """
    name = f"trimtab-dispatch-{model}"
    with get_client(sync_client=True) as client, suppress(ObjectAlreadyExists):
        client.upsert_global_concurrency_limit_by_name(name, 1)
    with ExitStack() as held:
        try:
            turn = concurrency(name, timeout_seconds=_TURN_WITHIN_S, lease_duration=_TURN_ENDS_AFTER_S, strict=True)
            held.enter_context(turn)
        except TimeoutError:
            get_run_logger().warning("%s: another dispatch has had its turn for %s s; going on", model, _TURN_WITHIN_S)
        yield


def _retrain_runs(client: SyncPrefectClient, model: str, wanted: FlowRunFilter) -> list[FlowRun]:
    ours = wanted.model_copy(update={"tags": FlowRunFilterTags(all_=[model])})
    return sorted(_pages(client, _flow("retrain"), ours), key=age)


def _in(states: Sequence[StateType]) -> FlowRunFilter:
    return FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(states))))


def _flow(name: str) -> FlowFilter:
    return FlowFilter(name=FlowFilterName(any_=[name]))


def _pages(client: SyncPrefectClient, flow: FlowFilter, wanted: FlowRunFilter) -> Iterator[FlowRun]:
    return by_offset(
        lambda offset: client.read_flow_runs(
            flow_filter=flow, flow_run_filter=wanted, sort=FlowRunSort.ID_DESC, limit=PAGE, offset=offset
        )
    )
