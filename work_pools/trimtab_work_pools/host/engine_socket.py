"""Has a run's container stand still, for the guard of a host: over the engine's socket, with nothing but the standard
library, since the guard has to be small. Workers talk to the engine by `worker.containers`.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
from urllib.parse import quote, urlsplit

__all__ = ["pause", "state"]

_LABEL = "trimtab.claim-id"
_SOCKET = "/var/run/docker.sock"
_WITHIN_S = 10.0
_DONE = (204, 304, 409)
"""Paused now, or it was, or has ended meanwhile."""


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_WITHIN_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(_WITHIN_S)
        self.sock.connect(self._path)


def state(claim_id: str) -> str:
    """Of the container of this claim, as the engine calls it ("running", "paused" ...); "" if there is none.

    Raises OSError if no engine answers.
    """
    return _find(claim_id)[1]


def pause(claim_id: str) -> None:
    """`docker pause`. Nothing if there is no such container. Raises OSError if no engine does it."""
    container, now = _find(claim_id)
    if now in ("running", "restarting"):
        status, text = _ask("POST", f"/containers/{container}/pause")
        if status not in _DONE:
            raise OSError(f"the engine says {status}: {text[:200]!r}")


def _find(claim_id: str) -> tuple[str, str]:
    filters = quote(json.dumps({"label": [f"{_LABEL}={claim_id}"]}))
    status, text = _ask("GET", f"/containers/json?all=true&filters={filters}")
    if status != http.client.OK:
        raise OSError(f"the engine says {status}: {text[:200]!r}")
    found = json.loads(text)
    return (str(found[0]["Id"]), str(found[0]["State"])) if found else ("", "")


def _ask(method: str, path: str) -> tuple[int, bytes]:
    connection = _connection()
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.read()
    except http.client.HTTPException as error:
        raise OSError(f"no engine answers: {error!r}") from error
    finally:
        connection.close()


def _connection() -> http.client.HTTPConnection:
    parts = urlsplit(os.environ.get("DOCKER_HOST", "") or f"unix://{_SOCKET}")
    if parts.scheme == "unix":
        return _Connection(parts.path)
    return http.client.HTTPConnection(parts.hostname or "localhost", parts.port or 2375, timeout=_WITHIN_S)
