# ruff: noqa: E501 - a table is read by its rows
"""Every refusal says what was asked, what there is, and what would change it; one that passes by waiting never says
"never". One table for all kinds of demand.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
from hypothesis import given, settings
from node_cases import read_node
from strategies import demands, inventories

from trimtab_work_pools.advertise import Advertisement
from trimtab_work_pools.fit import Dimension, Fit, fit_idle
from trimtab_work_pools.ledger import Holding
from trimtab_work_pools.planning.advice import advise, nearest
from trimtab_work_pools.queue.workload import Policy
from trimtab_work_pools.resources import Demand, Inventory
from trimtab_work_pools.rules.known_nodes import away_from
from trimtab_work_pools.wishes import read_demand
from trimtab_work_pools.worker.picking import AWAITING, NEVER, Queued, pick

NOW_S = 1_700_000_000.0  # 2023-11-14 22:13:20
A100, L4 = "NVIDIA A100-SXM4-80GB", "NVIDIA L4"
FLEET: dict[str, dict[str, Any]] = {
    "a": {
        "cpus": 64, "memory_mib": 262_144, "disk_mib": 100_000, "labels": {"region": "eu-1"},
        "gpus": {"count": 4, "model": A100, "memory_mib": 81_920, "nvlink": [[0, 1]]},
    },
    "b": {"cpus": 8, "memory_mib": 32_768, "labels": {"region": "eu-2"}, "gpus": {"count": 1, "model": L4, "memory_mib": 23_034, "capability": "8.9"}},
}  # fmt: skip
SLICED = {"cpus": 8, "gpus": [{"model": A100, "mig": "1g.10gb", "memory_mib": 9_728}] * 7}
ILL = {"cpus": 8, "gpus": [{"model": L4, "healthy": False}]}


def advertised(tables: dict[str, dict[str, Any]], **more: Any) -> list[Advertisement]:
    nodes = [read_node(name, copy.deepcopy(table)) for name, table in tables.items()]
    return [Advertisement(f"w-{node.name}", node, (), NOW_S + 30, **more) for node in nodes]


def reason(fleet: list[Advertisement], known: list[Advertisement] | None = None, **wishes: Any) -> tuple[str, str]:
    run = Queued("r", read_demand({"resources": wishes}), NOW_S - 10)
    picked = pick("", fleet, [run], Policy(), NOW_S)
    return picked.reasons(away_from(fleet, known or [], NOW_S, 30.0))["r"]


@pytest.mark.parametrize(
    ("tables", "wishes", "asked", "there", "remedy"),
    [
        (FLEET, {"gpus": 1, "gpu_models": "A100"}, "needs 1 GPU of model A100", f"the node has 0 of 4 GPUs (4 {A100})",
         f"GPU models here: {A100}, {L4} (did you mean {A100}?): name one of these, or add a node"),
        (FLEET, {"gpus": 1, "gpu_models": "NVIDIA A1O0-SXM4-80GB"}, "of model NVIDIA A1O0", L4, f"did you mean {A100}?"),
        (FLEET, {"gpus": 1, "gpu_mig_profile": "1g.10gb"}, "needs 1 GPU with MIG profile 1g.10gb",
         "the node has 0 of 4 GPUs (4 not cut into slices)", "no GPU here is cut into MIG slices: leave gpu_mig_profile out"),
        ({"s": SLICED}, {"gpus": 1, "gpu_mig_profile": "1g.12gb"}, "with MIG profile 1g.12gb",
         "the node has 0 of 7 GPUs (7 MIG slices 1g.10gb)", "MIG profiles here: 1g.10gb (did you mean 1g.10gb?)"),
        ({"s": SLICED}, {"gpus": 1}, "needs 1 GPU that is no MIG slice", "0 of 7 GPUs (7 MIG slices 1g.10gb)",
         "name one by gpu_mig_profile (1g.10gb), or add a node"),
        (FLEET, {"gpus": 1, "gpu_compute_capability": "9.0"}, "of compute capability 9.0 or more", "(4 8.0)",
         "the highest compute capability here is 8.9"),
        ({"c": {"cpus": 4}}, {"gpus": 1, "gpu_mig_profile": "1g.10gb"}, "needs 1 GPU with MIG profile 1g.10gb",
         "the node has none", "no node here has a GPU that its worker can see"),
        (FLEET, {"gpus": 8}, "needs 8 GPUs", "the node has 4;",
         "the most on one node is 4: ask for at most that, for several nodes (nodes: N, gpus: 4), or add a larger node"),
        (FLEET, {"gpus": 1, "gpu_memory_mib": 100_000}, "needs 97.7 GiB on one GPU", "the most free is 80.0 GiB on gpu 0",
         "the most on one GPU is 81920 MiB: ask for gpu_memory_mib of at most that"),
        (FLEET, {"gpus": 3, "gpu_nvlink": True}, "needs 3 NVLinked GPUs", "at most 2 of 4 GPUs free are linked",
         "no node here has 3 GPUs that are all linked"),
        (FLEET, {"cpus": 100}, "needs 100 CPUs", "64 of 64 free", "the most CPUs on one node is 64"),
        (FLEET, {"memory_mib": 300_000}, "needs 293.0 GiB of host memory", "256.0 GiB free",
         "the most host memory on one node is 262144 MiB: ask for memory_mib of at most that"),
        (FLEET, {"disk_mib": 200_000}, "needs 195.3 GiB of disk", "97.7 GiB free", "the most disk on one node is 100000 MiB"),
        (FLEET, {"cpus": 1, "labels": {"region": "eu1"}}, "needs region=eu1", "the node has region=eu-1",
         "nodes here have region=eu-1 or eu-2 (did you mean eu-1?): name one of these, or start a worker with"
         " TRIMTAB_NODE_LABELS=region=eu1"),
        (FLEET, {"cpus": 1, "labels": {"tier": "gold"}}, "needs tier=gold", "the node has no label tier",
         "no node here has a label tier: start a worker with TRIMTAB_NODE_LABELS=tier=gold"),
        (FLEET, {"gpus": 1, "nodes": 3}, "needs 3 nodes at once", "2 have room", "it needs 3 such nodes at once, and there are 2"),
        (FLEET, {"cpus": 1, "nodes": 2, "labels": {"region": "eu-1"}}, "needs region=eu-1", "1 has room",
         "it needs 2 such nodes at once, and there is 1: ask for fewer nodes, or add some"),
    ],
)  # fmt: skip
def test_what_can_never_start_says_what_there_is_and_what_would_change_it(
    tables: dict[str, dict[str, Any]], wishes: dict[str, Any], asked: str, there: str, remedy: str
) -> None:
    state, said = reason(advertised(tables), **wishes)
    assert state == NEVER
    assert said.startswith("can never start on this fleet, even idle: ")
    assert asked in said
    assert there in said
    assert remedy in said


@pytest.mark.parametrize(
    ("fleet", "known", "wishes", "said"),
    [
        (advertised(FLEET), advertised({"c": SLICED}), {"gpus": 1, "gpu_mig_profile": "1g.10gb"},
         "c would fit (last seen 22:13:20); of the nodes that take runs now none can hold it, even idle"),
        (advertised(FLEET), advertised({"c": SLICED}, draining=True), {"gpus": 1, "gpu_mig_profile": "1g.10gb"},
         "c would fit (last seen 22:13:20, draining)"),
        (advertised({"b": FLEET["b"]}) + advertised({"a": FLEET["a"]}, draining=True), [], {"gpus": 4},
         "a would fit (it is draining)"),
        (advertised({"a": FLEET["a"]}, draining=True), [], {"gpus": 4}, "a would fit (it is draining)"),
        (advertised({"b": FLEET["b"], "i": {**ILL, "cpus": 16}}), [], {"gpus": 1, "cpus": 16},
         "i would fit (GPU 0 is not healthy now, its worker's log says why)"),
        (advertised({"f": {"gpus": [{"used_mib": 30_000}]}}), [], {"gpus": 1, "gpu_memory_mib": 40_000},
         "f would fit (processes that are no runs hold memory of GPU 0)"),
        (advertised({"b": FLEET["b"]}), advertised({"c": FLEET["a"]}), {"gpus": 1, "nodes": 2, "cpus": 8}, "c would fit"),
    ],
)  # fmt: skip
def test_what_could_start_on_a_node_that_is_away_is_never_told_never(
    fleet: list[Advertisement], known: list[Advertisement], wishes: dict[str, Any], said: str
) -> None:
    state, told = reason(fleet, known, **wishes)
    assert state == AWAITING
    assert said in told
    assert "never" not in told


def test_what_is_only_full_now_is_not_told_never() -> None:
    (one, other) = advertised(FLEET)
    demand = Demand(gpus=4)
    found = fit_idle(one.node, demand)
    assert isinstance(found, Fit)
    full = dataclasses.replace(one, holdings=(Holding("old", demand, found.placement, NOW_S - 60, NOW_S - 30),))
    state, said = reason([full, other], gpus=4)
    assert state == AWAITING
    assert "never" not in said
    assert "needs 4 GPUs whole; 0 of 4 GPUs that would do are free" in said


def test_no_node_that_was_ever_there_could_hold_it() -> None:
    state, said = reason(advertised({"b": FLEET["b"]}), advertised({"a": FLEET["a"]}), gpus=8)
    assert state == NEVER
    assert "can never start on this fleet, even idle, nor with a back: " in said
    assert "the most on one node is 4" in said
    assert "back" not in reason(advertised({"f": {"gpus": [{"used_mib": 512}]}}), gpus=8)[1], "it is not away"
    assert reason([], gpus=1) == (
        NEVER, "can never start on this fleet, even idle; start a worker on a node that has it"
    )  # fmt: skip


def test_a_node_is_told_of_once() -> None:
    """One that is there and was away before, or that another worker knew: never "has none" and "would fit" together."""
    fleet = advertised({"b": FLEET["b"]}) + advertised({"a": FLEET["a"]}, draining=True)
    old = [dataclasses.replace(one, expires_s=NOW_S - 500) for one in advertised(FLEET)]
    _, said = reason(fleet, old, gpus=4)
    assert said.count("a would fit") == 1
    assert "a: needs" not in said
    assert "last seen" not in said
    week_old = [dataclasses.replace(one, expires_s=NOW_S - 8 * 86_400) for one in advertised({"c": FLEET["a"]})]
    assert reason(advertised({"b": FLEET["b"]}), week_old, gpus=4)[0] == NEVER
    yesterday = [dataclasses.replace(one, expires_s=NOW_S - 86_400) for one in advertised({"c": FLEET["a"]})]
    assert "last seen 2023-11-13 22:12:50" in reason(advertised({"b": FLEET["b"]}), yesterday, gpus=4)[1]


@pytest.mark.parametrize(
    ("asked", "there", "meant"),
    [
        ("a100", [A100, L4], A100),
        ("Tesla V100", ["Tesla V100-SXM2-32GB", "Tesla T4"], "Tesla V100-SXM2-32GB"),
        ("H1OO", ["NVIDIA H100 PCIe"], ""),
        ("nvidia-l4", [A100, L4], L4),
        ("xyz", [A100], ""),
        ("L4", [], ""),
    ],
)
def test_the_nearest_name(asked: str, there: list[str], meant: str) -> None:
    assert nearest([asked], there) == meant


@settings(max_examples=300, deadline=None)
@given(inventories(), demands())
def test_there_is_advice_for_every_refusal_and_no_name_of_a_node_in_it(inventory: Inventory, demand: Demand) -> None:
    said = advise(inventory.nodes, demand)
    assert said
    renamed = [dataclasses.replace(node, name=f"other-{number}") for number, node in enumerate(inventory.nodes)]
    assert advise(renamed, demand) == said
    assert len(list(Dimension)) == 12, "a new dimension needs its advice"
