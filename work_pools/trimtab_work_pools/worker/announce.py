"""News among workers: a node has changed, a run came or went. Events over Prefect's websocket; polls are the net."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
from prefect.events import Event, emit_event
from prefect.events.clients import get_events_subscriber
from prefect.events.filters import EventFilter, EventNameFilter
from prefect.logging import get_logger

__all__ = ["NODE_CHANGED", "announce", "subscribed"]

NODE_CHANGED = "trimtab.node.changed"
_RUNS = (
    "prefect.flow-run.Scheduled",
    "prefect.flow-run.AwaitingRetry",
    "prefect.flow-run.Preempted",
    "prefect.flow-run.Rescheduled",
    "prefect.flow-run.Completed",
    "prefect.flow-run.Failed",
    "prefect.flow-run.Crashed",
    "prefect.flow-run.Cancelled",
    "prefect.deployment.updated",
)
_RETRY_S = 5.0


def announce(pool: str, worker: str, advertisement: str = "") -> None:
    """Tells all what this worker's node is like now; nothing: it is not offered any more. Sent in the background."""
    resource = {"prefect.resource.id": f"trimtab.node.{worker}", "prefect.resource.name": worker}
    emit_event(NODE_CHANGED, resource, payload={"work_pool": pool, "worker": worker, "advertisement": advertisement})


async def subscribed() -> AsyncIterator[Event]:
    """Events that may change a plan, for ever; a lost connection is made again."""
    wanted = EventFilter(event=EventNameFilter(name=[NODE_CHANGED, *_RUNS]))
    while True:
        try:
            async with get_events_subscriber(filter=wanted, reconnection_attempts=0) as events:
                async for event in events:
                    yield event
        except Exception as error:  # noqa: BLE001 - whatever broke the stream, it is opened again
            get_logger("trimtab.worker").debug("The event stream broke off (%s); polling goes on", error)
        await anyio.sleep(_RETRY_S)
