"""The S3 store while the network cuts, the server hangs, is overloaded, dies, or cannot be trusted: real sockets."""

from __future__ import annotations

import logging
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import botocore.auth
import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.runtime import flow_run

from blocks.s3_server import BUCKET, HOST, S3Server, free_ports
from blocks.tcp_proxy import Fault, Proxy, http, s3_error
from trimtab_blocks.errors import (
    AccessRefused,
    BlobNotFound,
    ClockSkew,
    CorruptBlob,
    NoConditionalWrites,
    StoreUnavailable,
    StoreUnreachable,
)
from trimtab_blocks.s3 import S3Store

MIB = 1 << 20
BUSY = s3_error("503 Slow Down", "SlowDown", "Please reduce your request rate.")


@pytest.fixture
def proxy(s3_server: S3Server) -> Iterator[Proxy]:
    with Proxy(s3_server.port) as passing:
        yield passing


@pytest.fixture
def store(s3: Callable[..., S3Store], proxy: Proxy) -> S3Store:
    """A store behind the proxy, warmed up: what it asks once a process has been asked."""
    made = s3(endpoint_url=proxy.url, part_mib=5, read_timeout_s=1, connect_timeout_s=1)
    made.write_once("warm", b"up" * 3 * MIB)
    assert made.exists("warm")
    return made


def test_a_busy_server_is_waited_for_and_the_wait_is_shown_once(
    store: S3Store, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    proxy.fail(Fault(answer=BUSY))
    healing = threading.Timer(2.0, proxy.heal)
    healing.start()
    began = time.monotonic()
    with caplog.at_level(logging.WARNING):
        assert store.write_once("a", b"x" * 12 * MIB) is True
    healing.join()
    assert time.monotonic() - began >= 2.0
    shown = [record.getMessage() for record in caplog.records]
    assert len(shown) == 1
    assert f"cannot write 'a' in {store} for now: the server answers 503" in shown[0]
    assert "trying again for up to 30 s" in shown[0]
    assert store.read("a") == b"x" * 12 * MIB


def test_a_server_that_stays_busy_is_given_up(store: S3Store, proxy: Proxy) -> None:
    impatient = store.model_copy(update={"patience_s": 1.0})
    proxy.fail(Fault(answer=BUSY))
    asked = len(proxy.requests)
    with pytest.raises(StoreUnreachable, match="no success within 1 s: the server answers 503 SlowDown: Please reduce"):
        impatient.read("warm")
    assert len(proxy.requests) - asked >= 3


def test_a_server_that_hangs_is_asked_again(store: S3Store, proxy: Proxy, caplog: pytest.LogCaptureFixture) -> None:
    proxy.fail(Fault(hang=True), times=2)
    with caplog.at_level(logging.WARNING):
        assert store.read("warm") == b"up" * 3 * MIB
    assert "Read timeout" in caplog.text


def test_a_server_that_keeps_hanging_is_given_up(store: S3Store, proxy: Proxy) -> None:
    impatient = store.model_copy(update={"patience_s": 0.5})
    proxy.fail(Fault(hang=True))
    with pytest.raises(StoreUnreachable, match="Read timeout"):
        impatient.size("warm")


@pytest.mark.parametrize("cut_after", [1, 300, 1_000, 100_000])
def test_an_answer_that_breaks_off_is_asked_for_again(store: S3Store, proxy: Proxy, cut_after: int) -> None:
    proxy.fail(Fault(cut_after=cut_after), times=2)
    assert store.read("warm") == b"up" * 3 * MIB
    proxy.fail(Fault(cut_after=cut_after), times=2)
    with store.local("warm") as path:
        assert path.read_bytes() == b"up" * 3 * MIB


def test_an_answer_that_always_breaks_off_is_no_blob(store: S3Store, proxy: Proxy) -> None:
    impatient = store.model_copy(update={"patience_s": 0.5})
    proxy.fail(Fault(cut_after=100_000))
    with pytest.raises(StoreUnreachable):
        impatient.read("warm")


@pytest.mark.parametrize("size", [100_000, 6 * MIB])
def test_a_bit_that_flips_on_its_way_here_is_noticed(store: S3Store, proxy: Proxy, size: int) -> None:
    store.write_once("a", b"x" * size)
    proxy.fail(Fault(flip_at=50_000), times=1)
    assert store.read("a") == b"x" * size  # the second look
    proxy.fail(Fault(flip_at=50_000))
    with pytest.raises(CorruptBlob, match=r"written with|checksum"):
        store.read("a")


@pytest.mark.parametrize("size", [1_000, 6 * MIB])
def test_a_write_whose_answer_is_lost_knows_its_own_work(store: S3Store, proxy: Proxy, size: int) -> None:
    # The server stores the object and nobody learns of it; asked again it says "taken". Once for each request of the
    # write: the answer that is lost may be that of the last, which makes the object visible.
    for lost in range(1, 5):
        proxy.fail(Fault(cut_after=0), times=lost)
        assert store.write_once(f"a{lost}", b"x" * size) is True
        assert store.read(f"a{lost}") == b"x" * size


def test_a_write_whose_answer_is_lost_does_not_claim_the_work_of_another(
    store: S3Store, proxy: Proxy, s3_server: S3Server
) -> None:
    direct = store.model_copy(update={"endpoint_url": s3_server.url})
    assert direct.write_once("a", b"other")
    proxy.fail(Fault(cut_after=0), times=1)
    assert store.write_once("a", b"mine") is False
    assert store.read("a") == b"other"


def test_a_file_that_changes_while_it_is_stored_is_not_stored(store: S3Store, proxy: Proxy, tmp_path: Path) -> None:
    file = tmp_path / "source"
    file.write_bytes(b"x" * 12 * MIB)
    slow = store.model_copy(update={"parallel": 1})
    proxy.requests.clear()
    proxy.fail(Fault(answer=BUSY, only=b"/a?uploads"))
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(slow.write_once, "a", file)
        proxy.await_request(b"/a?uploads")  # by then the file was read through once
        file.write_bytes(b"y" * 12 * MIB)
        proxy.heal()
        with pytest.raises(StoreUnavailable, match="was changed while it was being stored"):
            writing.result(timeout=60)
    assert not store.exists("a")


def test_a_wrong_clock_is_said_by_a_real_server(
    s3: Callable[..., S3Store], s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = s3()
    store.write_once("a", b"x")
    right = botocore.auth.get_current_datetime
    late = timedelta(minutes=20)  # botocore asks it for the time that it signs with
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda *args, **more: right(*args, **more) - late)
    for question in (lambda: store.read("a"), lambda: store.exists("a"), lambda: store.write_once("b", b"")):
        with pytest.raises(ClockSkew, match="set this machine's clock, by NTP"):
            question()
    monkeypatch.undo()
    assert store.read("a") == b"x"


@pytest.mark.long
@pytest.mark.timeout(400)
def test_a_server_that_is_busy_for_a_minute_is_waited_for_in_a_flow(
    environment: dict[str, str], s3: Callable[..., S3Store], proxy: Proxy
) -> None:
    store = s3(endpoint_url=proxy.url, part_mib=5, patience_s=120)
    store.write_once("warm", b"up")

    @flow
    def busy() -> str:
        proxy.fail(Fault(answer=BUSY))
        healing = threading.Timer(60, proxy.heal)
        healing.start()
        began = time.monotonic()
        assert store.write_once("a", b"x" * 12 * MIB)
        assert time.monotonic() - began > 59
        healing.join()
        return str(flow_run.get_id())

    run_id = busy()
    assert store.read("a") == b"x" * 12 * MIB
    assert list(store.keys()) == ["a", "warm"]
    asked = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run_id]))
    deadline = time.monotonic() + 30
    shown: list[str] = []
    with get_client(sync_client=True) as client:
        while not shown and time.monotonic() < deadline:  # logs are sent in the background
            shown = [log.message for log in client.read_logs(asked) if "for now: the server answers 503" in log.message]
    assert len(shown) == 1
    assert "trying again for up to 120 s" in shown[0]


def parts_of(plain: Any, name: str) -> int:
    """Parts of an object that are on the server while it is being written."""
    begun = plain.list_multipart_uploads(Bucket=BUCKET, Prefix=name).get("Uploads", ())
    ids = [upload["UploadId"] for upload in begun if upload["Key"] == name]
    return sum(len(plain.list_parts(Bucket=BUCKET, Key=name, UploadId=each).get("Parts", ())) for each in ids)


@pytest.mark.timeout(300)  # this server may take a minute to find itself again
def test_a_killed_server_that_comes_back_gets_the_rest_of_the_same_write(
    runs_s3: None, tmp_path: Path, s3: Callable[..., S3Store]
) -> None:
    server = S3Server(tmp_path / "s3")
    server.start()
    try:
        store = s3(endpoint_url=server.url, part_mib=5, parallel=1, read_timeout_s=5, patience_s=150)
        data = bytes(range(256)) * (60 * MIB // 256)
        plain = server.client()
        with ThreadPoolExecutor(1) as pool:
            writing = pool.submit(store.write_once, "a", data)
            while parts_of(plain, f"{store.prefix}a") < 2:
                assert not writing.done()
            server.kill()
            assert not writing.done()
            server.start()
            assert writing.result(timeout=240) is True
        assert store.read("a") == data
        assert list(store.keys()) == ["a"]
        plain.close()
    finally:
        server.stop()


@pytest.fixture
def pretender() -> Iterator[Proxy]:
    """No server at all: each test says what it answers."""
    with Proxy(1) as alone:
        yield alone


def test_a_server_that_overwrites_is_refused_at_the_first_write(pretender: Proxy, s3: Callable[..., S3Store]) -> None:
    pretender.fail(Fault(answer=http("200 OK", "", 'ETag: "0"')))
    store = s3(endpoint_url=pretender.url)
    with pytest.raises(NoConditionalWrites, match="does not honour conditional writes"):
        store.write_once("a", b"x")
    assert all(b"/.trimtab-conditional-writes HTTP" in request for request in pretender.requests)  # nothing of ours


def test_a_server_that_knows_no_conditions_is_refused(pretender: Proxy, s3: Callable[..., S3Store]) -> None:
    pretender.fail(Fault(answer=s3_error("501 Not Implemented", "NotImplemented", "A header is not implemented.")))
    with pytest.raises(NoConditionalWrites):
        s3(endpoint_url=pretender.url).write_once("a", b"x")


def test_the_probe_is_made_once_a_process(store: S3Store, proxy: Proxy) -> None:
    asked = len(proxy.requests)
    proxy.cut()  # each connection shows its first request only
    store.write_once("b", b"x")
    assert not any(b".trimtab-conditional-writes" in request for request in proxy.requests[asked:])


@pytest.mark.parametrize(
    ("answer", "kind", "said"),
    [
        (
            s3_error("403 Forbidden", "RequestTimeTooSkewed", "The difference is too large.", "Date: Mon, 01 Jan 2024"),
            ClockSkew,
            r"the clocks differ too much \(here \w+, .* GMT, the server Mon, 01 Jan 2024\): set this machine's clock",
        ),
        (s3_error("403 Forbidden", "AccessDenied", "Access Denied"), AccessRefused, "they need s3:GetObject"),
        (s3_error("400 Bad Request", "ExpiredToken", "The token has expired."), AccessRefused, "get new credentials"),
        (
            s3_error("301 Moved", "PermanentRedirect", "Elsewhere.", "x-amz-bucket-region: eu-west-1"),
            StoreUnavailable,
            "another region, eu-west-1: set `region`",
        ),
        (s3_error("400 Bad Request", "KMS.DisabledException", "Off."), AccessRefused, "see `kms_key_id`"),
        (s3_error("418 Odd", "Teapot", "No coffee."), StoreUnavailable, "the server answers 418 Teapot: No coffee."),
    ],
)
def test_what_an_answer_means_is_said(
    pretender: Proxy, s3: Callable[..., S3Store], answer: bytes, kind: type[Exception], said: str
) -> None:
    pretender.fail(Fault(answer=answer))
    store = s3(endpoint_url=pretender.url, patience_s=0)
    for question in (lambda: store.read("a"), lambda: store.exists("a"), lambda: store.write_once("a", b"")):
        with pytest.raises(kind, match=said) as caught:
            question()
        assert type(caught.value) is kind
        assert re.match(r"cannot \w+( for)? 'a' in S3 store s3://", str(caught.value))


def test_encryption_with_a_key_is_asked_for(pretender: Proxy, s3: Callable[..., S3Store]) -> None:
    # The real server of these tests has no keys; what is asked of it is all there is to see.
    store = s3(endpoint_url=pretender.url, encryption="SSE-KMS", kms_key_id="key-1", patience_s=0)
    pretender.fail(Fault(answer=s3_error("412 Precondition Failed", "PreconditionFailed", "Taken.")))
    with pytest.raises(StoreUnavailable):
        store.write_once("a", b"x")
    (put,) = {request.split(b" HTTP")[0] for request in pretender.requests if b"aws:kms" in request}
    assert put.endswith(b"/a")
    assert any(b"x-amz-server-side-encryption-aws-kms-key-id: key-1" in request for request in pretender.requests)


CONFIG = """{"identities": [
 {"name": "all", "credentials": [{"accessKey": "all", "secretKey": "all-secret"}],
  "actions": ["Admin", "Read", "Write", "List", "Tagging"]},
 {"name": "reader", "credentials": [{"accessKey": "reader", "secretKey": "reader-secret"}], "actions": ["Read", "List"]}
]}"""


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for this machine that no authority signed, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    made, key = folder / "own.crt", folder / "own.key"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", f"subjectAltName=IP:{HOST}", "-keyout", str(key), "-out", str(made)),
        ],
        check=True,
        capture_output=True,
    )
    return made, key


@pytest.fixture(scope="module")
def guarded(
    runs_s3: None, certificate: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[S3Server, str]]:
    """A server with TLS on a second port, and one user who may only read."""
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "config.json").write_text(CONFIG)
    port = free_ports(("https",))["https"]
    tls = (f"-s3.port.https={port}", f"-s3.cert.file={certificate[0]}", f"-s3.key.file={certificate[1]}")
    server = S3Server(folder, extra=(*tls, f"-s3.config={folder / 'config.json'}"))
    server.start()
    yield server, f"https://{HOST}:{port}"
    server.stop()


def test_a_certificate_of_ones_own(
    guarded: tuple[S3Server, str], certificate: tuple[Path, Path], s3: Callable[..., S3Store]
) -> None:
    _, url = guarded
    trusting = s3(endpoint_url=url, ca_bundle=certificate[0])
    assert trusting.write_once("a", b"x" * 20_000_000)
    assert trusting.read("a") == b"x" * 20_000_000
    began = time.monotonic()
    with pytest.raises(StoreUnavailable, match="file in `ca_bundle`"):
        s3(endpoint_url=url).read("a")
    assert time.monotonic() - began < 10  # no wait: asking again changes no certificate


def test_a_user_who_may_only_read(guarded: tuple[S3Server, str], s3: Callable[..., S3Store]) -> None:
    server, _ = guarded
    settings: dict[str, Any] = {"endpoint_url": server.url, "prefix": "shared"}
    s3(**settings).write_once("a", b"x")
    reader = s3(**settings, access_key_id="reader", secret_access_key="reader-secret")
    assert reader.read("a") == b"x"
    assert list(reader.keys()) == ["a"]
    with pytest.raises(BlobNotFound):
        reader.read("b")
    with pytest.raises(AccessRefused, match="they need s3:GetObject, s3:PutObject"):
        reader.write_once("b", b"x")
    with pytest.raises(AccessRefused):
        reader.remove("a")
    assert reader.exists("a")
