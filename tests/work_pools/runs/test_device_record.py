"""Which devices a run was given: written as labels, read back, said in its log."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trimtab_work_pools.runs.device_record import Attempt, attempts_of, began_labels, ended_labels, given_text

NAMES = st.text("GPUMIG-0123456789abcdef/", min_size=1, max_size=40)
TIMES = st.integers(0, 2**33).map(float)


@given(st.lists(st.tuples(NAMES, st.lists(NAMES, max_size=8), TIMES, st.none() | TIMES), max_size=5))
def test_every_attempt_is_read_back_as_it_was(
    written: list[tuple[str, list[str], float, float | None]],
) -> None:
    labels: dict[str, object] = {
        "prefect.worker.name": "w",
        "trimtab.attempt.x": 1,
        "trimtab.attempt.7.from": "no time",
    }
    for number, (node, gpus, from_s, to_s) in enumerate(written, start=1):
        labels |= began_labels(number, node, gpus, from_s)
        labels |= {} if to_s is None else ended_labels(number, to_s)
    wanted = [
        Attempt(number, node, tuple(gpus), *times) for number, (node, gpus, *times) in enumerate(written, start=1)
    ]
    assert list(attempts_of(labels)) == wanted


def test_an_attempt_counts_while_a_part_of_it_was_later() -> None:
    assert Attempt(1, "a", (), 10.0).within(99.0), "nobody knows that it has ended"
    assert Attempt(1, "a", (), 10.0, 20.0).within(20.0)
    assert not Attempt(1, "a", (), 10.0, 20.0).within(21.0)


def test_what_the_log_says() -> None:
    assert given_text([("GPU-1", 1000), ("GPU-2", 1000)], "node-a") == "given GPU-1, GPU-2 on node-a"
    assert given_text([("GPU-1", 250)], "node-a") == "given 0.25 of GPU-1 on node-a"
    assert given_text([], "node-a") == "given no GPU on node-a"
