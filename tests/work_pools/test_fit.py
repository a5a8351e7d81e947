"""`fit`: the exact devices, or a true refusal; brute force says the same. Each refusal's words are in tests/cases."""

from __future__ import annotations

import dataclasses
from itertools import combinations
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from node_cases import read_node
from strategies import demands, nodes

from trimtab_work_pools.fit import Dimension, Fit, Refused, fit, fit_idle, options
from trimtab_work_pools.resources import WHOLE, Demand, Gpu, Node


def could(node: Node, demand: Demand) -> bool:
    """Every set of devices tried, by the words of the demand."""
    labels = dict(node.labels)
    host = (
        demand.cpu_milli <= node.cpu_free_milli
        and demand.memory_mib <= node.memory_free_mib
        and demand.disk_mib <= node.disk_free_mib
        and all(labels.get(key) in allowed for key, allowed in demand.node_labels)
    )
    return host and any(_will_do(chosen, demand) for chosen in combinations(node.gpus, demand.gpus))


def _will_do(chosen: tuple[Gpu, ...], demand: Demand) -> bool:
    linked = all(two.index in one.nvlink_peers for one, two in combinations(chosen, 2))
    return (linked or not demand.gpu_nvlink) and all(_one_will_do(gpu, demand) for gpu in chosen)


def _one_will_do(gpu: Gpu, demand: Demand) -> bool:
    part_mib = gpu.memory_total_mib * demand.gpu_share_milli // WHOLE
    memory_mib = demand.gpu_memory_mib or (part_mib if demand.shared else 0)
    return (
        gpu.healthy
        and (not demand.gpu_models or gpu.model in demand.gpu_models)
        and gpu.mig_profile == demand.gpu_mig_profile
        and gpu.compute_capability >= demand.gpu_compute_capability
        and WHOLE - gpu.share_given_milli >= demand.gpu_share_milli
        and gpu.memory_free_mib >= memory_mib
    )


@settings(max_examples=400, deadline=None)
@given(nodes(), demands())
def test_fit_is_true_and_can_be_taken(node: Node, demand: Demand) -> None:
    found = fit(node, demand)
    assert isinstance(found, Fit) == could(node, demand)
    if isinstance(found, Fit):
        left = node.take(found.placement)
        assert len(found.placement.gpus) == demand.gpus
        assert left.cpu_free_milli == node.cpu_free_milli - demand.cpu_milli
        assert isinstance(fit_idle(node, demand), Fit)
    else:
        assert found.short > 0
        assert found.text.startswith("needs ")


@settings(max_examples=200, deadline=None)
@given(nodes(), demands())
def test_every_option_can_be_taken(node: Node, demand: Demand) -> None:
    found = options(node, demand)
    if isinstance(found, Refused):
        return
    assert len(set(found)) == len(found)
    assert fit(node, demand) == Fit(found[0])
    for option in found:
        node.take(option)


@settings(max_examples=200, deadline=None)
@given(nodes(), demands(), st.randoms(use_true_random=False))
def test_neither_names_nor_the_order_of_gpus_matter(node: Node, demand: Demand, random: Random) -> None:
    other = dataclasses.replace(node, name="other", gpus=tuple(random.sample(node.gpus, len(node.gpus))))
    one, two = fit(node, demand), fit(other, demand)
    if isinstance(one, Fit) and isinstance(two, Fit):
        assert dataclasses.replace(one.placement, node="") == dataclasses.replace(two.placement, node="")
    else:
        assert isinstance(one, Refused)
        assert isinstance(two, Refused)
        assert dataclasses.replace(one, node="") == dataclasses.replace(two, node="")


@settings(max_examples=200, deadline=None)
@given(nodes(), demands())
def test_more_of_anything_never_refuses(node: Node, demand: Demand) -> None:
    if not isinstance(fit(node, demand), Fit):
        return
    index = len(node.gpus)
    more = dataclasses.replace(
        node,
        cpu_total_milli=node.cpu_total_milli + 1000,
        memory_total_mib=node.memory_total_mib + 1,
        disk_total_mib=node.disk_total_mib + 1,
        gpus=(*node.gpus, Gpu("GPU-more", index, "A100", 80_000, compute_capability=(9, 0))),
    )
    assert isinstance(fit(more, demand), Fit)


def test_a_refusal_says_by_how_much() -> None:
    node = read_node("a", {"cpus": 8, "gpus": {"count": 2, "memory_mib": 16_384}})
    refused = fit(node, Demand(gpus=1, gpu_memory_mib=24_576))
    assert isinstance(refused, Refused)
    assert (refused.dimension, refused.needed, refused.available, refused.short) == (
        Dimension.GPU_MEMORY,
        24_576,
        16_384,
        8192,
    )
    assert refused.node == "a"


@given(
    total_mib=st.integers(8_000, 200_000),
    parts=st.integers(2, 8),
    kept_mib=st.integers(0, 600),
    more_mib=st.integers(0, 64),
)
def test_as_many_shares_as_there_are_parts_fit_a_gpu_of_which_the_driver_keeps_some(
    total_mib: int, parts: int, kept_mib: int, more_mib: int
) -> None:
    """And keeps a little more with each run that starts, which is no reason to turn the next one away."""
    more_mib = min(more_mib, total_mib // 2000)
    node = Node("a", 1, 1, (Gpu("GPU-a", 0, "A100", total_mib, kept_mib),))
    for _ in range(parts):
        found = fit(node, Demand(gpus=1, gpu_share_milli=1000 // parts))
        assert isinstance(found, Fit)
        node = node.take(found.placement)
        gpu = node.gpus[0]
        node = dataclasses.replace(
            node, gpus=(dataclasses.replace(gpu, memory_used_mib=gpu.memory_used_mib + more_mib),)
        )
    assert gpu.memory_given_mib <= total_mib - kept_mib


def test_a_refusal_by_a_little_is_not_rounded_away() -> None:
    node = read_node("a", {"gpus": {"count": 1, "memory_mib": 24_570}})
    refused = fit(node, Demand(gpus=1, gpu_memory_mib=24_576))
    assert isinstance(refused, Refused)
    assert refused.text == "needs 24576 MiB on one GPU; the most free is 24570 MiB on gpu 0"


def test_what_is_given_away_is_not_a_lasting_refusal() -> None:
    node = read_node("a", {"gpus": {"count": 1}, "given": [{"gpus": [0], "cpus": 64}]})
    assert isinstance(fit(node, Demand(gpus=1)), Refused)
    assert isinstance(fit_idle(node, Demand(gpus=1)), Fit)
    assert isinstance(fit_idle(node, Demand(gpus=2)), Refused)


def test_gpus_without_links_stay_behind_rather_than_an_island_is_broken() -> None:
    """Eight GPUs, four and three linked: three come from the island of three."""
    links = [[0, 1, 2, 3], [4, 5, 6]]
    node = read_node("a", {"gpus": {"count": 8, "nvlink": links}})
    linked = fit(node, Demand(gpus=3, gpu_nvlink=True))
    assert isinstance(linked, Fit)
    assert linked.placement.gpus == (4, 5, 6)
