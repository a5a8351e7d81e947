"""The S3 store: the contract of every store, on a real server, and what is its own."""

from __future__ import annotations

import hashlib
import json
import logging
import pickle
import resource
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from prefect.blocks.core import Block
from pydantic import ValidationError

import trimtab_blocks.s3 as module
from blocks.lines import await_line, say
from blocks.s3_server import ACCESS_KEY, BUCKET, SECRET_KEY, S3Server
from blocks.store_suite import StoreSuite
from trimtab_blocks.errors import AccessRefused, CorruptBlob, StoreNotFound, StoreUnavailable, StoreUnreachable
from trimtab_blocks.s3 import S3Store
from trimtab_blocks.s3_claims import Claim, claimed
from trimtab_blocks.s3_requests import Requests
from trimtab_blocks.stores import Store

MIB = 1 << 20
BIG = bytes(range(256)) * (12 * MIB // 256) + b"the rest"


class TestS3Store(StoreSuite):
    @pytest.fixture
    def fresh(self, s3: Callable[..., S3Store]) -> Callable[[], Store]:
        return lambda: s3(part_mib=5)


@pytest.fixture
def store(s3: Callable[..., S3Store]) -> S3Store:
    return s3(part_mib=5)


@pytest.fixture
def plain(s3_server: S3Server) -> Iterator[Any]:
    """Plain boto3, as another program in the bucket."""
    client = s3_server.client()
    yield client
    client.close()


def test_exported_names() -> None:
    assert module.__all__ == ["S3Store"]


def test_is_a_block_that_says_where_it_is() -> None:
    store = S3Store(bucket="data", prefix="/team/a/", endpoint_url="https://s3.example:9000/")
    assert isinstance(store, Block)
    assert S3Store.get_block_type_slug() == "trimtab-s3-store"
    assert str(store) == "S3 store s3://data/team/a at https://s3.example:9000"
    assert str(S3Store(bucket="data")) == "S3 store s3://data"
    assert S3Store(**store.model_dump(mode="json")).prefix == "team/a/"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"access_key_id": "a"}, "come together"),
        ({"session_token": "a"}, "needs its access_key_id"),
        ({"kms_key_id": "a"}, "needs encryption SSE-KMS"),
        ({"kms_key_id": "a", "encryption": "SSE-S3"}, "needs encryption SSE-KMS"),
        ({"endpoint_url": "https://user:word@host"}, "credentials belong in"),
        ({"endpoint_url": "host:9000"}, "must look like"),
        ({"endpoint_url": "https://host/bucket"}, "without a path"),
        ({"prefix": "a//b"}, "empty part"),
        ({"prefix": ".a"}, "begin with a dot"),
        ({"prefix": "x" * 121}, "it may have 120"),
        ({"part_mib": 4}, "greater than or equal to 5"),
        ({"bucket": "ab"}, "at least 3"),
        ({"secret_acess_key": "a"}, "no setting is called secret_acess_key; there are bucket, "),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        S3Store(**{"bucket": "data", **settings})


@pytest.mark.parametrize(
    "settings", [{"secret_access_key": SECRET_KEY}, {"secret_acess_key": SECRET_KEY}, {"bucket": 1}]
)
def test_no_secret_is_in_the_refusal_of_settings(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        S3Store(**{"bucket": "data", "session_token": SECRET_KEY, **settings})
    assert SECRET_KEY not in f"{caught.value} {caught.value!r}"


def test_a_large_blob_goes_both_ways_in_parts(store: S3Store, plain: Any, tmp_path: Path) -> None:
    file = tmp_path / "big"
    file.write_bytes(BIG)
    assert store.write_once("from/file", file) is True
    assert store.write_once("from/bytes", BIG) is True
    assert store.write_once("from/file", file) is False
    for key in ("from/file", "from/bytes"):
        found = plain.head_object(Bucket=BUCKET, Key=f"{store.prefix}{key}")
        assert found["ETag"].endswith('-3"')  # three parts
        assert found["Metadata"]["trimtab-sha256"] == hashlib.sha256(BIG).hexdigest()
        assert store.read(key) == BIG
        with store.local(key) as path:
            assert path.read_bytes() == BIG
        assert not path.exists()


def test_many_writers_of_a_large_blob_have_one_winner(store: S3Store, plain: Any) -> None:
    won: list[tuple[int, int]] = []
    barrier = threading.Barrier(4)

    def write(writer: int) -> None:
        for turn in range(6):
            barrier.wait(timeout=60)
            if store.write_once(f"large/{turn}", bytes([writer]) * 6 * MIB):
                won.append((turn, writer))

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(turn for turn, _ in won) == list(range(6))
    for turn, writer in won:
        assert store.read(f"large/{turn}") == bytes([writer]) * 6 * MIB
    assert store.sweep(timedelta(0)) == 0  # the losers left nothing
    left = plain.list_objects_v2(Bucket=BUCKET, Prefix=f"{store.prefix}.trimtab-claims/")
    assert left.get("KeyCount", 0) == 0


def test_a_claim_waits_for_its_holder_and_outlives_no_dead_one(store: S3Store, plain: Any) -> None:
    claim = Claim(plain, BUCKET, f"{store.prefix}.trimtab-claims/a", life_s=2)
    order: list[str] = []
    with claimed(claim, Requests("cannot write 'a'", 30), "first"):
        waiting = threading.Thread(target=lambda: order.append(hold(claim, "second")))
        waiting.start()
        waiting.join(timeout=0.5)
        order.append("first")
    waiting.join(timeout=30)
    assert order == ["first", "second"]
    plain.put_object(**claim.address, Body=b"dead")
    began = time.monotonic()
    assert hold(claim, "third") == "third"
    assert time.monotonic() - began > 1
    with claimed(claim, Requests("cannot write 'a'", 30), "fourth"), pytest.raises(StoreUnreachable, match="held it"):
        _take_for_a_moment(claim)


def _take_for_a_moment(claim: Claim) -> None:
    impatient = Claim(claim.client, claim.bucket, claim.name, life_s=3)
    keeper = threading.Event()

    def renew() -> None:  # a holder that is alive: its claim never grows old
        while not keeper.wait(0.3):
            claim.client.put_object(**claim.address, Body=b"fourth")

    renewing = threading.Thread(target=renew)
    renewing.start()
    try:
        with claimed(impatient, Requests("cannot write 'a'", 1), "fifth"):
            pass
    finally:
        keeper.set()
        renewing.join()


def hold(claim: Claim, writer: str) -> str:
    with claimed(claim, Requests("cannot write 'a'", 30), writer):
        return writer


def test_of_several_processes_one_wins_each_key(store: S3Store, tmp_path: Path) -> None:
    script = Path(__file__).parent / "racing_writer.py"
    made = {**store.model_dump(mode="json"), "access_key_id": ACCESS_KEY, "secret_access_key": SECRET_KEY}
    racers = [
        subprocess.Popen([sys.executable, script, name, "15"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for name in "xy"
    ]
    try:
        for racer in racers:
            say(racer, json.dumps({"S3Store": made}))
            await_line(racer, "ready")
        for racer in racers:
            say(racer, "go")
        won = [json.loads(racer.communicate(timeout=60)[0]) for racer in racers]
    finally:
        for racer in racers:
            racer.kill()
            racer.communicate()
    assert sorted(won[0] + won[1]) == list(range(15))
    for name, mine in zip("xy", won, strict=True):
        assert all(store.read(f"race/{key}") == name.encode() * 5_000 for key in mine)


def test_lists_more_than_a_page_in_order_of_bytes(store: S3Store, plain: Any) -> None:
    # The server's own order differs: it sorts folder by folder, so that "a/x" comes before "a-b".
    names = [f"n/{number:04}" for number in range(1_050)] + ["a/x", "a-b", "a.b/c", "é", "z"]
    threads = [
        threading.Thread(
            target=lambda share: [plain.put_object(Bucket=BUCKET, Key=f"{store.prefix}{n}", Body=b"") for n in share],
            args=(names[start::4],),
        )
        for start in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(store.keys()) == sorted(names, key=str.encode)
    assert len(list(store.keys("n/0"))) == 1_000


def test_objects_that_are_no_blobs_are_not_listed(store: S3Store, plain: Any) -> None:
    store.write_once("a", b"")
    for name in (".hidden", "folder/", "b/.hidden/c"):
        plain.put_object(Bucket=BUCKET, Key=f"{store.prefix}{name}", Body=b"")
    assert list(store.keys()) == ["a"]


def test_stores_with_other_prefixes_do_not_see_each_other(s3: Callable[..., S3Store]) -> None:
    one, other = s3(), s3()
    one.write_once("a", b"1")
    assert not other.exists("a")
    assert list(other.keys()) == []


def test_sweep_aborts_uploads_that_were_given_up(store: S3Store, plain: Any) -> None:
    for name in ("a", "b"):
        plain.create_multipart_upload(Bucket=BUCKET, Key=f"{store.prefix}{name}")
    assert store.sweep(timedelta(hours=1)) == 0
    assert store.sweep(timedelta(0)) == 2
    assert store.sweep(timedelta(0)) == 0


@pytest.mark.parametrize("size", [1_000, 12 * MIB])
@pytest.mark.parametrize("kept", [True, False], ids=["metadata kept", "metadata lost"])
def test_an_altered_object_is_not_used(store: S3Store, plain: Any, size: int, kept: bool) -> None:
    store.write_once("a", b"x" * size)
    name = {"Bucket": BUCKET, "Key": f"{store.prefix}a"}
    metadata = plain.head_object(**name)["Metadata"] if kept else {}
    plain.put_object(**name, Body=b"x" * (size - 1) + b"y", Metadata=metadata)
    with pytest.raises(CorruptBlob, match="written with" if kept else "another program") as reading:
        store.read("a")
    assert isinstance(reading.value, ValueError)
    assert "restore it" in str(reading.value)
    with pytest.raises(CorruptBlob), store.local("a"):
        pass


@pytest.mark.parametrize("size", [0, 1_000, 11 * MIB])
def test_a_truncated_object_is_not_used(store: S3Store, plain: Any, size: int) -> None:
    store.write_once("a", b"x" * 12 * MIB)
    name = {"Bucket": BUCKET, "Key": f"{store.prefix}a"}
    plain.put_object(**name, Body=b"x" * size, Metadata=plain.head_object(**name)["Metadata"])
    with pytest.raises(CorruptBlob, match="SHA-256"):
        store.read("a")


def test_a_key_that_is_the_beginning_of_another(store: S3Store) -> None:
    # This server has folders underneath, and says "taken"; Amazon's takes both keys.
    store.write_once("a/b", b"")
    with pytest.raises(StoreUnavailable, match="beginning of other keys"):
        store.write_once("a", b"x")
    assert list(store.keys()) == ["a/b"]


def test_a_wrong_bucket_is_named_whatever_is_asked(s3: Callable[..., S3Store], tmp_path: Path) -> None:
    store = s3(bucket="no-such-bucket")
    questions: list[Callable[[], object]] = [
        *(lambda: store.read("a"), lambda: store.exists("a"), lambda: store.size("a"), lambda: list(store.keys())),
        *(lambda: store.write_once("a", b""), lambda: store.sweep(timedelta(0)), lambda: store.local("a").__enter__()),
    ]
    for question in questions:
        with pytest.raises(StoreNotFound, match="correct `bucket`") as caught:
            question()
        assert "s3://no-such-bucket/" in str(caught.value)
        assert isinstance(caught.value, LookupError | OSError)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"secret_access_key": "wrong"}, "not the one of this"),
        ({"access_key_id": "nobody"}, "does not know this access"),
    ],
)
def test_wrong_credentials_are_said_whatever_is_asked(
    s3: Callable[..., S3Store], settings: dict[str, str], said: str
) -> None:
    store = s3(**settings)
    questions: list[Callable[[], object]] = [
        *(lambda: store.read("a"), lambda: store.exists("a"), lambda: list(store.keys())),
        lambda: store.write_once("a", b""),
    ]
    for question in questions:
        with pytest.raises(AccessRefused, match=said) as caught:
            question()
        assert isinstance(caught.value, PermissionError)


def test_no_credentials_at_all(s3: Callable[..., S3Store], tmp_path: Path) -> None:
    store = s3()
    settings = {"bucket": store.bucket, "endpoint_url": store.endpoint_url, "region": "us-east-1"}
    code = f"from trimtab_blocks.s3 import S3Store; S3Store(**{settings!r}).exists('a')"
    none = {"HOME": str(tmp_path), "AWS_EC2_METADATA_DISABLED": "true", "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=none, capture_output=True, text=True, timeout=60)
    assert "AccessRefused: cannot look for 'a'" in done.stderr
    assert "standard chain: AWS_ACCESS_KEY_ID" in done.stderr


def test_credentials_by_the_standard_chain(s3: Callable[..., S3Store], tmp_path: Path) -> None:
    store = s3()
    settings = {"bucket": store.bucket, "endpoint_url": store.endpoint_url, "prefix": store.prefix}
    code = f"from trimtab_blocks.s3 import S3Store; print(S3Store(**{settings!r}).write_once('a', b'x'))"
    some = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY, "AWS_REGION": "us-east-1"}
    own = {"HOME": str(tmp_path), "PYTHONPATH": ":".join(sys.path), **some}
    done = subprocess.run([sys.executable, "-c", code], env=own, capture_output=True, text=True, timeout=60)
    assert done.stdout == "True\n", done.stderr
    assert store.read("a") == b"x"


def test_encryption_at_rest_is_asked_for(s3: Callable[..., S3Store], plain: Any) -> None:
    store = s3(encryption="SSE-S3", part_mib=5)
    for key, data in (("small", b"x"), ("large", BIG)):
        store.write_once(key, data)
        assert plain.head_object(Bucket=BUCKET, Key=f"{store.prefix}{key}")["ServerSideEncryption"] == "AES256"
        assert store.read(key) == data


def test_secrets_are_shown_nowhere(s3: Callable[..., S3Store], caplog: pytest.LogCaptureFixture) -> None:
    token = "planted-session-token-51c0"
    right, wrong = s3(), s3(session_token=token, secret_access_key="planted-wrong-8842", patience_s=0)
    away = s3(session_token=token, endpoint_url="http://127.0.0.1:9", patience_s=0)
    shown = [f"{store!r} {store} {store.model_dump()} {store.model_dump_json()}" for store in (right, wrong, away)]
    with caplog.at_level(logging.DEBUG):
        right.write_once("a", b"x")
        right.read("a")
        for store in (wrong, away):
            with pytest.raises(StoreUnavailable) as caught:
                store.read("a")
            shown += traceback.format_exception(caught.value)
    everything = "\n".join([*shown, caplog.text])
    for secret in (SECRET_KEY, "planted-wrong-8842", token):
        assert secret not in everything


def test_can_be_sent_to_another_process(store: S3Store) -> None:
    store.write_once("a", b"x")
    assert pickle.loads(pickle.dumps(store)).read("a") == b"x"


def test_an_unreachable_server_is_said_after_its_time(caplog: pytest.LogCaptureFixture) -> None:
    store = S3Store(
        bucket="data", endpoint_url="http://127.0.0.1:9", access_key_id="a", secret_access_key="b", patience_s=0.5
    )
    with caplog.at_level(logging.WARNING), pytest.raises(StoreUnreachable, match=r"within 0.5 s") as caught:
        store.read("a")
    assert isinstance(caught.value, ConnectionError)
    (shown,) = [record.getMessage() for record in caplog.records if "trying again" in record.getMessage()]
    assert shown.startswith("cannot read 'a' in S3 store s3://data at http://127.0.0.1:9 for now: ")
    assert shown.endswith("trying again for up to 0.5 s")


def test_a_disk_that_is_full_is_said_at_once_and_not_of_the_server(store: S3Store, tmp_path: Path) -> None:
    store.write_once("a", BIG)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    asked, signal_before = time.monotonic(), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (6 * MIB, before[1]))
        with (tmp_path / "copy").open("w+b") as file, pytest.raises(StoreUnavailable) as caught:
            store.fill("a", file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, signal_before)
    assert str(caught.value) == "cannot keep a copy of 'a' on this machine: File too large"
    assert time.monotonic() - asked < 10
