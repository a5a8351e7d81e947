"""What the sender asks a Prefect server: take these events; which of these have you stored?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import httpx
from prefect.client.orchestration import SyncPrefectClient

__all__ = ["PAGE", "PrefectAway", "PrefectRefused", "PrefectWriting"]

#: Events that `/events/filter` gives at most (`prefect.server.events.storage.INTERACTIVE_PAGE_SIZE`).
PAGE = 50

#: Answers that blame the events; others (credentials, a wrong address, too many requests) may pass.
_REFUSED = frozenset({400, 413, 422})


class PrefectAway(ConnectionError):
    """Prefect does not answer now; what was sent may have reached it or not, unless ``reached`` is False."""

    def __init__(self, said: str, reached: bool = True) -> None:
        super().__init__(said)
        self.reached = reached


class PrefectRefused(ValueError):
    """Prefect will not take these events."""


class PrefectWriting:
    """Writes events over Prefect's REST API, with Prefect's own client: its address, credentials and retries.

    The websocket that Prefect's own workers use has no acknowledgement; neither has this, for the server keeps events
    in memory for up to 5 s. ``stored`` is what tells.
    """

    def __init__(self, client: SyncPrefectClient) -> None:
        self._client = client

    def send(self, events: Sequence[dict[str, Any]]) -> None:
        """Hand over events.

        Raises:
            PrefectAway: no answer, or a server error. PrefectRefused: they are not acceptable.
        """
        self._ask("/events", list(events))

    def stored(self, ids: Sequence[str]) -> set[str]:
        """Those of the events that are in Prefect's database; at most 50 are asked for.

        Raises:
            PrefectAway: no answer, or a server error.
        """
        if not ids:
            return set()
        page = self._ask("/events/filter", {"filter": {"id": {"id": list(ids[:PAGE])}}, "limit": PAGE}).json()
        return {str(event["id"]) for event in page["events"]}

    def _ask(self, path: Any, body: object) -> httpx.Response:
        try:
            return self._client.request("POST", path, json=body)
        except httpx.HTTPStatusError as error:
            status = error.response.status_code
            said = f"Prefect answered {status}: {error.response.text[:300]}"
            if status in _REFUSED:
                raise PrefectRefused(said) from error
            raise PrefectAway(said) from error
        except httpx.HTTPError as error:
            reached = not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
            raise PrefectAway(f"Prefect does not answer: {type(error).__name__} {error}", reached) from error
