"""Which port a part gets."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from trimtab_infra.errors import PortTaken
from trimtab_infra.stack.ports import HOST, choose, is_free


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody listens on."""
    with socket.create_server((HOST, 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def free() -> int:
    """A port that nobody listens on."""
    with socket.create_server((HOST, 0)) as server:
        port = server.getsockname()[1]
    return int(port)


def test_a_port_with_a_listener_is_not_free(taken: int) -> None:
    assert not is_free(taken)


def test_the_usual_port_is_taken_where_it_is_free(free: int) -> None:
    assert choose({"prefect": free}, {}, {}) == {"prefect": free}


def test_another_one_is_picked_where_the_usual_port_is_in_use(taken: int) -> None:
    chosen = choose({"prefect": taken}, {}, {})["prefect"]
    assert chosen != taken
    assert is_free(chosen)


def test_two_parts_never_get_the_same_port(free: int) -> None:
    chosen = choose({"prefect": free, "mlflow": free}, {}, {})
    assert len(set(chosen.values())) == 2


def test_a_port_that_is_asked_for_goes_before_another_parts_usual_one(free: int) -> None:
    chosen = choose({"mlflow": free, "prefect": 1}, {"prefect": free}, {})
    assert chosen["prefect"] == free
    assert chosen["mlflow"] != free


def test_a_port_that_is_asked_for_and_in_use_is_refused(taken: int) -> None:
    with pytest.raises(PortTaken, match=rf"port {taken} for mlflow is in use; leave --mlflow-port away"):
        choose({"mlflow": 5000}, {"mlflow": taken}, {})


def test_one_port_cannot_be_asked_for_twice(free: int) -> None:
    with pytest.raises(PortTaken, match=f"port {free} for mlflow is in use"):
        choose({}, {"prefect": free, "mlflow": free}, {})


def test_a_part_that_runs_keeps_its_port(taken: int, free: int) -> None:
    assert choose({"prefect": free}, {"prefect": taken}, {"prefect": taken}) == {"prefect": taken}
    with pytest.raises(PortTaken, match=rf"prefect runs on port {taken}; run `trimtab down` before"):
        choose({"prefect": free}, {"prefect": free}, {"prefect": taken})
