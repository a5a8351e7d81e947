"""Orders over HTTP: signed, fresh, taken once, checked; and one through the command line to a real Prefect server."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from trimtab_infra.act.webhook import MAX_BODY, application, sign

SECRET = b"a secret of these tests"
ORDER = {"model": "flights", "kind": "force", "reason": "new routes"}


class Clock:
    now_s = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now_s


class TestClient:
    """Asks the application itself, in this process."""

    __test__ = False

    def __init__(self, app: FastAPI) -> None:
        self._transport = httpx.ASGITransport(app)

    def post(self, path: str, content: bytes, headers: dict[str, Any]) -> httpx.Response:
        async def ask() -> httpx.Response:
            async with httpx.AsyncClient(transport=self._transport, base_url="http://test") as client:
                return await client.post(path, content=content, headers=headers)

        return asyncio.run(ask())


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sent() -> list[dict[str, Any]]:
    return []


@pytest.fixture
def client(clock: Clock, sent: list[dict[str, Any]]) -> TestClient:
    async def send(event: dict[str, Any]) -> None:
        sent.append(event)

    return TestClient(application(SECRET, send, clock))


def headers(body: bytes, at_s: float, secret: bytes = SECRET) -> dict[str, str]:
    timestamp = str(int(at_s))
    return {"X-Trimtab-Timestamp": timestamp, "X-Trimtab-Signature": sign(secret, timestamp, body)}


def post(client: Any, body: bytes, at_s: float, secret: bytes = SECRET) -> httpx.Response:
    return client.post("/orders", content=body, headers=headers(body, at_s, secret))


def test_a_signed_order_becomes_an_event(client: TestClient, clock: Clock, sent: list[dict[str, Any]]):
    answer = post(client, json.dumps(ORDER).encode(), clock.now_s)
    assert answer.status_code == 202
    (event,) = sent
    assert event["event"] == "trimtab.business.force"
    assert event["resource"]["prefect.resource.id"] == "trimtab.model.flights"
    assert event["payload"]["reason"] == "new routes"
    assert event["payload"]["until"] == ""
    assert answer.json() == {"event": event["event"], "id": event["id"]}


def test_an_order_is_taken_once(client: TestClient, clock: Clock, sent: list[dict[str, Any]]):
    body = json.dumps(ORDER).encode()
    assert post(client, body, clock.now_s).status_code == 202
    clock.now_s += 299
    again = post(client, body, clock.now_s - 299)
    assert (again.status_code, again.json()["error"]) == (409, "this request was taken before")
    assert post(client, body, clock.now_s).status_code == 202
    assert len({event["id"] for event in sent}) == len(sent) == 2


@pytest.mark.parametrize("off_s", [-301, 301])
def test_an_old_or_future_timestamp_is_refused(client: TestClient, clock: Clock, off_s: float):
    clock.now_s += 1000
    answer = post(client, json.dumps(ORDER).encode(), clock.now_s + off_s)
    assert (answer.status_code, "within 300 s" in answer.json()["error"]) == (401, True)


def test_what_was_signed_before_the_start_is_refused_for_it_may_have_been_taken(client: TestClient, clock: Clock):
    answer = post(client, json.dumps(ORDER).encode(), clock.now_s - 5)
    assert (answer.status_code, "before this server was started" in answer.json()["error"]) == (401, True)


def test_a_wrong_signature_is_refused_whatever_is_wrong(client: TestClient, clock: Clock, sent: list[dict[str, Any]]):
    body = json.dumps(ORDER).encode()
    right = headers(body, clock.now_s)
    for wrong in (
        headers(body, clock.now_s, b"another secret of 16"),
        {**right, "X-Trimtab-Timestamp": str(int(clock.now_s) + 1)},
        {**right, "X-Trimtab-Signature": ""},
        {**right, "X-Trimtab-Signature": "sha256=\u00e4".encode()},
        {},
    ):
        answer = client.post("/orders", content=body, headers=wrong)
        assert (answer.status_code, answer.json()) == (401, {"error": "the signature is missing or wrong"})
    assert client.post("/orders", content=body + b" ", headers=right).status_code == 401
    nan = {"X-Trimtab-Timestamp": "nan", "X-Trimtab-Signature": sign(SECRET, "nan", body)}
    assert client.post("/orders", content=body, headers=nan).status_code == 401
    assert sent == []


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("no json", "the body is no JSON"),
        ("[]", "field model is missing"),
        ({"kind": "force"}, "field model is missing"),
        ({"model": "m", "kind": "stop"}, "field kind is 'stop'"),
        ({"model": "m", "kind": "postpone"}, "field until is missing"),
        ({"model": "m", "kind": "postpone", "until": "soon"}, "field until is 'soon'"),
        ({"model": "m", "kind": "force", "colour": 1}, "no field colour"),
        ({"model": "m"}, "kind"),
    ],
)
def test_what_is_no_order_is_refused_by_field_and_may_be_mended(client: TestClient, clock: Clock, body: Any, said: str):
    text = (body if isinstance(body, str) else json.dumps(body)).encode()
    answer = post(client, text, clock.now_s)
    assert answer.status_code == 422
    assert said in answer.json()["error"]


def test_a_large_body_is_not_read(client: TestClient, clock: Clock):
    assert post(client, b"x" * (MAX_BODY + 1), clock.now_s).status_code == 413


def test_what_prefect_did_not_take_may_be_sent_again(clock: Clock):
    sent: list[dict[str, Any]] = []

    async def flaky(event: dict[str, Any]) -> None:
        sent.append(event)
        if len(sent) == 1:
            raise httpx.ConnectError("away")

    client, body = TestClient(application(SECRET, flaky, clock)), json.dumps(ORDER).encode()
    assert [post(client, body, clock.now_s).status_code for _ in range(3)] == [503, 202, 409]
    assert sent[0]["id"] == sent[1]["id"]


def test_a_short_secret_is_refused():
    with pytest.raises(ValueError, match="it needs 16 or more"):
        application(b"short")


def test_without_a_secret_the_command_says_what_is_missing(outside: dict[str, str]):
    done = subprocess.run(
        [sys.executable, "-m", "trimtab_infra", "webhook"], env=outside, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "TRIMTAB_WEBHOOK_SECRET is not set" in done.stderr


@contextmanager
def command(**variables: str) -> Iterator[str]:
    """The command, as its users start it; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "trimtab_infra", "webhook", "--port", str(port)],
        env={**os.environ, "TRIMTAB_WEBHOOK_SECRET": SECRET.decode(), **variables},
    )
    address = f"http://127.0.0.1:{port}"
    end = time.monotonic() + 60
    while True:
        try:
            httpx.get(f"{address}/health", timeout=5).raise_for_status()
            break
        except httpx.TransportError:
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.1)
    yield address
    process.terminate()
    process.wait(20)


@pytest.fixture
def server(environment: dict[str, str]) -> Iterator[str]:
    with command() as address:
        yield address


def test_while_prefect_is_slow_others_are_answered(outside: dict[str, str]) -> None:
    """A Prefect server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent, ThreadPoolExecutor(1) as threads:
        with command(PREFECT_API_URL=f"http://127.0.0.1:{silent.getsockname()[1]}/api") as address:
            body = json.dumps(ORDER).encode()
            ahead = headers(body, time.time() + 1)
            order = threads.submit(httpx.post, f"{address}/orders", content=body, headers=ahead, timeout=60)
            asking, _ = silent.accept()
            with asking:
                assert httpx.get(f"{address}/health", timeout=5).json() == {"status": "ok"}
                assert httpx.post(f"{address}/orders", content=b"{}", timeout=5).status_code == 401
                assert not order.done()
        # Stopped, it waits 5 s for Prefect and no longer; who sent the order knows that it was not taken.
        assert isinstance(order.exception(30), httpx.TransportError) or order.result().status_code >= 500


def test_an_order_reaches_a_real_prefect_server(server: str):
    body = json.dumps({**ORDER, "model": "webhook-test"}).encode()
    answer = httpx.post(f"{server}/orders", content=body, headers=headers(body, time.time() + 1), timeout=20)
    assert answer.status_code == 202, answer.text
    asked = {
        "filter": {"event": {"name": ["trimtab.business.force"]}, "resource": {"id": ["trimtab.model.webhook-test"]}}
    }
    end = time.monotonic() + 30
    while not (events := httpx.post(f"{os.environ['PREFECT_API_URL']}/events/filter", json=asked).json()["events"]):
        assert time.monotonic() < end
        time.sleep(0.2)
    assert [event["id"] for event in events] == [answer.json()["id"]]
