"""News among workers: a node has changed, a run came or went. Events over Prefect's websocket; polls are the net."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import anyio
from prefect.events import Event, emit_event
from prefect.events.clients import get_events_subscriber
from prefect.events.filters import EventAnyResourceFilter, EventFilter, EventNameFilter
from prefect.logging import get_logger

from trimtab_work_pools.advertise import roll_to_text

__all__ = ["NODE_CHANGED", "ROLL_CALLED", "announce", "call_roll", "subscribed"]

NODE_CHANGED = "trimtab.node.changed"
ROLL_CALLED = "trimtab.fleet.roll-called"
_OF_INTEREST = [
    *("prefect.flow-run.", "prefect.deployment.", "prefect.work-queue.", "prefect.work-pool."),
    *("trimtab.node.", "trimtab.fleet."),
]
_OF_NO_INTEREST = [f"prefect.flow-run.{name}" for name in ("heartbeat", "Submitting", "Running", "Completed")]
"""The claim was heard of before, and the room that a run leaves is announced by its worker. Each event that is sent
costs the server something for each worker of the pool."""
_LONGEST = 250_000
"""Characters of an advertisement in an event, which is sent to every worker of the pool. The server drops events over
1,500,000 bytes, and a subscriber's websocket breaks at 1,048,576."""
_RETRY_S = 5.0


def announce(pool_resource: str, pool: str, worker: str, advertisement: str = "") -> None:
    """Tells all what this worker's node is like now; nothing: it is not offered any more. Sent in the background. What
    is too long for an event is only said to have changed: peers read it.
    """
    if len(advertisement) > _LONGEST:
        advertisement = "changed"
    resource = {"prefect.resource.id": f"trimtab.node.{worker}", "prefect.resource.name": worker}
    payload = {"work_pool": pool, "worker": worker, "advertisement": advertisement}
    emit_event(NODE_CHANGED, resource, related=[_role(pool_resource)], payload=payload)


def call_roll(pool_resource: str, pool: str, worker: str, expires_s: dict[str, float]) -> None:
    """Tells all until when the advertisement of each worker is good, by worker, so that they need not read it."""
    resource = {"prefect.resource.id": f"trimtab.fleet.{pool}", "prefect.resource.name": pool}
    payload = {"work_pool": pool, "worker": worker, "roll": roll_to_text(expires_s)}
    emit_event(ROLL_CALLED, resource, related=[_role(pool_resource)], payload=payload)


def _role(pool_resource: str) -> dict[str, str]:
    return {"prefect.resource.id": pool_resource, "prefect.resource.role": "work-pool"}


async def subscribed(
    pool_resource: Callable[[], Awaitable[str]], connected: Callable[[bool], None]
) -> AsyncIterator[Event]:
    """Events of the pool that may change a plan, for ever; a lost connection is made again, and `connected` told."""
    while True:
        try:
            wanted = EventFilter(
                event=EventNameFilter(prefix=_OF_INTEREST, exclude_name=_OF_NO_INTEREST),
                any_resource=EventAnyResourceFilter(id=[await pool_resource()]),
            )
            async with get_events_subscriber(filter=wanted, reconnection_attempts=0) as events:
                connected(True)
                async for event in events:
                    yield event
        except Exception as error:  # noqa: BLE001 - whatever broke the stream, it is opened again
            get_logger("trimtab.worker").debug("The event stream broke off (%s); polling goes on", error)
        connected(False)
        await anyio.sleep(_RETRY_S)
