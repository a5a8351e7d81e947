"""What every store must do. A store's tests subclass ``StoreSuite`` and say how an empty store is made."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trimtab_blocks.stores import BlobNotFound, InvalidKey, Store

PARTS = st.text(alphabet="ab-.0é", min_size=1, max_size=4).filter(lambda part: not part.startswith("."))
KEYS = st.lists(PARTS, min_size=1, max_size=3).map("/".join)


def without_conflicts(keys: set[str]) -> list[str]:
    """Only keys that are no beginning of another: a directory cannot be a file as well."""
    return [key for key in keys if not any(other.startswith(f"{key}/") for other in keys)]


class StoreSuite:
    """The contract of ``Store``."""

    @pytest.fixture
    def fresh(self) -> Callable[[], Store]:
        """Makes a new, empty store each time it is called."""
        raise NotImplementedError

    @pytest.fixture
    def store(self, fresh: Callable[[], Store]) -> Store:
        return fresh()

    @pytest.mark.parametrize("data", [b"", b"x", b"\0\xff" * 3_000_000], ids=["empty", "one byte", "6 MB"])
    def test_reads_back_what_was_written(self, store: Store, data: bytes) -> None:
        assert store.write_once("some/key", data) is True
        assert store.read("some/key") == data
        assert store.size("some/key") == len(data)
        with store.local("some/key") as path:
            assert path.read_bytes() == data

    @pytest.mark.parametrize("before", [b"", b"longer than what comes" * 1_000_000], ids=["empty", "22 MB"])
    @pytest.mark.parametrize("data", [b"", b"\0\xff" * 7_000_000], ids=["nothing", "14 MB"])
    def test_fills_a_file_whatever_it_had(self, store: Store, tmp_path: Path, before: bytes, data: bytes) -> None:
        store.write_once("some/key", data)
        target = tmp_path / "target"
        target.write_bytes(before)
        with target.open("r+b") as file:
            assert store.fill("some/key", file) == hashlib.sha256(data).hexdigest()
        assert target.read_bytes() == data
        with target.open("r+b") as file, pytest.raises(BlobNotFound):
            store.fill("other", file)

    def test_stores_the_content_of_a_file_and_leaves_the_file(self, store: Store, tmp_path: Path) -> None:
        file = tmp_path / "source"
        file.write_bytes(b"content" * 400_000)
        assert store.write_once("copy", file) is True
        file.write_bytes(b"changed since")
        assert store.read("copy") == b"content" * 400_000

    def test_a_taken_key_keeps_its_blob(self, store: Store, tmp_path: Path) -> None:
        file = tmp_path / "source"
        file.write_bytes(b"third")
        assert store.write_once("key", b"first") is True
        assert store.write_once("key", b"second") is False
        assert store.write_once("key", file) is False
        assert store.read("key") == b"first"

    def test_a_missing_source_file_stores_nothing(self, store: Store, tmp_path: Path) -> None:
        with pytest.raises(OSError, match="no-such-file"):
            store.write_once("key", tmp_path / "no-such-file")
        assert not store.exists("key")
        assert list(store.keys()) == []

    def test_exists(self, store: Store) -> None:
        assert not store.exists("a/b")
        store.write_once("a/b", b"")
        assert store.exists("a/b")
        assert not store.exists("a")
        assert not store.exists("a/b2")

    @pytest.mark.parametrize("key", ["missing", "a", "a/missing", "a/b/missing"])
    def test_a_missing_blob_is_named_with_its_store(self, store: Store, key: str) -> None:
        store.write_once("a/b", b"")
        with pytest.raises(BlobNotFound) as reading:
            store.read(key)
        with pytest.raises(BlobNotFound) as sizing:
            store.size(key)
        with pytest.raises(BlobNotFound) as opening, store.local(key):
            pass
        for caught in (reading, sizing, opening):
            assert isinstance(caught.value, KeyError)
            assert caught.value.key == key
            assert str(caught.value) == f"nothing is stored under {key!r} in {store}"

    @pytest.mark.parametrize(
        "key",
        [
            *("", "/", "/etc/passwd", "a/", "a//b", ".", "..", "../a", "a/../b", "a/./b", ".hidden", "a/.hidden"),
            *("a\\b", "a\0b", "a\nb", "x" * 201, "/".join(["abcdefgh"] * 101)),
        ],
    )
    def test_an_unusable_key_is_refused_everywhere(self, store: Store, key: str) -> None:
        with pytest.raises(InvalidKey, match="is not usable in a store"):
            store.write_once(key, b"")
        for method in (store.read, store.exists, store.size, store.remove):
            with pytest.raises(InvalidKey):
                method(key)
        with pytest.raises(InvalidKey), store.local(key):
            pass

    def test_a_removed_blob_is_gone_and_may_be_written_again(self, store: Store) -> None:
        for key in ("a", "a-b", "b/c", "b/d"):
            store.write_once(key, b"first")
        for key in ("a", "b/c", "b/c", "missing", "b", "b/d/e"):
            store.remove(key)
        assert list(store.keys()) == ["a-b", "b/d"]
        assert not store.exists("a")
        with pytest.raises(BlobNotFound):
            store.read("b/c")
        assert store.write_once("a", b"second") is True
        assert store.read("a") == b"second"

    def test_removing_does_not_take_the_file_from_its_reader(self, store: Store) -> None:
        store.write_once("a", b"content" * 100_000)
        with store.local("a") as path, path.open("rb") as opened:
            store.remove("a")
            assert opened.read() == b"content" * 100_000

    @pytest.mark.parametrize(
        "key", ["x" * 200, "2013-01..2013-02/a", "model%3Aflights%2F3/x.json", "Grüße/日本", "a b"]
    )
    def test_an_unusual_key_is_honoured(self, store: Store, key: str) -> None:
        assert store.write_once(key, b"x")
        assert store.read(key) == b"x"
        assert list(store.keys()) == [key]

    def test_keys_of_an_empty_store(self, store: Store) -> None:
        assert list(store.keys()) == []
        assert list(store.keys("a/b")) == []

    @pytest.mark.parametrize("prefix", ["../", "/", "a//", ".h", "a/../b"])
    def test_keys_of_an_unusable_prefix(self, store: Store, prefix: str) -> None:
        with pytest.raises(InvalidKey):
            list(store.keys(prefix))

    @settings(
        deadline=None,
        max_examples=30,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
    )
    @given(keys=st.sets(KEYS, max_size=12).map(without_conflicts), prefix=KEYS | st.just(""), slash=st.booleans())
    def test_keys_come_by_prefix_in_order_of_their_bytes(
        self, fresh: Callable[[], Store], keys: list[str], prefix: str, slash: bool
    ) -> None:
        store = fresh()
        for key in keys:
            store.write_once(key, key.encode())
        start = f"{prefix}/" if slash and prefix else prefix
        expected = sorted((key for key in keys if key.startswith(start)), key=str.encode)
        assert list(store.keys(start)) == expected
        assert list(store.keys()) == sorted(keys, key=str.encode)

    def test_a_listing_says_size_and_time(self, store: Store) -> None:
        began = datetime.now(UTC)
        for key in ("b/c", "a"):
            store.write_once(key, key.encode() * 3)
        found = list(store.blobs())
        assert [(blob.key, blob.bytes) for blob in found] == [("a", 3), ("b/c", 9)]
        for blob in found:  # S3 says whole seconds, and its clock may be another
            assert abs(blob.written_at - began) < timedelta(seconds=60)
        assert [blob.key for blob in store.blobs("b")] == ["b/c"]

    def test_a_fault_is_named(self, store: Store) -> None:
        content = b"x" * 1000
        store.write_once("a", content)
        good = hashlib.sha256(content).hexdigest()
        assert store.fault("a", 1000, good) is None
        assert "should have 999" in (store.fault("a", 999, good) or "")
        assert "should be 00" in (store.fault("a", 1000, "00" * 32) or "")
        with pytest.raises(BlobNotFound):
            store.fault("b", 1000, good)

    def test_of_many_writers_one_wins(self, store: Store) -> None:
        barrier = threading.Barrier(8)
        won: list[tuple[int, int]] = []

        def write(writer: int) -> None:
            for turn in range(10):
                barrier.wait(timeout=30)
                if store.write_once(f"turn/{turn}", bytes([writer]) * 10_000):
                    won.append((turn, writer))

        threads = [threading.Thread(target=write, args=(writer,)) for writer in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(turn for turn, _ in won) == list(range(10))
        for turn, writer in won:
            assert store.read(f"turn/{turn}") == bytes([writer]) * 10_000
