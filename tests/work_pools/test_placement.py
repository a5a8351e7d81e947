"""Placement: cases from files, and what must never happen, as properties."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from node_cases import read_inventory

from trimtab_work_pools.placement import Unplaced, place
from trimtab_work_pools.rank.mix import Mix
from trimtab_work_pools.resources import Inventory
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
