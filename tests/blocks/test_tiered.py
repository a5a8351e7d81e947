"""Several stores as one: the contract of every store, and that moving loses nothing at any point."""

from __future__ import annotations

import hashlib
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest

from blocks.s3_server import BUCKET
from blocks.store_suite import StoreSuite
from trimtab_blocks.cache import CachedStore
from trimtab_blocks.errors import BlobNotFound, CorruptBlob
from trimtab_blocks.keys import content_of, data_key, descriptor_key, digest_of, is_data
from trimtab_blocks.s3 import S3Store
from trimtab_blocks.stores import DirectoryStore, Store
from trimtab_blocks.tiered import Fetch, TieredStore

DATA = b"data" * 50_000
KEY = data_key("ab" * 32, hashlib.sha256(DATA).hexdigest())


class TestTieredStore(StoreSuite):
    @pytest.fixture
    def fresh(self, tmp_path: Path) -> Callable[[], Store]:
        def make() -> Store:
            folder = Path(tempfile.mkdtemp(dir=tmp_path))
            return TieredStore(DirectoryStore(path=folder / "hot"), {"cold": DirectoryStore(path=folder / "cold")})

        return make


@pytest.fixture
def told() -> list[Fetch]:
    return []


@pytest.fixture
def tiered(tmp_path: Path, told: list[Fetch]) -> TieredStore:
    colder = {name: DirectoryStore(path=tmp_path / name) for name in ("warm", "cold")}
    return TieredStore(DirectoryStore(path=tmp_path / "hot"), colder, told.append)


def test_keys_of_snapshots() -> None:
    digest, content = "ab" * 32, "cd" * 32
    for key in (data_key(digest, content), data_key(digest, content, "0123abcd")):
        assert (is_data(key), digest_of(key), content_of(key)) == (True, digest, content)
    record = descriptor_key(digest)
    assert (is_data(record), digest_of(record), content_of(record)) == (False, digest, None)
    for other in (
        "snapshots/aa/x.json",
        data_key(digest, content).replace("/ab/", "/cd/"),
        f"used/2026-01-01/{digest}",
    ):
        assert (is_data(other), digest_of(other)) == (False, None)


def test_a_blob_is_found_wherever_it_lies_and_fetching_it_is_told_before(
    tiered: TieredStore, told: list[Fetch]
) -> None:
    assert tiered.write_once(KEY, DATA)
    assert tiered.write_once("catalog/a.json", b"{}")
    assert tiered.read(KEY) == DATA
    assert told == []
    for tier in ("warm", "cold", "warm", "hot"):
        assert tiered.move(KEY, tier) is True
        assert tiered.move(KEY, tier) is False
        told.clear()
        assert tiered.tier_of(KEY) == tier
        assert [name for name, store in tiered.tiers.items() if store.exists(KEY)] == [tier]
        assert (tiered.exists(KEY), tiered.size(KEY), tiered.write_once(KEY, b"other")) == (True, len(DATA), False)
        assert list(tiered.keys()) == ["catalog/a.json", KEY]
        assert [blob.bytes for blob in tiered.blobs()] == [2, len(DATA)]
        assert told == []  # asking costs nothing
        with tiered.local(KEY) as path:
            assert path.read_bytes() == DATA
        assert told == ([] if tier == "hot" else [Fetch(KEY, len(DATA), tier)])
    tiered.move(KEY, "cold")
    tiered.remove(KEY)
    assert list(tiered.keys()) == ["catalog/a.json"]
    with pytest.raises(BlobNotFound):
        tiered.move(KEY, "cold")


def test_only_data_is_moved_and_only_to_a_tier_that_is_there(tiered: TieredStore) -> None:
    tiered.write_once("catalog/a.json", b"{}")
    for key, tier in (("catalog/a.json", "cold"), (KEY, "icy")):
        with pytest.raises(ValueError, match="only data files of snapshots, to hot, warm, cold"):
            tiered.move(key, tier)


def test_a_fetch_may_be_refused(tmp_path: Path) -> None:
    def refuse(fetch: Fetch) -> None:
        raise PermissionError(f"too dear: {fetch.bytes}")

    store = TieredStore(DirectoryStore(path=tmp_path / "hot"), {"cold": DirectoryStore(path=tmp_path / "cold")}, refuse)
    store.write_once(KEY, DATA)
    store.move(KEY, "cold")
    with pytest.raises(PermissionError, match="too dear"):
        store.read(KEY)


class Killed(BaseException):
    """A process that dies."""


class Dying(DirectoryStore):
    """Kills its process at one step of a move."""

    _block_type_slug = "trimtab-test-dying"
    step: ClassVar[str] = ""

    def write_once(self, key: str, data: bytes | Path) -> bool:
        if self.step == "before the copy" and self.path.name == "cold":
            raise Killed
        done = super().write_once(key, data)
        if self.step == "after the copy" and self.path.name == "cold":
            raise Killed
        return done

    def remove(self, key: str) -> None:
        if self.step == "before the original goes":
            raise Killed
        super().remove(key)


@pytest.mark.parametrize("step", ["before the copy", "after the copy", "before the original goes"])
def test_a_move_that_was_killed_loses_nothing_and_is_finished(
    tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Dying, "step", step)

    def make(kind: type[DirectoryStore]) -> TieredStore:
        return TieredStore(kind(path=tmp_path / "hot"), {"cold": kind(path=tmp_path / "cold")})

    make(DirectoryStore).write_once(KEY, DATA)
    with pytest.raises(Killed):
        make(Dying).move(KEY, "cold")
    after = make(DirectoryStore)
    assert after.read(KEY) == DATA
    assert list(after.keys()) == [KEY]
    assert after.move(KEY, "cold") is True
    assert (after.tier_of(KEY), after.read(KEY)) == ("cold", DATA)


@pytest.mark.parametrize("where", ["hot", "cold"])
def test_a_corrupt_copy_stops_the_move(tiered: TieredStore, where: str) -> None:
    tiered.write_once(KEY, DATA)
    tiered.tiers[where].remove(KEY)
    tiered.tiers[where].write_once(KEY, b"rotten")
    with pytest.raises(CorruptBlob, match="stays"):
        tiered.move(KEY, "cold" if where == "cold" else "warm")
    assert tiered.tiers[where].exists(KEY)


def test_a_reader_finds_what_is_moved_under_its_hands(tiered: TieredStore) -> None:
    tiered.write_once(KEY, DATA)
    ended = threading.Event()
    moves = 0

    def move() -> None:
        nonlocal moves
        while not ended.is_set():
            tiered.move(KEY, ("cold", "hot", "warm")[moves % 3])
            moves += 1

    mover = threading.Thread(target=move)
    mover.start()
    try:
        reads = 0
        while reads < 300 or moves <= 3:  # however slow either of them is
            assert tiered.read(KEY) == DATA
            assert mover.is_alive()
            reads += 1
    finally:
        ended.set()
        mover.join()


def test_on_s3_with_a_storage_class(s3: Callable[..., S3Store], s3_server: object, tmp_path: Path) -> None:
    hot, cold = s3(part_mib=5), s3(part_mib=5, storage_class="GLACIER_IR")
    plain = s3_server.client()  # type: ignore[attr-defined]
    store = CachedStore(TieredStore(hot, {"cold": cold}), tmp_path / "cache", 1 << 30)
    data = DATA * 40  # 8 MB, in parts
    key = data_key("ab" * 32, hashlib.sha256(data).hexdigest())
    store.write_once(key, data)
    assert plain.head_object(Bucket=BUCKET, Key=hot.prefix + key).get("StorageClass") in (None, "STANDARD")
    assert store.store.move(key, "cold")  # type: ignore[attr-defined]
    assert plain.head_object(Bucket=BUCKET, Key=cold.prefix + key)["StorageClass"] == "GLACIER_IR"
    assert not hot.exists(key)
    with store.local(key) as path:
        assert path.read_bytes() == data
    assert store.cached_keys() == [key]
    plain.close()
