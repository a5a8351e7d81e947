"""The directory store: the contract of every store, and what is its own."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from prefect.blocks.core import Block

import trimtab_blocks.stores as stores
from blocks.lines import await_line, say
from blocks.store_suite import StoreSuite
from trimtab_blocks.stores import DirectoryStore, Store, StoreUnavailable


class TestDirectoryStore(StoreSuite):
    @pytest.fixture
    def fresh(self, tmp_path: Path) -> Callable[[], Store]:
        return lambda: DirectoryStore(path=Path(tempfile.mkdtemp(dir=tmp_path)) / "made" / "on the first write")


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(path=tmp_path / "store")


def test_exported_names() -> None:
    assert set(stores.__all__) == {
        *(
            "Blob",
            "BlobNotFound",
            "DirectoryStore",
            "InvalidKey",
            "Store",
            "StoreError",
            "StoreUnavailable",
            "check_key",
        ),
    }


def test_is_a_block_that_says_where_it_is(store: DirectoryStore) -> None:
    assert isinstance(store, Block)
    assert DirectoryStore.get_block_type_slug() == "trimtab-directory-store"
    assert str(store) == f"directory store {store.path}"
    assert DirectoryStore(**store.model_dump(mode="json")).path == store.path


def test_a_relative_path_is_fixed_when_the_block_is_made() -> None:
    assert DirectoryStore(path=Path("data")).path == Path.cwd() / "data"
    assert DirectoryStore(path=Path("~/data")).path == Path.home() / "data"


def test_reading_makes_no_directory(store: DirectoryStore) -> None:
    assert list(store.keys()) == []
    assert not store.exists("a")
    assert store.sweep(timedelta(0)) == 0
    assert not store.path.exists()


def test_local_is_the_stored_file_itself_and_read_only(store: DirectoryStore) -> None:
    store.write_once("a/b", b"x")
    with store.local("a/b") as path:
        assert path == store.path / "a" / "b"
        assert path.stat().st_mode & 0o222 == 0
        assert path.stat().st_nlink == 1


def test_what_a_killed_writer_left_is_invisible_and_swept(store: DirectoryStore) -> None:
    store.write_once("a/b", b"x")
    leftover = store.path / "a" / ".incoming-0123"
    leftover.write_bytes(b"half")
    assert list(store.keys()) == ["a/b"]
    assert store.sweep(timedelta(hours=1)) == 0
    assert leftover.exists()
    hour_ago = leftover.stat().st_mtime - 3601
    os.utime(leftover, (hour_ago, hour_ago))
    assert store.sweep(timedelta(hours=1)) == 1
    assert not leftover.exists()
    assert store.read("a/b") == b"x"


def test_a_finished_or_refused_write_leaves_nothing(store: DirectoryStore, tmp_path: Path) -> None:
    store.write_once("a", b"x")
    store.write_once("a", b"y")
    with pytest.raises(OSError, match="cannot write"):
        store.write_once("b", tmp_path)  # a directory, not a file
    assert [path.name for path in store.path.rglob("*")] == ["a"]


@pytest.mark.parametrize(("first", "second"), [("a", "a/b"), ("a/b", "a")])
def test_a_key_that_is_the_beginning_of_another(store: DirectoryStore, first: str, second: str) -> None:
    store.write_once(first, b"")
    with pytest.raises(StoreUnavailable, match="beginning of"):
        store.write_once(second, b"")
    assert list(store.keys()) == [first]


def test_a_store_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    broken = DirectoryStore(path=tmp_path / "file" / "store")
    with pytest.raises(StoreUnavailable) as caught:
        broken.write_once("key", b"")
    assert isinstance(caught.value, OSError)
    assert "cannot write 'key' in directory store" in str(caught.value)


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    # /dev/full is the kernel's own full disk; the error reaches the store as any write's would.
    class OnFullDisk(DirectoryStore):
        _block_type_slug = "trimtab-test-full-disk"

        def _fill(self, incoming: Path, data: bytes | Path) -> None:
            super()._fill(incoming, data)
            Path("/dev/full").write_bytes(b"x" * 100_000)

    store = OnFullDisk(path=tmp_path / "store")
    with pytest.raises(StoreUnavailable, match="free some space") as caught:
        store.write_once("a/b", b"x")
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.ENOSPC
    assert [path.name for path in store.path.rglob("*")] == ["a"]


@pytest.fixture
def racers(store: DirectoryStore) -> Iterator[list[subprocess.Popen[str]]]:
    script = Path(__file__).parent / "racing_writer.py"
    started = [
        subprocess.Popen(
            [sys.executable, str(script), name, "200"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in ("x", "y", "z")
    ]
    yield started
    for process in started:
        process.kill()
        process.communicate()


def test_of_several_processes_one_wins_each_key(store: DirectoryStore, racers: list[subprocess.Popen[str]]) -> None:
    for process in racers:
        say(process, json.dumps({"DirectoryStore": {"path": str(store.path)}}))
        await_line(process, "ready")
    for process in racers:
        say(process, "go")
    won: list[int] = []
    for name, process in zip("xyz", racers, strict=True):
        output, _ = process.communicate(timeout=60)
        mine = json.loads(output)
        won += mine
        assert all(store.read(f"race/{key}") == name.encode() * 5_000 for key in mine)
    assert sorted(won) == list(range(200))
    assert len(list(store.keys("race/"))) == 200
    assert list(store.path.rglob(".*")) == []
