"""Nodes give and take back; never more than there is, on any dimension."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import nodes

from trimtab_work_pools.resources import (
    WHOLE,
    CapacityError,
    Demand,
    Gpu,
    Grant,
    Inventory,
    Node,
    Placement,
    labels_of,
)

NODE = Node("a", 8000, 1000, (Gpu("u0", 0, memory_total_mib=100), Gpu("u1", 1, memory_total_mib=100)), 50)


@settings(max_examples=200, deadline=None)
@given(
    nodes(),
    st.lists(st.tuples(st.integers(0, 5), st.integers(1, WHOLE), st.integers(0, 50_000)), max_size=3),
    st.integers(0, 20_000),
    st.integers(0, 70_000),
)
def test_taken_is_within_what_there_is_or_refused(
    node: Node, grants: list[tuple[int, int, int]], cpu_milli: int, memory_mib: int
) -> None:
    placement = Placement(node.name, tuple(Grant(*grant) for grant in grants), cpu_milli, memory_mib)
    try:
        left = node.take(placement)
    except CapacityError:
        return
    assert 0 <= left.cpu_given_milli <= left.cpu_total_milli
    assert 0 <= left.memory_given_mib <= left.memory_total_mib
    for gpu in left.gpus:
        assert 0 <= gpu.share_given_milli <= WHOLE
        granted = gpu.index in placement.gpus
        assert not granted or gpu.memory_used_mib + gpu.memory_given_mib <= gpu.memory_total_mib
        assert not granted or gpu.healthy
    assert left.give_back(placement) == node


@pytest.mark.parametrize(
    ("placement", "said"),
    [
        (Placement("a", cpu_milli=8001), "node a: cpu_given_milli would be 8001 of 8000"),
        (Placement("a", memory_mib=1001), "node a: memory_given_mib would be 1001 of 1000"),
        (Placement("a", disk_mib=51), "node a: disk_given_mib would be 51 of 50"),
        (Placement("a", (Grant(0), Grant(0))), r"node a: one GPU twice in \(0, 0\)"),
        (Placement("a", (Grant(0, -100),)), "node a: a grant of GPU 0 must not be negative"),
        (Placement("a", (Grant(2),)), "node a has no GPU with index 2"),
        (Placement("a", (Grant(0, 1001),)), "share_given_milli of GPU 0 would be 1001 of 1000"),
        (Placement("a", (Grant(1, 500, 101),)), "memory_given_mib of GPU 1 would be 101 of 100"),
    ],
)
def test_more_than_there_is_is_refused(placement: Placement, said: str) -> None:
    with pytest.raises(CapacityError, match=said):
        NODE.take(placement)


def test_a_gpu_has_one_owner() -> None:
    owned = NODE.take(Placement("a", (Grant(0),)))
    for share in (1, 500, WHOLE):
        with pytest.raises(CapacityError, match="GPU 0"):
            owned.take(Placement("a", (Grant(0, share),)))
    shared = NODE.take(Placement("a", (Grant(0, 600),)))
    assert shared.take(Placement("a", (Grant(0, 400),))).gpus[0].share_free_milli == 0
    with pytest.raises(CapacityError, match="would be 1001"):
        shared.take(Placement("a", (Grant(0, 401),)))


def test_what_was_not_given_cannot_come_back() -> None:
    with pytest.raises(CapacityError, match="cpu_given_milli would be -1"):
        NODE.give_back(Placement("a", cpu_milli=1))
    with pytest.raises(CapacityError, match="share_given_milli of GPU 1 would be -1000"):
        NODE.give_back(Placement("a", (Grant(1),)))


def test_an_unhealthy_gpu_gives_nothing_but_takes_back() -> None:
    """A GPU that fails while a run has it: the run ends and gives it back, and nobody gets it next."""
    placement = Placement("a", (Grant(0, WHOLE, 80),))
    owned = NODE.take(placement)
    failed = dataclasses.replace(owned, gpus=(dataclasses.replace(owned.gpus[0], healthy=False), *owned.gpus[1:]))
    back = failed.give_back(placement)
    assert back.gpus[0].share_free_milli == 0
    assert not back.gpus[0].idle
    with pytest.raises(CapacityError):
        back.take(placement)


def test_an_inventory_takes_over_several_nodes() -> None:
    fleet = Inventory((NODE, dataclasses.replace(NODE, name="b")), 7.0)
    taken = fleet.take([Placement("a", cpu_milli=1000), Placement("b", (Grant(1),))])
    assert [(node.name, node.cpu_free_milli) for node in taken.nodes] == [("a", 7000), ("b", 8000)]
    assert taken.nodes[1].gpus[1].share_free_milli == 0
    assert taken.as_of_s == 7.0
    with pytest.raises(CapacityError, match="node 'c' is not in the inventory"):
        fleet.take([Placement("c")])
    with pytest.raises(CapacityError, match="two nodes are called 'a'"):
        Inventory((NODE, NODE))


def test_memory_in_use_by_others_is_not_free() -> None:
    gpu = Gpu("u", 0, memory_total_mib=100, memory_used_mib=30, memory_given_mib=50)
    assert gpu.memory_free_mib == 20
    assert dataclasses.replace(gpu, memory_used_mib=90).memory_free_mib == 0


def test_values_are_described_in_one_way() -> None:
    assert labels_of({"b": "2", "a": "1"}) == labels_of({"a": "1", "b": "2"}) == (("a", "1"), ("b", "2"))
    half = Demand(gpus=1, gpu_share_milli=500, priority=3, team="x", reads=frozenset(("d",)))
    assert half.shared
    assert half.gpu_milli == 500
    assert not Demand(gpus=2).shared
    assert half.placing() == Demand(gpus=1, gpu_share_milli=500, reads=frozenset(("d",)))
