"""Which entry of the catalog, and which run, is the newest: what came last, whatever the clocks of hosts say."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from infra.metric_events.servers import mlflow_server
from trimtab_blocks.stores import DirectoryStore
from trimtab_flows import runtime, tracking
from trimtab_flows.catalog import Catalog
from trimtab_flows.garbage.roots import catalog_roots
from trimtab_flows.history import MONITOR, monitored_windows
from trimtab_flows.snapshots.holdings import catalog_names
from trimtab_flows.windows import Window

JANUARY = Window.parse("2024-01")
DIGESTS = [f"{number:064x}"[::-1] for number in range(1, 200)]

WRITER = """
import sys
from pathlib import Path
from trimtab_blocks.stores import DirectoryStore
from trimtab_flows.catalog import Catalog
from trimtab_flows.windows import Window

catalog = Catalog(DirectoryStore(path=Path(sys.argv[1])), "sales")
for digest in sys.argv[2:]:
    print(catalog.record("features", Window.parse("2024-01"), digest, 1).recorded_at)
"""


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(path=tmp_path)


def writer(store: DirectoryStore, ahead: str, *digests: str) -> subprocess.Popen[str]:
    """A process whose clock is ahead, or behind."""
    command = ["faketime", "-f", ahead, sys.executable, "-c", WRITER, str(store.path), *digests]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "TZ": "UTC"})


def test_the_last_that_was_recorded_counts_though_its_writers_clock_is_behind(store: DirectoryStore) -> None:
    said = []
    for ahead, digest in (("+1h", DIGESTS[0]), ("-1h", DIGESTS[1])):
        said.append(writer(store, ahead, digest).communicate()[0].strip())
    assert said[0] > said[1]
    catalog = Catalog(store, "sales")
    found = catalog.find("features", JANUARY)
    assert found is not None
    assert found.digest == DIGESTS[1]
    assert [entry.digest for entry in catalog.history("features", JANUARY)] == DIGESTS[:2]
    # And garbage collection keeps what counts.
    later = datetime.now(UTC) + timedelta(days=100)
    assert set(catalog_roots(catalog_names(store), DIGESTS, later, 30)) == {DIGESTS[1]}
    # Recorded once more, the one of before counts again.
    catalog.record("features", JANUARY, DIGESTS[0], 1)
    assert [entry.digest for entry in catalog.history("features", JANUARY)] == [*DIGESTS[:2], DIGESTS[0]]


def test_writers_at_the_same_time_have_numbers_of_their_own(store: DirectoryStore) -> None:
    ahead = ("+1h", "-1h", "+0", "+3d")
    writers = [writer(store, each, *DIGESTS[place * 10 : place * 10 + 10]) for place, each in enumerate(ahead)]
    for each in writers:
        each.communicate()
        assert each.returncode == 0
    names = sorted(name.order for name in catalog_names(store))
    numbers = [int(name[1:13]) for name in names]
    assert len(set(numbers)) == len(numbers) == 40
    digests = [entry.digest for entry in Catalog(store, "sales").history("features", JANUARY)]
    for place in range(4):
        own = DIGESTS[place * 10 : place * 10 + 10]
        assert [digest for digest in digests if digest in own] == own
    Catalog(store, "sales", now=lambda: datetime(2001, 1, 1, tzinfo=UTC)).record("features", JANUARY, DIGESTS[99], 1)
    newest = Catalog(store, "sales").find("features", JANUARY)
    assert newest is not None
    assert newest.digest == DIGESTS[99]


def test_entries_of_an_earlier_version_come_before_all_others(store: DirectoryStore) -> None:
    catalog = Catalog(store, "sales", now=lambda: datetime(2020, 1, 1, tzinfo=UTC))
    catalog.record("features", JANUARY, DIGESTS[0], 1)
    (key,) = store.keys("catalog/")
    folder, _, name = key.rpartition("/")
    for place, year in ((1, 2025), (2, 2026)):
        text = store.read(key).replace(DIGESTS[0].encode(), DIGESTS[place].encode())
        store.write_once(f"{folder}/{year}0101T000000000000-{DIGESTS[place][:12]}.json", text)
    assert [entry.digest for entry in catalog.history("features", JANUARY)] == [DIGESTS[1], DIGESTS[2], DIGESTS[0]]
    assert name.startswith("n000000000001-2020")


def test_the_newest_run_of_a_window_is_that_which_was_begun_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each host tells MLflow itself when a run began."""
    server = mlflow_server(tmp_path / "mlflow").start()
    try:
        monkeypatch.setattr(runtime, "connect_mlflow", lambda: server.url)
        now, made = tracking.time(), []
        for ahead_s in (3600, -3600, 0, 7200, -7200):
            monkeypatch.setattr(tracking, "time", lambda ahead_s=ahead_s: now + ahead_s)
            monkeypatch.setattr("mlflow.tracking._tracking_service.client.get_current_time_millis", tracking_ms)
            tags = {"trimtab.window": "2024-01"}
            with tracking.open_run("sales-monitoring", MONITOR, f"key {ahead_s}", "m", tags) as run:
                made.append(run.info.run_id)
            assert monitored_windows("sales")["2024-01"].info.run_id == made[-1]
        assert [run.info.run_id for run in tracking.runs_of_stage("sales-monitoring", MONITOR)] == made
    finally:
        server.stop()


def tracking_ms() -> int:
    return int(tracking.time() * 1000)
