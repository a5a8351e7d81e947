"""The snapshot library: written once, verified on every read, and whole or not there at all."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from flows.snapshots.interrupted_put import COMMITTED, STEPS, table
from trimtab_blocks.stores import DirectoryStore, StoreUnavailable
from trimtab_flows.snapshots.digest import UnsupportedColumn, content_digest
from trimtab_flows.snapshots.library import (
    CorruptSnapshot,
    InvalidDigest,
    Snapshot,
    SnapshotLibrary,
    SnapshotNotFound,
)
from trimtab_flows.snapshots.uses import LastUse, Uses

SMALL = pl.DataFrame({"a": [1, None, 3] * 20, "b": ["x", None, ""] * 20, "c": [[1.5], [], None] * 20})


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(path=tmp_path / "store")


@pytest.fixture
def library(store: DirectoryStore) -> SnapshotLibrary:
    return SnapshotLibrary(store)


def file_of(store: DirectoryStore, suffix: str) -> Path:
    (key,) = (key for key in store.keys("snapshots/") if key.endswith(suffix))
    return store.path / key


def descriptor_of(store: DirectoryStore, digest: str) -> Path:
    return store.path / f"snapshots/{digest[:2]}/{digest}.json"


def written_at(store: DirectoryStore) -> list[tuple[str, int]]:
    return [(key, (store.path / key).stat().st_mtime_ns) for key in store.keys("snapshots/")]


def overwrite(file: Path, content: bytes) -> None:
    file.chmod(0o644)
    file.write_bytes(content)


def test_gives_back_what_was_put(library: SnapshotLibrary, store: DirectoryStore) -> None:
    snapshot = library.put(SMALL)
    size = file_of(store, ".parquet").stat().st_size
    assert snapshot == Snapshot(content_digest(SMALL), 60, ("a", "b", "c"), size)
    assert_frame_equal(library.get(snapshot.digest), SMALL)
    assert library.describe(snapshot.digest) == snapshot
    assert library.exists(snapshot.digest)
    assert list(library.digests()) == [snapshot.digest]


@pytest.mark.parametrize(
    "frame",
    [
        pl.DataFrame(),
        pl.DataFrame(schema={"a": pl.Int8, "b": pl.Categorical}),
        pl.DataFrame({"a=b/c": [1], "": [2]}),
        pl.DataFrame({"x": pl.Series(["a", None], dtype=pl.Enum(["b", "a"])), "y": [None, None]}),
    ],
    ids=["nothing", "no rows", "odd names", "enum and nulls"],
)
def test_gives_back_odd_tables(library: SnapshotLibrary, frame: pl.DataFrame) -> None:
    back = library.get(library.put(frame).digest)
    assert back.schema == frame.schema
    assert_frame_equal(back, frame)


def test_the_same_content_is_stored_once(library: SnapshotLibrary, store: DirectoryStore) -> None:
    first = library.put(SMALL)
    before = written_at(store)
    assert library.put(pl.concat([SMALL[:7], SMALL[7:]], rechunk=False)) == first
    assert written_at(store) == before
    other = library.put(SMALL.reverse())
    assert other.digest != first.digest
    assert list(library.digests()) == sorted([first.digest, other.digest])


def test_many_writers_of_one_content_agree(library: SnapshotLibrary, store: DirectoryStore) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(library.put, [table() for _ in range(16)]))
    assert len(found) == 1
    assert len(list(store.keys("snapshots/"))) == 2
    assert_frame_equal(library.get(found.pop().digest), table())


def test_a_type_that_no_snapshot_holds_stores_nothing(library: SnapshotLibrary, store: DirectoryStore) -> None:
    with pytest.raises(UnsupportedColumn, match="'odd'"):
        library.put(pl.DataFrame({"odd": pl.Series([object()], dtype=pl.Object)}))
    assert list(store.keys()) == []


def test_a_snapshot_that_is_not_there_is_named(library: SnapshotLibrary, store: DirectoryStore) -> None:
    digest = "0" * 64
    for method in (library.get, library.describe):
        with pytest.raises(SnapshotNotFound) as caught:
            method(digest)
        assert isinstance(caught.value, KeyError)
        assert str(caught.value) == f"snapshot {digest} is not in {store}"
    assert not library.exists(digest)


@pytest.mark.parametrize("text", ["", "abc", "A" * 64, "0" * 65, "../" + "0" * 61])
def test_a_text_that_is_no_digest_is_refused(library: SnapshotLibrary, text: str) -> None:
    for method in (library.get, library.describe, library.exists):
        with pytest.raises(InvalidDigest, match="64 hexadecimal"):
            method(text)


def test_a_flipped_bit_anywhere_in_the_file_is_refused(library: SnapshotLibrary, store: DirectoryStore) -> None:
    # polars 2.1 can abort the whole process on such a file: that this test ends is half of what it shows.
    digest = library.put(SMALL).digest
    file = file_of(store, ".parquet")
    whole = file.read_bytes()
    for position in range(len(whole)):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << position % 8
        overwrite(file, bytes(flipped))
        with pytest.raises(CorruptSnapshot, match=f"snapshot {digest} is corrupt and was not used: .* was altered"):
            library.get(digest)
    overwrite(file, whole)
    assert_frame_equal(library.get(digest), SMALL)


@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_a_truncated_file_is_refused(library: SnapshotLibrary, store: DirectoryStore, share: float) -> None:
    digest = library.put(SMALL).digest
    file = file_of(store, ".parquet")
    os.truncate(file, int(file.stat().st_size * share))
    with pytest.raises(CorruptSnapshot, match=digest) as caught:
        library.get(digest)
    assert isinstance(caught.value, ValueError)
    assert caught.value.digest == digest


def test_a_lost_file_is_refused(library: SnapshotLibrary, store: DirectoryStore) -> None:
    digest = library.put(SMALL).digest
    file_of(store, ".parquet").unlink()
    with pytest.raises(CorruptSnapshot, match="is lost"):
        library.get(digest)


def test_a_damaged_descriptor_is_refused(library: SnapshotLibrary, store: DirectoryStore) -> None:
    snapshot = library.put(SMALL)
    file = file_of(store, ".json")
    whole = file.read_bytes()
    for position in range(len(whole)):
        overwrite(file, whole[:position])
        with pytest.raises(CorruptSnapshot, match=f"snapshot {snapshot.digest} is corrupt"):
            library.describe(snapshot.digest)
        if whole[position : position + 1].isspace():
            continue
        flipped = bytearray(whole)
        flipped[position] ^= 1 << position % 8
        overwrite(file, bytes(flipped))
        with pytest.raises(CorruptSnapshot, match=f"snapshot {snapshot.digest} is corrupt"):
            library.get(snapshot.digest)


def test_the_descriptor_of_another_snapshot_is_refused(library: SnapshotLibrary, store: DirectoryStore) -> None:
    mine, other = library.put(SMALL).digest, library.put(SMALL.reverse()).digest
    overwrite(descriptor_of(store, mine), descriptor_of(store, other).read_bytes())
    with pytest.raises(CorruptSnapshot, match=f"is that of {other}"):
        library.get(mine)


def test_other_content_is_refused_even_with_fitting_checksums(library: SnapshotLibrary, store: DirectoryStore) -> None:
    mine, other = library.put(SMALL).digest, library.put(SMALL.reverse()).digest
    fields = json.loads(descriptor_of(store, other).read_bytes())
    del fields["checksum"]
    fields["digest"] = mine
    checksum = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
    overwrite(descriptor_of(store, mine), json.dumps({**fields, "checksum": checksum}).encode())
    name = f"{fields['file_sha256']}.parquet"
    store.write_once(f"snapshots/{mine[:2]}/{mine}/{name}", store.path / f"snapshots/{other[:2]}/{other}/{name}")
    with pytest.raises(CorruptSnapshot, match=f"has the digest {other}"):
        library.get(mine)


@pytest.fixture
def interrupted(store: DirectoryStore, request: pytest.FixtureRequest) -> str:
    """A put that was killed at a step."""
    script = Path(__file__).parent / "interrupted_put.py"
    with subprocess.Popen(
        [sys.executable, str(script), str(store.path), request.param],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "stopped\n"
        process.kill()
        assert process.wait(timeout=30) == -9
    return str(request.param)


@pytest.mark.parametrize("interrupted", STEPS, indirect=True)
def test_a_writer_killed_at_any_step_leaves_all_or_nothing(
    library: SnapshotLibrary, store: DirectoryStore, interrupted: str
) -> None:
    digest = content_digest(table())
    if interrupted == COMMITTED:
        assert list(library.digests()) == [digest]
        assert_frame_equal(library.get(digest), table())
    else:
        assert list(library.digests()) == []
        assert not library.exists(digest)
        with pytest.raises(SnapshotNotFound):
            library.get(digest)
    assert library.put(table()).digest == digest
    assert_frame_equal(library.get(digest), table())
    assert len(list(store.keys("snapshots/"))) == 2
    store.sweep(timedelta(0))
    assert list(store.path.rglob(".*")) == []


@pytest.mark.parametrize("damage", ["altered", "truncated", "lost", "descriptor"])
def test_putting_a_corrupt_snapshot_again_makes_it_whole(
    library: SnapshotLibrary, store: DirectoryStore, damage: str
) -> None:
    snapshot = library.put(SMALL)
    file = file_of(store, ".parquet")
    content = file.read_bytes()
    if damage == "altered":
        overwrite(file, bytes([content[0] ^ 1]) + content[1:])
    elif damage == "truncated":
        overwrite(file, content[:-10])
    elif damage == "lost":
        file.unlink()
    else:
        overwrite(descriptor_of(store, snapshot.digest), b"{}")
    with pytest.raises(CorruptSnapshot, match="putting the same table replaces it"):
        library.get(snapshot.digest)
    assert library.put(SMALL) == snapshot
    assert_frame_equal(library.get(snapshot.digest), SMALL)
    assert library.put(SMALL) == snapshot  # and it stays so
    assert len(list(library.digests())) == 1


def test_a_file_that_another_writer_left_long_ago_is_not_relied_on(
    library: SnapshotLibrary, store: DirectoryStore
) -> None:
    snapshot = library.put(SMALL)
    old = file_of(store, ".parquet")
    os.utime(old, (0, 0))
    store.remove(f"snapshots/{snapshot.digest[:2]}/{snapshot.digest}.json")
    library.put(SMALL)
    old.unlink()  # as a garbage collection under way would
    assert_frame_equal(library.get(snapshot.digest), SMALL)


def test_each_use_is_marked_once_a_day(library: SnapshotLibrary, store: DirectoryStore) -> None:
    snapshot = library.put(SMALL)
    assert library.uses.last() == {}  # when it was written says enough
    today = datetime.now(UTC).date()
    for _ in range(2):
        library.get(snapshot.digest)
    assert list(store.keys("used/")) == [f"used/{today}/{snapshot.digest}"]
    Uses(store, lambda: today - timedelta(days=200)).mark(snapshot.digest)
    Uses(store, lambda: today - timedelta(days=5)).mark(snapshot.digest)
    assert library.uses.last() == {snapshot.digest: LastUse(today, 2)}
    assert library.uses.used_since(snapshot.digest, today)
    assert not library.uses.used_since(snapshot.digest, today + timedelta(days=1))
    library.uses.forget([(snapshot.digest, today)])
    assert library.uses.last()[snapshot.digest].day == today - timedelta(days=5)


def test_who_may_only_read_reads(tmp_path: Path) -> None:
    class ReadOnly(DirectoryStore):
        _block_type_slug = "trimtab-test-read-only"

        def write_once(self, key: str, data: bytes | Path) -> bool:
            raise StoreUnavailable("no right to write")

    digest = SnapshotLibrary(DirectoryStore(path=tmp_path)).put(SMALL).digest
    assert_frame_equal(SnapshotLibrary(ReadOnly(path=tmp_path)).get(digest), SMALL)
