"""`trimtab webhook`: orders of the business over HTTP, signed, each taken once, and passed on as Prefect events.

A request is ``POST /orders`` with a JSON object and two headers: ``X-Trimtab-Timestamp``, seconds since the epoch, and
``X-Trimtab-Signature``, ``sha256=`` and the hex HMAC-SHA256 of timestamp, dot and body, with the shared secret.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import httpx
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from prefect.client.orchestration import get_client

from trimtab_flows.automations import resource_of
from trimtab_flows.drift.orders import KINDS, Order, orders_from
from trimtab_flows.drift.values import InvalidRecord

__all__ = ["MAX_BODY", "Refused", "TakenOnce", "application", "event_of", "sign", "verify"]

#: Seconds that the clocks of sender and receiver may differ, the way included.
TOLERANCE_S = 300
#: Bytes of a body.
MAX_BODY = 64 * 1024
#: Bytes of a secret below which it could be guessed.
MIN_SECRET = 16


@dataclass(frozen=True)
class Refused(Exception):
    """A request that is not passed on: an HTTP status, and why."""

    status: int
    why: str


def sign(secret: bytes, timestamp: str, body: bytes) -> str:
    """The signature of a request."""
    return f"sha256={hmac.new(secret, timestamp.encode() + b'.' + body, hashlib.sha256).hexdigest()}"


def verify(secret: bytes, timestamp: str, signature: str, body: bytes, now_s: float, since_s: float) -> None:
    """Refuse what is not signed, too old, or signed before this server was started (it may have been taken before).

    Raises:
        Refused: 401, and why; nothing that would help to guess the secret.
    """
    if not hmac.compare_digest(sign(secret, timestamp, body).encode(), signature.encode("utf-8", "replace")):
        raise Refused(401, "the signature is missing or wrong")
    try:
        sent_s = float(timestamp)
    except ValueError:
        sent_s = math.nan
    if not abs(now_s - sent_s) <= TOLERANCE_S:
        raise Refused(401, f"the timestamp is not within {TOLERANCE_S} s of the server's clock; sign it anew")
    if sent_s < math.floor(since_s):
        raise Refused(401, "it was signed before this server was started; sign it anew")


class TakenOnce:
    """Signatures that were taken, for as long as their timestamps are; safe for several threads."""

    def __init__(self) -> None:
        self._taken: dict[str, float] = {}
        self._lock = threading.Lock()

    def take(self, signature: str, now_s: float) -> None:
        """Raises: Refused: 409, it was taken before."""
        with self._lock:
            self._taken = {each: at for each, at in self._taken.items() if now_s - at <= 2 * TOLERANCE_S}
            if signature in self._taken:
                raise Refused(409, "this request was taken before")
            self._taken[signature] = now_s

    def give_back(self, signature: str) -> None:
        """It was not passed on: it may be sent again."""
        with self._lock:
            self._taken.pop(signature, None)


def event_of(body: bytes, signature: str, now: datetime) -> dict[str, Any]:
    """The Prefect event of an order; the same request has the same id.

    Raises:
        Refused: 422, the body holds no order; the message names the field.
    """
    try:
        found = json.loads(body)
    except ValueError as error:
        raise Refused(422, f"the body is no JSON: {error}") from None
    if not isinstance(found, dict) or not isinstance(found.get("model"), str) or not found["model"]:
        raise Refused(422, "order: field model is missing; it names the registered model")
    fields = {name: value for name, value in found.items() if name != "model"}
    if fields.get("kind") == "withdraw":
        order: Mapping[str, Any] = {"kind": "withdraw", "reason": str(fields.get("reason", ""))}
    else:
        try:
            (checked,) = orders_from([{"issued": now.isoformat(), **fields}])
        except InvalidRecord as error:
            raise Refused(422, f"{error} (kinds: {', '.join(KINDS)}, withdraw)") from None
        assert isinstance(checked, Order)
        order = asdict(checked)
    return {
        "id": str(uuid5(NAMESPACE_URL, f"trimtab.business/{signature}")),
        "occurred": now.isoformat(),
        "event": f"trimtab.business.{order['kind']}",
        "resource": resource_of(found["model"]),
        # Templates of automations fill in what is there: every field is.
        "payload": {"issued": "", "until": "", "reason": "", "source": "", **{k: v or "" for k, v in order.items()}},
    }


def application(
    secret: bytes,
    send: Callable[[dict[str, Any]], Awaitable[None]] | None = None,
    clock: Callable[[], float] = time.time,
) -> FastAPI:
    """The server.

    Args:
        secret: shared with those who may give orders, at least 16 bytes.
        send: passes an event on; to the Prefect server of this process's settings, when not given.
        clock: seconds since the epoch.

    Raises:
        ValueError: the secret is too short.
    """
    if len(secret) < MIN_SECRET:
        raise ValueError(f"the secret has {len(secret)} bytes; it needs {MIN_SECRET} or more")
    app = FastAPI(title="Trimtab orders", docs_url=None, redoc_url=None, openapi_url=None)
    taken, since_s, pass_on = TakenOnce(), clock(), send or _to_prefect

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.post("/orders")
    async def orders(request: Request) -> JSONResponse:
        try:
            body = await _body(request)
            signature = request.headers.get("x-trimtab-signature", "")
            now_s = clock()
            verify(secret, request.headers.get("x-trimtab-timestamp", ""), signature, body, now_s, since_s)
            event = event_of(body, signature, datetime.fromtimestamp(now_s, UTC))
            taken.take(signature, now_s)
            try:
                await pass_on(event)
            except Exception as error:
                taken.give_back(signature)
                raise Refused(
                    503, f"Prefect does not take events now; send it again ({type(error).__name__})"
                ) from error
        except Refused as refused:
            return JSONResponse({"error": refused.why}, refused.status)
        return JSONResponse({"event": event["event"], "id": event["id"]}, 202)

    return app


async def _body(request: Request) -> bytes:
    """The body, read no further than it may go."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY:
            raise Refused(413, f"the body has more than {MAX_BODY:,} bytes")
    return body


async def _to_prefect(event: dict[str, Any]) -> None:
    async with get_client() as client:
        answer: httpx.Response = await client.request("POST", "/events", json=[event])
        answer.raise_for_status()
