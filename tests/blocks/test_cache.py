"""The cache in front of a store: the contract of every store, and its own: never too much, never a file taken away."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import trimtab_blocks.cache as module
from blocks.lines import await_line, say
from blocks.store_suite import StoreSuite
from trimtab_blocks.cache import CachedStore
from trimtab_blocks.errors import CorruptBlob, StoreUnavailable
from trimtab_blocks.s3 import S3Store
from trimtab_blocks.stores import DirectoryStore, Store

ROOMY = 1 << 30


class TestCachedDirectoryStore(StoreSuite):
    @pytest.fixture(params=[ROOMY, 1], ids=["room for all", "room for nothing"])
    def fresh(self, tmp_path: Path, request: pytest.FixtureRequest) -> Callable[[], Store]:
        def make() -> Store:
            folder = Path(tempfile.mkdtemp(dir=tmp_path))
            return CachedStore(DirectoryStore(path=folder / "store"), folder / "cache", request.param)

        return make


@pytest.mark.long  # the same again, and contention on this server costs it seconds
class TestCachedS3Store(StoreSuite):
    @pytest.fixture
    def fresh(self, tmp_path: Path, s3: Callable[..., S3Store]) -> Callable[[], Store]:
        return lambda: CachedStore(s3(part_mib=5), Path(tempfile.mkdtemp(dir=tmp_path)), ROOMY)


class CountingStore(DirectoryStore):
    """Says in a file how often its blobs were handed out, whichever process asked."""

    _block_type_slug = "trimtab-test-counting-store"

    @contextmanager
    def local(self, key: str) -> Iterator[Path]:
        with super().local(key) as path:
            with (self.path.parent / "handed-out").open("a") as log:
                log.write(f"{key}\n")
            yield path

    def handed_out(self) -> list[str]:
        log = self.path.parent / "handed-out"
        return log.read_text().splitlines() if log.exists() else []


@pytest.fixture
def origin(tmp_path: Path) -> CountingStore:
    return CountingStore(path=tmp_path / "store")


@pytest.fixture
def cached(origin: CountingStore, tmp_path: Path) -> Callable[[int], CachedStore]:
    """The store behind a cache with a limit; each time it is called, as another process would make it."""
    return lambda limit: CachedStore(origin, tmp_path / "cache", limit)


def use(store: CachedStore, key: str) -> bytes:
    with store.local(key) as path:
        return path.read_bytes()


def test_exported_names() -> None:
    assert module.__all__ == ["CachedStore"]


def test_is_fetched_once_and_advertised(origin: CountingStore, cached: Callable[[int], CachedStore]) -> None:
    origin.write_once("a/b.parquet", b"x" * 100)
    assert cached(1_000).cached_keys() == []
    for _ in range(3):
        assert use(cached(1_000), "a/b.parquet") == b"x" * 100
    assert origin.handed_out() == ["a/b.parquet"]
    assert cached(1_000).cached_keys() == ["a/b.parquet"]
    assert cached(1_000).used_bytes() == 100
    with cached(1_000).local("a/b.parquet") as path:
        assert path.name == "b.parquet"
        assert path.stat().st_mode & 0o222 == 0


def test_records_are_read_from_the_cache_and_do_not_fill_it(
    origin: CountingStore, cached: Callable[[int], CachedStore]
) -> None:
    origin.write_once("a", b"x")
    store = cached(1_000)
    assert store.read("a") == b"x"
    assert store.cached_keys() == []
    use(store, "a")
    origin.remove("a")
    assert store.read("a") == b"x"


def test_a_blob_that_exceeds_the_limit_is_handed_out_uncached(
    origin: CountingStore, cached: Callable[[int], CachedStore]
) -> None:
    origin.write_once("small", b"x" * 60)
    origin.write_once("large", b"x" * 101)
    store = cached(100)
    use(store, "small")
    assert use(store, "large") == b"x" * 101
    assert store.cached_keys() == ["small"]


def test_what_is_in_use_stays_and_what_finds_no_room_is_handed_out_uncached(
    origin: CountingStore, cached: Callable[[int], CachedStore]
) -> None:
    for key in ("a", "b", "c"):
        origin.write_once(key, key.encode() * 60)
    store = cached(130)
    with store.local("a") as first, store.local("b") as second:
        with store.local("c") as third:
            assert third.read_bytes() == b"c" * 60
            assert store.used_bytes() == 120
        assert (first.read_bytes(), second.read_bytes()) == (b"a" * 60, b"b" * 60)
        assert store.cached_keys() == ["b", "a"]
    assert use(store, "c") == b"c" * 60
    assert store.cached_keys() == ["c", "b"]


@settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    sizes=st.lists(st.integers(0, 70), min_size=1, max_size=8),
    reads=st.lists(st.tuples(st.integers(0, 7), st.booleans()), max_size=40),
    limit=st.integers(1, 150),
)
def test_keeps_the_last_used_and_never_more_than_its_limit(
    tmp_path: Path, sizes: list[int], reads: list[tuple[int, bool]], limit: int
) -> None:
    folder = Path(tempfile.mkdtemp(dir=tmp_path))
    origin = DirectoryStore(path=folder / "store")
    for number, size in enumerate(sizes):
        origin.write_once(str(number), bytes([number]) * size)
    store = CachedStore(origin, folder / "cache", limit)
    expected: OrderedDict[str, int] = OrderedDict()
    for pick, as_record in reads:
        number = pick % len(sizes)
        key, size = str(number), sizes[number]
        content = store.read(key) if as_record else use(store, key)
        assert content == bytes([number]) * size
        if key in expected:
            expected.move_to_end(key)
        elif size <= limit and not as_record:
            while sum(expected.values()) + size > limit:
                expected.popitem(last=False)
            expected[key] = size
        assert sorted(store.cached_keys()) == sorted(expected)
        assert store.used_bytes() == sum(expected.values()) <= limit


def test_many_processes_share_one_cache(origin: CountingStore, tmp_path: Path) -> None:
    for number in range(12):
        origin.write_once(f"k{number}", f"k{number}".encode() * (1_000 + 500 * number))
    script, limit = Path(__file__).parent / "cache_user.py", 30_000
    arguments = [str(origin.path), str(tmp_path / "cache"), str(limit)]
    users = [
        subprocess.Popen(
            [sys.executable, script, *arguments, str(seed), "150"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in range(3)
    ]
    try:
        for user in users:
            await_line(user, "ready")
        found = list(ThreadPoolExecutor(3).map(lambda user: user.communicate("go\n", timeout=100)[0], users))
    finally:
        for user in users:
            user.kill()
            user.communicate()
    assert [user.returncode for user in users] == [0, 0, 0]
    assert all(0 < json.loads(said)["most"] <= limit for said in found)
    store = CachedStore(DirectoryStore(path=origin.path), tmp_path / "cache", limit)
    assert 0 < store.used_bytes() <= limit
    assert store.sweep(timedelta(0)) == 0


def test_several_who_want_the_same_blob_fetch_it_once(
    origin: CountingStore, cached: Callable[[int], CachedStore]
) -> None:
    origin.write_once("a", b"x" * 3_000_000)
    with ThreadPoolExecutor(6) as pool:
        assert set(pool.map(lambda _: use(cached(ROOMY), "a"), range(6))) == {b"x" * 3_000_000}
    assert origin.handed_out() == ["a"]


FETCHING = """
import sys; from contextlib import contextmanager; from pathlib import Path
from trimtab_blocks.cache import CachedStore; from trimtab_blocks.stores import DirectoryStore

class Stopping(DirectoryStore):
    _block_type_slug = "trimtab-test-stopping"
    @contextmanager
    def local(self, key):
        with super().local(key) as path:
            print("fetching", flush=True)
            sys.stdin.readline()
            yield path

with CachedStore(Stopping(path=Path(sys.argv[1])), Path(sys.argv[2]), 100).local("a") as path:
    print("using", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def fetcher(origin: CountingStore, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that stops while it fetches "a", and again while it uses it."""
    origin.write_once("a", b"x" * 70)
    origin.write_once("b", b"y" * 60)
    process = subprocess.Popen(
        [sys.executable, "-c", FETCHING, str(origin.path), str(tmp_path / "cache")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    yield process
    process.kill()
    process.communicate()


def test_room_that_another_process_has_taken_is_taken(
    fetcher: subprocess.Popen[str], cached: Callable[[int], CachedStore]
) -> None:
    store = cached(100)
    await_line(fetcher, "fetching")
    assert store.used_bytes() == 70  # before a byte has come
    assert use(store, "b") == b"y" * 60
    assert store.cached_keys() == []
    say(fetcher, "go")
    await_line(fetcher, "using")
    assert use(store, "b") == b"y" * 60
    assert store.cached_keys() == ["a"]
    fetcher.kill()
    fetcher.wait()
    assert use(store, "b") == b"y" * 60
    assert store.cached_keys() == ["b"]


def test_what_a_killed_process_left_is_in_nobodys_way(
    fetcher: subprocess.Popen[str], cached: Callable[[int], CachedStore]
) -> None:
    store = cached(100)
    await_line(fetcher, "fetching")
    assert store.sweep(timedelta(0)) == 0
    fetcher.send_signal(signal.SIGKILL)
    fetcher.wait()
    assert store.used_bytes() == 70
    assert use(store, "b") == b"y" * 60
    assert (store.used_bytes(), store.cached_keys()) == (60, ["b"])
    assert use(store, "a") == b"x" * 70
    assert store.sweep(timedelta(0)) == 0


def test_a_blob_that_is_removed_while_it_is_read(origin: CountingStore, cached: Callable[[int], CachedStore]) -> None:
    store = cached(1_000)
    origin.write_once("a", b"x")
    with store.local("a") as path:
        store.remove("a")
        assert path.read_bytes() == b"x"
        assert store.cached_keys() == []
        assert store.sweep(timedelta(0)) == 0  # still held
    assert store.sweep(timedelta(0)) == 1
    assert store.used_bytes() == 0


@pytest.mark.parametrize("damage", ["altered", "truncated", "lost", "record lost", "record altered"])
def test_a_file_that_was_touched_in_the_cache_is_fetched_again(
    origin: CountingStore, cached: Callable[[int], CachedStore], damage: str
) -> None:
    origin.write_once("a", b"right")
    store = cached(1_000)
    with store.local("a") as path:
        pass
    about = path.parent / ".about.json"
    if damage.startswith("record"):
        about.unlink() if damage == "record lost" else about.write_text("{}")
    elif damage == "lost":
        path.unlink()
    else:
        path.chmod(0o644)
        path.write_bytes(b"wrong" if damage == "altered" else b"r")
    assert use(store, "a") == b"right"
    assert origin.handed_out() == ["a", "a"]
    assert store.cached_keys() == ["a"]
    assert store.used_bytes() == 5


def test_content_that_is_not_what_its_key_names_does_not_come_in(origin: CountingStore, tmp_path: Path) -> None:
    good = hashlib.sha256(b"good").hexdigest()
    store = CachedStore(origin, tmp_path / "cache", 1_000, digest_in=lambda key: key if len(key) == 64 else None)
    for key, content in ((good, b"good"), ("0" * 64, b"bad"), ("plain", b"any")):
        origin.write_once(key, content)
    assert use(store, good) == b"good"
    assert use(store, "plain") == b"any"
    with pytest.raises(CorruptBlob, match=f"its key names {'0' * 64}"):
        use(store, "0" * 64)
    assert sorted(store.cached_keys()) == sorted([good, "plain"])
    assert store.used_bytes() == 7


def test_a_directory_is_the_cache_of_one_store(origin: CountingStore, tmp_path: Path) -> None:
    CachedStore(origin, tmp_path / "cache", 1_000)
    with pytest.raises(StoreUnavailable, match="give each store its own"):
        CachedStore(DirectoryStore(path=tmp_path / "other"), tmp_path / "cache", 1_000)


def test_a_directory_that_cannot_be_used_is_named(origin: CountingStore, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreUnavailable, match=r"cannot use the cache in .*/file/cache: Not a directory"):
        CachedStore(origin, tmp_path / "file" / "cache", 1_000)
    with pytest.raises(ValueError, match="1 or more"):
        CachedStore(origin, tmp_path / "cache", 0)


def test_a_full_disk_is_said_and_leaves_nothing(origin: CountingStore, tmp_path: Path) -> None:
    origin.write_once("a", b"x" * 100_000)
    small = tmp_path / "small"
    small.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(small)], capture_output=True)
    if done.returncode:
        pytest.skip(f"no right to mount a small disk: {done.stderr.decode().strip()}")
    try:
        store = CachedStore(origin, small, ROOMY)
        with pytest.raises(StoreUnavailable, match="No space left on device; it needs a directory on a local disk"):
            use(store, "a")
        assert store.used_bytes() == 0
        assert list((small / "incoming").iterdir()) == []
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_held_files_are_not_mixed_up(origin: CountingStore, cached: Callable[[int], CachedStore]) -> None:
    keys = ["a", "a.b", "a-b", "é/a", "x" * 200]
    for key in keys:
        origin.write_once(key, key.encode())
    with ExitStack() as stack:
        held = {key: stack.enter_context(cached(ROOMY).local(key)) for key in keys}
        assert {key: path.read_bytes() for key, path in held.items()} == {key: key.encode() for key in keys}
    assert sorted(cached(ROOMY).cached_keys()) == sorted(keys)
