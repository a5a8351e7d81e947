"""Points, events, outbox and ledger, without a server."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab_infra.metric_events.events import Noted, RunInfo, events_of, model_of
from trimtab_infra.metric_events.ledger import Ledger
from trimtab_infra.metric_events.outbox import Outbox, gap_noted, segments, settle_gap
from trimtab_infra.metric_events.points import Point, logged_points, wanted

RUN = "r" * 32
RUNS = {RUN: RunInfo(RUN, "flights-monitoring", "a run", "flights")}
POINTS = st.builds(
    Point,
    run_id=st.just(RUN),
    key=st.sampled_from(["drift/a", "drift/b"]),
    value=st.floats(allow_infinity=False),
    step=st.integers(-2, 5),
    timestamp_ms=st.integers(0, 3),
)


def noted(point: Point) -> Noted:
    return Noted(point, "push", 1_000)


def numbered(count: int, run_id: str = RUN) -> list[Point]:
    return [Point(run_id, "drift/a", float(step), step, step) for step in range(count)]


@given(POINTS)
def test_a_point_survives_its_line(point: Point) -> None:
    assert Point.from_json(point.to_json()).id == point.id


@given(st.lists(POINTS, max_size=30), st.booleans())
def test_events_tell_of_every_point_once_and_of_their_ids(points: list[Point], coalesce: bool) -> None:
    each = [noted(point) for point in wanted(points)]
    events = events_of(each, RUNS, coalesce)
    assert sum(event.points for event in events) == len(each)
    assert all(event.points == event.body["payload"]["count"] for event in events)
    assert len({event.id for event in events}) == len(events)
    assert {event.id for event in events} == {event.id for event in events_of(each[::-1], RUNS, coalesce)}
    assert json.loads(json.dumps([event.body for event in events], allow_nan=False)) == [event.body for event in events]


def test_what_is_the_same_to_mlflow_has_the_same_id() -> None:
    def of(value: object, **more: object) -> Point:
        said = {"run_id": RUN, "key": "drift/a", "value": value, "timestamp": 1, **more}
        return logged_points("/api/2.0/mlflow/runs/log-metric", json.dumps(said).encode())[0]

    assert of(1).id == of("1.0").id == of(1.0, step=0).id == of(1, timestamp="1", model_id="m-1").id
    assert of("NaN").id == of(math.nan).id
    assert of("Infinity").id == of(1.7976931348623157e308).id == of(math.inf).id
    assert of(0.0).id == of(-0.0).id
    assert len({of(1).id, of(2).id, of(1, step=1).id, of(1, timestamp=2).id, of("-Infinity").id, of("NaN").id}) == 6


def test_the_id_of_a_point_never_changes() -> None:
    # A change would make every point that was ever told a new event.
    assert str(Point("run", "drift/a", 0.25, 3, 1_700_000_000_000).id) == "2f7a424a-ed09-5170-a72c-a5d255e6c514"


def test_requests_as_mlflow_takes_them() -> None:
    metrics = [{"key": "drift/a", "value": 1, "timestamp": 5}]
    batch = json.dumps({"run_id": RUN, "metrics": metrics})
    path = "/prefix/ajax-api/2.0/mlflow/runs/log-batch"
    assert logged_points(path, batch.encode()) == [Point(RUN, "drift/a", 1.0, 0, 5)]
    assert logged_points(path, json.dumps(batch).encode()) == [Point(RUN, "drift/a", 1.0, 0, 5)]
    assert logged_points(path, json.dumps({"run_id": RUN, "tags": []}).encode()) == []
    for wrong in (b"", b"[]", b"{}", b'{"run_id": "a", "metrics": [{}]}'):
        with pytest.raises((ValueError, KeyError, TypeError, AttributeError)):
            logged_points(path, wrong)


@pytest.mark.parametrize(
    ("experiment", "tags", "model"),
    [
        ("flights-monitoring", {}, "flights"),
        ("flights", {}, "flights"),
        ("Default", {"trimtab.model": "churn"}, "churn"),
    ],
)
def test_the_model_of_a_run(experiment: str, tags: dict[str, str], model: str) -> None:
    assert model_of(experiment, tags) == model


def write(folder: Path, run_id: str, count: int) -> None:
    outbox = Outbox(folder, segment_bytes=2_000)
    for point in numbered(count, run_id):
        assert outbox.put([point])
    # As SIGKILL: nothing is flushed and nothing closed.
    os._exit(0)


def test_processes_write_beside_each_other_and_die(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write, args=(tmp_path, f"run{number}", 200)) for number in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    found = [point for segment in segments(tmp_path) for point in segment.read(0)[0]]
    assert len(segments(tmp_path)) > 3
    for number in range(3):
        assert [point.step for point in found if point.run_id == f"run{number}"] == list(range(200))
    assert all(segment.remove_if_read(segment.read(0)[1]) for segment in segments(tmp_path))
    assert segments(tmp_path) == []


def test_a_file_goes_only_when_its_writer_has_gone_and_all_is_read(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    outbox.put(numbered(2))
    (segment,) = segments(tmp_path)
    points, end = segment.read(0)
    assert points == numbered(2)
    assert not segment.remove_if_read(end)
    outbox.put(numbered(1))
    outbox.close()
    assert not segment.remove_if_read(end)
    assert segment.remove_if_read(segment.read(end)[1])
    outbox.put(numbered(1))
    assert len(segments(tmp_path)) == 1
    outbox.close()


def test_a_full_outbox_takes_no_more_and_says_so(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path, limit_bytes=2_000, segment_bytes=500)
    taken = sum(outbox.put([point]) for point in numbered(100))
    assert 0 < taken < 100
    assert sum(len(segment.read(0)[0]) for segment in segments(tmp_path)) == taken
    assert gap_noted(tmp_path)
    settle_gap(tmp_path)
    for segment in segments(tmp_path):
        segment.path.unlink()
    assert outbox.put(numbered(1))
    assert not gap_noted(tmp_path)
    outbox.close()


def test_a_line_cut_short_waits_and_one_of_rubbish_is_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "1.points"
    file.write_bytes(b"rubbish\n" + numbered(1)[0].to_json().encode() + b"\n" + b'{"run_id"')
    (segment,) = segments(tmp_path)
    points, end = segment.read(0)
    assert points == numbered(1)
    assert segment.read(end) == ([], end)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger.sqlite")


def test_a_ledger_knows_a_point_once(ledger: Ledger) -> None:
    assert ledger.notice(numbered(3), "push", 5, cursor=("outbox:x", "90")) == 3
    assert ledger.notice(numbered(4), "reconcile", 6) == 1
    assert ledger.notice(numbered(6), "reconcile", 6, skip=True) == 2
    assert [one.source for _, one in ledger.waiting(10)] == ["push"] * 3 + ["reconcile"]
    assert ledger.cursor("outbox:x") == "90"
    counts = ledger.counts()
    assert (counts.known, counts.waiting, counts.skipped) == (6, 4, 2)
    ledger.close()


def test_an_event_goes_from_waiting_to_stored_or_refused(ledger: Ledger) -> None:
    ledger.notice(numbered(3), "push", 5)
    waiting = ledger.waiting(10)
    events = events_of([one for _, one in waiting], RUNS, coalesce=False)
    ledger.group([place for place, _ in waiting], events, look_first=False)
    first, second, third = ledger.unsent(10)
    ledger.mark_sent([first.id, second.id], 100)
    assert ([one.id for one in ledger.sent_before(100, 9)], ledger.in_flight()) == ([first.id, second.id], 2)
    ledger.mark_stored([first.id])
    # Said twice, it counts once.
    ledger.mark_stored([first.id])
    ledger.mark_sent([second.id], None)
    assert [one.id for one in ledger.unsent(9)] == [second.id, third.id]
    ledger.mark_refused(third, "why")
    counts = ledger.counts()
    assert (counts.known, counts.stored, counts.refused, counts.on_the_way, counts.events) == (3, 1, 1, 1, 1)
    ledger.close()


def test_a_late_point_is_seen(ledger: Ledger) -> None:
    points = numbered(3)
    ledger.notice([points[0], points[2], points[1]], "push", 1)
    assert [one.out_of_order for _, one in ledger.waiting(9)] == [False, False, True]
    ledger.close()


def test_a_transaction_that_fails_leaves_nothing(ledger: Ledger) -> None:
    def broken() -> object:
        yield from numbered(2)
        raise OSError("the disk went")

    with pytest.raises(OSError, match="the disk went"):
        ledger.notice(broken(), "push", 1, cursor=("c", "1"))  # type: ignore[arg-type]
    assert (ledger.waiting(9), ledger.cursor("c"), ledger.counts().known) == ([], None, 0)
    ledger.close()
