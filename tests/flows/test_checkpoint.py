"""Checkpoints: a loop that is stopped anywhere and goes on ends bit for bit where it would have ended."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trimtab_blocks.stores import DirectoryStore
from trimtab_flows.checkpoint import Checkpoints, Unsavable


def descend(points: Checkpoints, steps: int, every: int, stop_at: int = -1) -> np.ndarray:
    """Stochastic gradient descent on a least-squares problem; its process is told to stop in step ``stop_at``."""
    data = np.random.default_rng(7)
    rows, truth = data.normal(size=(200, 4)), np.array([1.0, -2.0, 0.5, 3.0])
    labels = rows @ truth
    found = points.latest()
    state = found.state if found else {"weights": np.zeros(4), "rng": np.random.default_rng(1)}
    weights, rng = state["weights"], state["rng"]  # both are changed in place
    for step in points.steps(steps, lambda: state, every):
        picked = rng.integers(0, 200, 16)
        if step == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        weights -= 0.1 * rows[picked].T @ (rows[picked] @ weights - labels[picked]) / 16
    return weights


class Told(BaseException):
    """What the tests' own handler of SIGTERM raises, as Prefect's does."""


@pytest.fixture(scope="module", autouse=True)
def told() -> Iterator[None]:
    def handler(*_: object) -> None:
        raise Told

    before = signal.signal(signal.SIGTERM, handler)
    yield
    signal.signal(signal.SIGTERM, before)


def store(folder: Path) -> DirectoryStore:
    return DirectoryStore(path=folder)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    return descend(Checkpoints(store(tmp_path_factory.mktemp("whole")), "whole"), 40, 10)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(stops=st.lists(st.integers(0, 39), max_size=4, unique=True).map(sorted), every=st.integers(1, 50))
def test_stopped_anywhere_it_ends_where_it_would_have_ended(
    tmp_path: Path, whole: np.ndarray, stops: list[int], every: int
) -> None:
    run = uuid4()

    def points() -> Checkpoints:
        return Checkpoints(store(tmp_path), str(run))

    for stop in stops:
        with pytest.raises(Told):
            descend(points(), 40, every, stop)
        found = points().latest()
        assert found
        assert found.step == stop + 1, "the step under way was finished and saved; none is done twice"
    assert descend(points(), 40, every).tobytes() == whole.tobytes()


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(place=st.floats(0, 0.999), changed=st.integers(1, 255), kept=st.floats(0, 1))
def test_a_damaged_one_is_passed_over(tmp_path: Path, place: float, changed: int, kept: float) -> None:
    run = uuid4()
    points = Checkpoints(store(tmp_path), str(run), keep=3)
    for step in (1, 2, 3):
        points.save(step, {"weights": np.full(5, float(step))})
    newest = sorted((tmp_path / "checkpoints" / str(run)).iterdir())[-1]
    content = bytearray(newest.read_bytes())
    content[int(place * len(content))] ^= changed
    newest.chmod(0o600)
    newest.write_bytes(bytes(content[: int(kept * len(content))]))
    found = points.latest()
    assert found
    assert found.step == 2
    assert found.state["weights"].tolist() == [2.0] * 5


def test_the_newest_are_kept_and_all_can_be_cleared(tmp_path: Path) -> None:
    points = Checkpoints(store(tmp_path), "run", keep=2)
    for step in (5, 10, 15):
        points.save(step, {"step": step})
    assert [int(key.split("/")[2][:12]) for key in sorted(store(tmp_path).keys("checkpoints/run/"))] == [10, 15]
    points.clear()
    assert points.latest() is None


def test_values_come_back_as_they_were(tmp_path: Path) -> None:
    python, bits = random.Random(3), np.random.Generator(np.random.MT19937(5))
    python.gauss(0, 1)
    state = {
        "a": np.arange(6).reshape(2, 3),
        "b": b"\x00\xff",
        "c": {"lr": 0.1, "names": ["x"]},
        "p": python,
        "g": bits,
    }
    points = Checkpoints(store(tmp_path), "run")
    points.save(1, state)
    found = points.latest()
    assert found
    back = found.state
    assert back["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert (back["b"], back["c"]) == (b"\x00\xff", {"lr": 0.1, "names": ["x"]})
    assert [back["p"].gauss(0, 1) for _ in range(3)] == [python.gauss(0, 1) for _ in range(3)]
    assert back["g"].normal(size=3).tolist() == bits.normal(size=3).tolist()


@pytest.mark.parametrize("value", [object(), {1: "a"}, (1, 2), np.array([object()]), float("nan")])
def test_what_would_not_come_back_is_refused(tmp_path: Path, value: object) -> None:
    with pytest.raises(Unsavable, match="'state'"):
        Checkpoints(store(tmp_path), "run").save(1, {"state": value})


def test_a_key_is_needed_outside_a_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="key"):
        Checkpoints(store(tmp_path))
