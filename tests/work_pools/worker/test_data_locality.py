"""Runs that say what they read go to the host whose cache holds it: two real workers, each with data of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from trimtab_blocks.host_cache import CachedSnapshots, CacheSettingError, HostCache
from trimtab_blocks.keys import content_of
from trimtab_blocks.stores import DirectoryStore
from trimtab_flows.snapshots.library import SnapshotLibrary
from trimtab_work_pools.resources import brief
from trimtab_work_pools.worker.this_node import NodeSettings

from .conftest import Pool, until

GIB = 1 << 30


def cached_on(directory: Path, library: SnapshotLibrary, digest: str) -> None:
    """Read a snapshot through the cache of a host, as a run there does."""
    behind = HostCache(directory, GIB).before(library.store, content_of)
    SnapshotLibrary(behind).get(digest)


@pytest.mark.timeout(300)
def test_a_run_goes_where_its_data_is(pool: Pool, tmp_path: Path) -> None:
    library = SnapshotLibrary(DirectoryStore(path=tmp_path / "store"))
    digests = {node: library.put(pl.DataFrame({"of": [node]})).digest for node in ("one", "two")}
    for node, digest in digests.items():
        cached_on(tmp_path / f"cache-{node}", library, digest)
        pool.worker(node, node_cpus=4, cache_dir=tmp_path / f"cache-{node}")

    def advertised() -> bool:
        program = str(Path(sys.executable).parent / "trimtab")
        shown = subprocess.run(
            [program, "fleet", pool.name],
            env={**pool.env, "COLUMNS": "250"},
            capture_output=True,
            text=True,
            timeout=60,
        )
        return all(f" {node} " in shown.stdout for node in digests)

    until(advertised, 120, f"both workers advertise; {pool.logs()}")
    runs = [
        (node, pool.run(pool.deploy(f"reads-{node}-{turn}", cpus=1, reads=[digest])))
        for turn in range(3)
        for node, digest in digests.items()
    ]
    for node, run in runs:
        assert pool.await_started(run)["TRIMTAB_NODE"] == node


def test_the_snapshots_of_a_cache_are_listed_again_when_they_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = SnapshotLibrary(DirectoryStore(path=tmp_path / "store"))
    digests = [library.put(pl.DataFrame({"a": [number]})).digest for number in range(4)]
    listed = CachedSnapshots(tmp_path / "cache", most=3)
    assert listed() == []
    for place, digest in enumerate(digests):
        cached_on(tmp_path / "cache", library, digest)
        assert listed() == digests[place::-1][:3]  # the last used first, and no more than it may
    monkeypatch.setenv("TRIMTAB_CACHE_DIR", "/data")
    assert NodeSettings.from_environment().cache == Path("/data")


def test_a_digest_is_said_in_brief() -> None:
    assert brief("ab" * 32) == "ab" * 8
    assert brief("sha256:aa") == "sha256:aa"
    assert brief("Z" * 64) == "Z" * 64


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"TRIMTAB_CACHE_DIR": "cache"}, "must be a whole path"),
        ({"TRIMTAB_CACHE_DIR": "/cache", "TRIMTAB_CACHE_GIB": "much"}, "a number of GiB above 0, not 'much'"),
        ({"TRIMTAB_CACHE_DIR": "/cache", "TRIMTAB_CACHE_GIB": "0"}, "a number of GiB above 0"),
    ],
)
def test_a_wrong_setting_is_named(settings: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(CacheSettingError, match=said):
        NodeSettings.from_environment()
    assert HostCache.from_environment({}) is None
