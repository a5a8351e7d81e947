"""Placement: cases from files, and what must never happen, as properties."""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from node_cases import read_inventory
from strategies import demands, inventories, nodes

from trimtab_work_pools.fit import Fit, fit
from trimtab_work_pools.placement import Placer, Unplaced, place
from trimtab_work_pools.rank.mix import Mix
from trimtab_work_pools.rank.stranding import StrandingRank
from trimtab_work_pools.resources import CapacityError, Demand, Inventory, Node
from trimtab_work_pools.wishes import read_demand

CASES = Path(__file__).parents[1] / "cases" / "placement"


@pytest.mark.parametrize("path", sorted(CASES.glob("*.toml")), ids=lambda path: path.stem)
@pytest.mark.parametrize("backwards", [False, True], ids=["", "backwards"])
def test_case(path: Path, backwards: bool) -> None:
    """`resources` as in job variables; `history` is the mix of demands that is known; the nodes in either order."""
    raw = tomllib.loads(path.read_text(encoding="utf-8"))
    expect, inventory = raw["expect"], read_inventory(raw["nodes"])
    if backwards:
        inventory = Inventory(inventory.nodes[::-1])
    history = [read_demand({"resources": wishes}) for wishes in raw.get("history", [])]
    found = place(inventory, read_demand(raw), Mix.of(history) if history else None)
    if "refused" in expect:
        assert isinstance(found, Unplaced)
        assert {refused.node: refused.dimension for refused in found.refusals} == {
            node: dimension for node, (dimension, _) in expect["refused"].items()
        }
        for refused in found.refusals:
            assert expect["refused"][refused.node][1] in refused.text
        return
    assert not isinstance(found, Unplaced)
    if "on" in expect:
        assert {placement.node: list(placement.gpus) for placement in found} == expect["on"]
    if "domains" in expect:
        domains = {node.name: node.failure_domain for node in inventory.nodes}
        assert sorted(domains[placement.node] for placement in found) == expect["domains"]
    inventory.take(found)


def nameless(inventory: Inventory) -> list[object]:
    """What is free and given in a fleet, whatever the names and the order of its nodes."""
    nodes = [
        dataclasses.replace(node, name="", gpus=tuple(dataclasses.replace(gpu, uuid="") for gpu in node.gpus))
        for node in inventory.nodes
    ]
    return sorted(repr(node) for node in nodes)


@settings(max_examples=150, deadline=None)
@given(inventories(), st.lists(demands(), max_size=8))
def test_what_is_placed_is_there_and_what_is_not_has_no_room(inventory: Inventory, wanted: list[Demand]) -> None:
    """`Inventory.take` refuses to give anything twice, or more of anything than there is."""
    placer = Placer(inventory)
    for demand in wanted:
        before = placer.inventory
        placements = placer.place(demand)
        roomy = [node.name for node in before.nodes if isinstance(fit(node, demand), Fit)]
        assert len({placement.node for placement in placements}) == len(placements)
        assert len(placements) == (demand.nodes if len(roomy) >= demand.nodes else 0)
        assert {placement.node for placement in placements} <= set(roomy)
        assert sorted(before.take(placements).nodes, key=lambda node: node.name) == sorted(
            placer.inventory.nodes, key=lambda node: node.name
        )


@settings(max_examples=100, deadline=None)
@given(inventories(), st.lists(demands(), max_size=6), st.randoms(use_true_random=False))
def test_names_and_order_of_nodes_do_not_matter(inventory: Inventory, wanted: list[Demand], random: Random) -> None:
    names = [node.name for node in inventory.nodes]
    new = dict(zip(names, random.sample([f"host-{place}" for place in range(len(names))], len(names)), strict=True))
    other = Inventory(
        tuple(dataclasses.replace(node, name=new[node.name]) for node in random.sample(inventory.nodes, len(names)))
    )
    one, two = Placer(inventory), Placer(other)
    for demand in wanted:
        assert len(one.place(demand)) == len(two.place(demand))
        assert nameless(one.inventory) == nameless(two.inventory)


@settings(max_examples=100, deadline=None)
@given(inventories(), demands(), nodes())
def test_more_capacity_never_makes_a_run_unplaceable(inventory: Inventory, demand: Demand, more: Node) -> None:
    grown = Inventory((*inventory.nodes, dataclasses.replace(more, name="one-more")))
    if not isinstance(place(inventory, demand), Unplaced):
        assert not isinstance(place(grown, demand), Unplaced)


@settings(max_examples=100, deadline=None)
@given(inventories(), st.lists(demands(), min_size=1, max_size=6))
def test_scores_kept_are_as_good_as_fresh_ones(inventory: Inventory, wanted: list[Demand]) -> None:
    """A placer that has seen a day goes on like one that starts from where it stands."""
    mix = Mix.of(wanted)
    old = Placer(inventory, lambda table: StrandingRank(table, mix=mix))
    for demand in (*wanted, *wanted):
        fresh = Placer(old.inventory, lambda table: StrandingRank(table, mix=mix))
        placements = old.place(demand)
        assert len(fresh.place(demand)) == len(placements)
        assert nameless(fresh.inventory) == nameless(old.inventory)
        for placement in placements[::2]:
            old.release(placement)


def test_released_is_as_if_never_given() -> None:
    inventory = read_inventory({"a": {"gpus": {"count": 4}}, "b": {"gpus": {"count": 2}}})
    placer = Placer(inventory)
    wishes = ({"gpus": 1, "nodes": 2}, {"gpus": 2}, {"gpu_share": 0.5}, {"cpus": 8})
    placed = [placement for one in wishes for placement in placer.place(read_demand({"resources": one}))]
    assert len(placed) == 5
    for placement in placed:
        placer.release(placement)
    assert nameless(placer.inventory) == nameless(inventory)
    with pytest.raises(CapacityError, match="node a"):
        placer.release(dataclasses.replace(placed[0], node="a"))
