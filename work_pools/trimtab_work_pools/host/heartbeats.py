"""Asks the Prefect server for the last heartbeat of a run, as its peers do before they count it as lost.

With nothing but the standard library: the guard of a host has to be small.
"""

from __future__ import annotations

import http.client
import json
import ssl
import urllib.request
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime

__all__ = ["Heartbeats", "ServerAccess", "last_beat_s"]

_WITHIN_S = 10.0


@dataclass(frozen=True, slots=True)
class ServerAccess:
    """How a Prefect server is asked. `api`: its address; `headers`: with the credentials; `cafile`: of the certificates
    that are trusted ("": the system's), none are looked at where it is not `verified`.
    """

    api: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    cafile: str = ""
    verified: bool = True


def last_beat_s(access: ServerAccess, run_id: str, since_s: float) -> float | None:
    """Seconds since the epoch of the last heartbeat of a run since then; None if there is none.

    Raises OSError where the server does not answer. May block for long: a name server may not answer either.
    """
    wanted = {
        "event": {"name": ["prefect.flow-run.heartbeat"]},
        "resource": {"id": [f"prefect.flow-run.{run_id}"]},
        "occurred": {"since": datetime.fromtimestamp(since_s, UTC).isoformat()},
        "order": "DESC",
    }
    request = urllib.request.Request(
        f"{access.api}/events/filter",
        json.dumps({"filter": wanted, "limit": 1}).encode(),
        {"Content-Type": "application/json", **access.headers},
    )
    try:
        with urllib.request.urlopen(request, timeout=_WITHIN_S, context=_context(access)) as response:
            events = json.load(response)["events"]
        return datetime.fromisoformat(events[0]["occurred"]).timestamp() if events else None
    except (http.client.HTTPException, ValueError, LookupError, TypeError) as error:
        raise OSError(f"no answer of a Prefect server: {error!r}") from error


class Heartbeats:
    """Of runs of one server; asked in the background, for a server that is away may take its time to say so."""

    def __init__(self, access: ServerAccess) -> None:
        self._access = access
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="heartbeats")
        self._asked: dict[str, Future[float | None]] = {}
        self._beats_s: dict[str, float] = {}

    def last_s(self, run_id: str) -> float | None:
        """As `last_beat_s`, as far as it is known by now."""
        asked = self._asked.get(run_id)
        if asked is not None and asked.done():
            del self._asked[run_id]
            if asked.exception() is None and (beat_s := asked.result()) is not None:
                self._beats_s[run_id] = beat_s
        return self._beats_s.get(run_id)

    def ask(self, server: str, run_id: str, since_s: float) -> None:
        """Anew, unless that goes on already, or the run is of another server."""
        if server.rstrip("/") == self._access.api and run_id not in self._asked:
            self._asked[run_id] = self._thread.submit(last_beat_s, self._access, run_id, since_s)


def _context(access: ServerAccess) -> ssl.SSLContext | None:
    if not access.api.startswith("https:"):
        return None
    context = ssl.create_default_context(cafile=access.cafile or None)
    if not access.verified:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
