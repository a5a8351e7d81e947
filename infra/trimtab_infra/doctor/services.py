"""Whether the servers answer, are the right version, let this user write, and agree on the time."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from trimtab_infra.doctor.findings import Finding, fault, fine, note

__all__ = ["apart_s", "clock", "mlflow", "prefect", "store"]

_TIMEOUT_S = 5.0

#: Seconds that clocks may be apart: leases and advertisements of workers last 30 to 60; S3 refuses requests at 900.
_APART_S, _FAR_APART_S = 5.0, 30.0


class _Wrong(Exception):
    """Nothing more can be asked; ``finding`` says why."""

    def __init__(self, part: str, seen: str, todo: str) -> None:
        super().__init__(seen)
        self.finding = fault(part, seen, todo)


def prefect(api_url: str, auth: str | None, version: str) -> Iterator[Finding]:
    """The Prefect API: a variable is written and deleted.

    Args:
        api_url: ends in /api.
        auth: ``user:password`` of the API, if it has one.
        version: of the client.
    """
    user = httpx.BasicAuth(*auth.partition(":")[::2]) if auth else None
    hints = {
        401: "set PREFECT_API_AUTH_STRING",
        403: "set PREFECT_API_AUTH_STRING",
        404: "PREFECT_API_URL ends in /api",
    }
    with httpx.Client(base_url=api_url, timeout=_TIMEOUT_S, auth=user) as client:
        try:
            answer = _ask(client, "prefect", "GET", "/admin/version", hints, "correct PREFECT_API_URL")
            yield from clock("prefect", answer)
            yield from _same_version("prefect", str(answer.json()), version)
            name = f"trimtab_doctor_{uuid.uuid4().hex[:8]}"
            content = {"name": name, "value": "written by trimtab doctor"}
            _ask(client, "prefect", "POST", "/variables/", hints, "look at its log and its database", content)
            _ask(client, "prefect", "DELETE", f"/variables/name/{name}", hints, "look at its log and its database")
            yield fine("prefect", f"{answer.json()} at {api_url}, we may write")
        except _Wrong as wrong:
            yield wrong.finding


def mlflow(uri: str, auth: tuple[str, str] | None, version: str) -> Iterator[Finding]:
    """The MLflow server: a registered model is made and deleted."""
    login = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
    hints, models = {401: login, 403: login}, "/api/2.0/mlflow/registered-models"
    with httpx.Client(base_url=uri, timeout=_TIMEOUT_S, auth=auth) as client:
        try:
            answer = _ask(client, "mlflow", "GET", "/version", hints, "correct its address (trimtab setup)")
            yield from clock("mlflow", answer)
            yield from _same_version("mlflow", answer.text.strip(), version)
            content = {"name": f"trimtab-doctor-{uuid.uuid4().hex[:8]}"}
            _ask(client, "mlflow", "POST", f"{models}/create", hints, "look at its log and its database", content)
            _ask(client, "mlflow", "DELETE", f"{models}/delete", hints, "look at its log and its database", content)
            yield fine("mlflow", f"{answer.text.strip()} at {uri}, we may write")
        except _Wrong as wrong:
            yield wrong.finding


def store(found: Any) -> Iterator[Finding]:
    """The store: a blob is written, read back and removed.

    Args:
        found: a ``Store``.
    """
    from trimtab_blocks.errors import AccessRefused, StoreError

    if hasattr(found, "patience_s"):
        found = found.model_copy(update={"patience_s": _TIMEOUT_S, "connect_timeout_s": _TIMEOUT_S})
    key, content = f"doctor/{uuid.uuid4().hex}", uuid.uuid4().bytes
    try:
        found.write_once(key, content)
        if found.read(key) != content:
            yield fault("store", f"{found} gives back something else than was written", "use another server or disk")
            return
    except StoreError as error:
        yield fault("store", str(error), "see blocks/STORES.md, What an error means")
        return
    try:
        found.remove(key)
    except AccessRefused:
        yield note("store", f"{found}: {key} cannot be removed", "only garbage collection needs that right")
    yield fine("store", f"{found}, we may write")


def clock(part: str, answer: httpx.Response) -> Iterator[Finding]:
    """How far this machine's clock is from a server's, by the ``Date`` of its answer."""
    date = answer.headers.get("Date")
    if date is None:
        return
    apart = apart_s(parsedate_to_datetime(date).timestamp(), time.time(), answer.elapsed.total_seconds())
    if apart > _FAR_APART_S:
        yield fault("clock", f"{apart:.0f} s from that of {part}", "set the clocks by NTP (timedatectl set-ntp true)")
    elif apart > _APART_S:
        yield note("clock", f"{apart:.0f} s from that of {part}", "set the clocks by NTP")
    else:
        yield fine("clock", f"less than {_APART_S:.0f} s from that of {part}")


def apart_s(server_s: float, here_s: float, took_s: float) -> float:
    """Seconds two clocks are surely apart: the server wrote a whole second, some time while it was asked."""
    return max(0.0, server_s - here_s, here_s - took_s - (server_s + 1))


def _ask(
    client: httpx.Client,
    part: str,
    method: str,
    path: str,
    hints: Mapping[int, str],
    otherwise: str,
    content: object = None,
) -> httpx.Response:
    """An answer of 2xx; else _Wrong, with the hint of its status, or with what to do otherwise."""
    try:
        answer = client.request(method, path, json=content)
    except httpx.TransportError as error:
        why = str(error) or type(error).__name__
        raise _Wrong(part, f"no answer from {client.base_url} ({why})", f"start it, or {otherwise}") from None
    if not answer.is_success:
        seen = f"{method} {answer.url} is answered with {answer.status_code}"
        raise _Wrong(part, seen, hints.get(answer.status_code, otherwise))
    return answer


def _same_version(part: str, theirs: str, ours: str) -> Iterator[Finding]:
    if theirs.split(".")[:2] != ours.split(".")[:2]:
        yield fault(part, f"server {theirs}, client {ours}", "use the same minor version on both sides")
