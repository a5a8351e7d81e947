"""Garbage collection: never what is reachable, all that is not once it is old, and beside writers at any point."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trimtab_blocks.stores import DirectoryStore, Store
from trimtab_blocks.tiered import TieredStore
from trimtab_blocks.tiering_rules import DataRule, StorageTier, TieringRules
from trimtab_flows.catalog import Catalog
from trimtab_flows.garbage import removing
from trimtab_flows.garbage.decision import Fact, judge, needed
from trimtab_flows.garbage.roots import RootsUnknown
from trimtab_flows.gc import collect, inspect
from trimtab_flows.snapshots.library import SnapshotLibrary, SnapshotNotFound
from trimtab_flows.snapshots.lineage import Edge, Lineage
from trimtab_flows.windows import Window

NOW = datetime.now(UTC)
GRACE = timedelta(days=7)
NODES = st.sampled_from([f"{number:064x}" for number in range(12)])


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    roots=st.dictionaries(NODES, st.sampled_from(["a manifest", "the catalog"]), max_size=4),
    edges=st.lists(st.tuples(NODES, st.lists(NODES, max_size=3).map(tuple)), max_size=20),
    ages=st.dictionaries(NODES, st.floats(0, 30), min_size=1),
)
def test_exactly_what_is_unreachable_and_old_goes(
    roots: dict[str, str], edges: list[tuple[str, tuple[str, ...]]], ages: dict[str, float]
) -> None:
    facts = [
        Fact(node, f"{node}/live", 1, NOW - timedelta(days=age), ((f"{node}/stray", 2, NOW - timedelta(days=age)),))
        for node, age in ages.items()
    ]
    reachable = set(roots)
    for _ in range(12):  # by another way than the code does: relax until nothing changes
        reachable |= {source for output, inputs in edges if output in reachable for source in inputs}
    verdict = judge(facts, needed(roots, edges), NOW, GRACE)
    old = {node for node, age in ages.items() if timedelta(days=age) > GRACE}
    assert {one.digest for one in verdict.doomed if one.whole} == old - reachable
    assert {one.digest for one in verdict.doomed if not one.whole} == old
    assert sum(number for _, number in verdict.kept) == len(set(ages) - (old - reachable))


def table(number: int) -> pl.DataFrame:
    return pl.DataFrame({"a": [number, number + 1]})


def age(store: DirectoryStore, days: float, prefix: str = "snapshots/") -> None:
    """As if all of it had been written so long ago."""
    at = (NOW - timedelta(days=days)).timestamp()
    for key in store.keys(prefix):
        os.utime(store.path / key, (at, at))


def run(store: Store, rules: TieringRules | None = None, superseded_days: int | None = None) -> tuple[int, int, int]:
    verdict = inspect(store, {}, rules, NOW, GRACE.days, superseded_days)
    return collect(store, verdict, NOW, GRACE.days)


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(path=tmp_path / "store")


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_on_a_real_store(tmp_path: Path, data: st.DataObject) -> None:
    folder = Path(tempfile.mkdtemp(dir=tmp_path))
    hot, cold = DirectoryStore(path=folder / "hot"), DirectoryStore(path=folder / "cold")
    store = TieredStore(hot, {"cold": cold})
    library, lineage = SnapshotLibrary(store), Lineage(store)
    digests = [library.put(table(number)).digest for number in range(8)]
    pick = st.sampled_from(digests)
    for digest in data.draw(st.sets(pick, max_size=4), label="cold"):
        store.move(library.file_of(digest), "cold")
    edges = [
        (output, tuple(sorted(inputs - {output})))
        for output, inputs in data.draw(st.lists(st.tuples(pick, st.sets(pick, max_size=2)), max_size=6), label="edges")
    ]
    for output, inputs in edges:
        lineage.record(Edge(output, inputs, "build", "toy", "2024-01"))
    catalogued = data.draw(st.sets(pick, max_size=2), label="catalogued")
    for digest in catalogued:
        Catalog(store, "toy").record("features", Window.parse("2024-01"), digest, 2)
    manifested = data.draw(st.sets(pick, max_size=2), label="in a manifest")
    store.write_once("manifests/x.json", json.dumps({"inputs": {"features": sorted(manifested)}}).encode())
    used = data.draw(st.sets(pick, max_size=2), label="used lately")
    for part in (hot, cold):
        age(part, 30)
    for digest in used:
        library.get(digest)
    young = data.draw(st.sets(pick, max_size=2), label="young")
    for digest in young:
        os.utime(hot.path / f"snapshots/{digest[:2]}/{digest}.json")
    expected = set(needed(dict.fromkeys(catalogued | manifested, "it"), edges)) | used | young
    removed, _, _ = run(store)
    assert removed == len(digests) - len(expected)
    assert set(library.digests()) == expected
    for number, digest in enumerate(digests):
        if digest in expected:
            assert library.get(digest).equals(table(number))
        else:
            with pytest.raises(SnapshotNotFound, match=r"it was removed at .*, since no registered model, manifest"):
                library.get(digest)
    assert {key.split("/")[2].removesuffix(".json") for key in store.keys("snapshots/")} == expected
    assert run(store) == (0, 0, 0)


def test_stray_files_go_when_they_are_old(store: DirectoryStore) -> None:
    library = SnapshotLibrary(store)
    digest = library.put(table(1)).digest
    Catalog(store, "toy").record("features", Window.parse("2024-01"), digest, 2)
    stray = library.file_of(digest).replace(".parquet", ".0123abcd.parquet")
    lone = f"snapshots/ab/{'ab' * 32}/{'cd' * 32}.parquet"
    for key in (stray, lone):
        store.write_once(key, b"left by a writer that died")
    assert run(store) == (0, 0, 0)
    age(store, 8)
    assert run(store) == (0, 2, 52)
    assert library.get(digest).equals(table(1))
    assert len(list(store.keys("snapshots/"))) == 2


def test_nothing_of_a_snapshot_whose_descriptor_is_damaged_goes_as_stray(store: DirectoryStore) -> None:
    library = SnapshotLibrary(store)
    digest = library.put(table(1)).digest
    Catalog(store, "toy").record("features", Window.parse("2024-01"), digest, 2)
    store.write_once(library.file_of(digest).replace(".parquet", ".0123abcd.parquet"), b"other")
    descriptor = store.path / f"snapshots/{digest[:2]}/{digest}.json"
    descriptor.chmod(0o644)
    descriptor.write_bytes(b"damaged")
    age(store, 8)
    assert run(store) == (0, 0, 0)


def test_a_manifest_that_cannot_be_read_stops_it(store: DirectoryStore) -> None:
    SnapshotLibrary(store).put(table(1))
    store.write_once("manifests/x.json", b"{")
    age(store, 8)
    with pytest.raises(RootsUnknown, match=r"manifests/x.json .* nothing is removed"):
        run(store)
    assert len(list(store.keys("snapshots/"))) == 2


def test_a_grace_below_a_day_is_refused(store: DirectoryStore) -> None:
    with pytest.raises(ValueError, match="longer than any run takes"):
        inspect(store, {}, None, NOW, 0)


def test_superseded_entries_keep_their_data_unless_told_otherwise(store: DirectoryStore) -> None:
    library, catalog = SnapshotLibrary(store), Catalog(store, "toy")
    first, second = (library.put(table(number)).digest for number in (1, 2))
    for digest in (first, second):
        catalog.record("features", Window.parse("2024-01"), digest, 2)
    age(store, 30)
    assert run(store) == (0, 0, 0)
    keeps = TieringRules(
        tiers=(StorageTier(name="hot", gib_month=1),), rules=(DataRule(subject="toy", keep_days=365, why="a contract"),)
    )
    later = NOW + timedelta(days=40)
    for rules, gone in ((keeps, 0), (None, 1)):
        verdict = inspect(store, {}, rules, later, 7, superseded_days=20)
        assert len(verdict.doomed) == gone
    assert [one.digest for one in verdict.doomed] == [first]


def test_old_marks_of_use_go(store: DirectoryStore) -> None:
    library = SnapshotLibrary(store)
    digest = library.put(table(1)).digest
    gone = "cd" * 32
    for days, whose in ((200, digest), (120, digest), (300, gone), (3, gone)):
        store.write_once(f"used/{(NOW - timedelta(days=days)).date()}/{whose}", b"")
    Catalog(store, "toy").record("features", Window.parse("2024-01"), digest, 2)
    run(store)
    left = [key.split("/")[1:] for key in store.keys("used/")]
    assert left == [[str((NOW - timedelta(days=120)).date()), digest], [str((NOW - timedelta(days=3)).date()), gone]]


class Killed(BaseException):
    """The collection dies."""


class Interfering(DirectoryStore):
    """Lets something happen just before or after one of the collection's own requests."""

    _block_type_slug = "trimtab-test-interfering"

    def let(self, what: Callable[[], object], request: str, ends: str, after: bool) -> None:
        object.__setattr__(self, "_plan", (what, request, ends, after))

    def _around(self, request: str, key: str, after: bool) -> None:
        plan = getattr(self, "_plan", None)
        if plan and plan[1:] == (request, key[-len(plan[2]) :], after):
            object.__setattr__(self, "_plan", None)
            plan[0]()

    def remove(self, key: str) -> None:
        self._around("remove", key, False)
        super().remove(key)
        self._around("remove", key, True)

    def exists(self, key: str) -> bool:
        self._around("exists", key, False)
        found = super().exists(key)
        self._around("exists", key, True)
        return found


POINTS = [
    (request, ends, after)
    for request, ends in (("remove", "{start}/{digest}.json"), ("remove", ".parquet"), ("exists", "{digest}"))
    for after in (False, True)
]


@pytest.mark.parametrize(("request_", "ends", "after"), POINTS)
def test_a_writer_beside_it_never_loses_what_it_put(tmp_path: Path, request_: str, ends: str, after: bool) -> None:
    """A whole put, at each point of a removal: what put returned can be read afterwards."""
    store = Interfering(path=tmp_path)
    other = SnapshotLibrary(DirectoryStore(path=tmp_path))
    digest = other.put(table(1)).digest
    age(store, 30)
    verdict = inspect(store, {}, None, NOW, GRACE.days)
    happened = []
    ends = ends.format(digest=digest, start=digest[:2])
    store.let(lambda: happened.append(other.put(table(1))), request_, ends, after)
    collect(store, verdict, NOW, GRACE.days)
    assert len(happened) == 1
    assert other.get(digest).equals(table(1))
    age(store, 30)  # and what is left over goes with the next collection, while the mark of today keeps the rest
    run(DirectoryStore(path=tmp_path))
    assert other.get(digest).equals(table(1))
    assert len(list(store.keys("snapshots/"))) == 2


@pytest.mark.parametrize("after", [False, True])
def test_a_collection_that_dies_is_finished_by_the_next(tmp_path: Path, after: bool) -> None:
    store, plain = Interfering(path=tmp_path), DirectoryStore(path=tmp_path)
    library = SnapshotLibrary(plain)
    digest = library.put(table(1)).digest
    age(store, 30)
    verdict = inspect(store, {}, None, NOW, GRACE.days)

    def die() -> None:
        library.uses.mark(digest)  # a writer has relied on it just before
        raise Killed

    store.let(die, "remove", f"{digest[:2]}/{digest}.json", after)
    with pytest.raises(Killed):
        collect(store, verdict, NOW, GRACE.days)
    assert library.exists(digest) is not after
    assert removing.finish(plain, (NOW - GRACE).date()) == ([digest] if after else [])
    run(plain)
    assert library.get(digest).equals(table(1))
