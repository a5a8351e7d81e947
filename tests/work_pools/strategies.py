"""Shared strategies: small nodes with every trait a demand may ask for, demands that such nodes may or may not meet."""

from __future__ import annotations

import dataclasses

from hypothesis import strategies as st

from trimtab_work_pools.resources import WHOLE, Demand, Gpu, Grant, Inventory, Node, Placement

__all__ = ["demands", "gpus", "inventories", "nodes", "placements"]

MEMORY_MIB = (0, 8192, 16_384, 40_960)
MODELS = ("A100", "T4")
DIGESTS = ("sha256:a", "sha256:b")


@st.composite
def gpus(draw: st.DrawFn, index: int, node_numa: bool) -> Gpu:
    total = draw(st.sampled_from(MEMORY_MIB))
    return Gpu(
        f"GPU-{index}",
        index,
        draw(st.sampled_from(MODELS)),
        total,
        draw(st.sampled_from((0, 0, total // 2))),
        compute_capability=draw(st.sampled_from(((7, 5), (8, 0), (9, 0)))),
        mig_profile=draw(st.sampled_from(("", "", "", "1g.10gb"))),
        numa_node=draw(st.integers(0, 1)) if node_numa else None,
        healthy=draw(st.integers(0, 7)) != 7,
    )


@st.composite
def nodes(draw: st.DrawFn, name: str = "n") -> Node:
    """Up to five GPUs, alike or not, in up to two NVLink islands; some of it given away."""
    count = draw(st.integers(0, 5))
    numa = draw(st.booleans())
    if draw(st.booleans()):
        model = draw(gpus(0, False))
        found = [dataclasses.replace(model, uuid=f"GPU-{index}", index=index) for index in range(count)]
    else:
        found = [draw(gpus(index, numa)) for index in range(count)]
    islands = [draw(st.integers(0, 2)) for _ in found]  # 2: linked with nobody
    for index, island in enumerate(islands):
        peers = frozenset(other for other, its in enumerate(islands) if its == island < 2) - {index}
        found[index] = dataclasses.replace(found[index], nvlink_peers=peers)
    node = Node(
        name,
        draw(st.sampled_from((4000, 8000, 16_000))),
        draw(st.sampled_from((16_384, 65_536))),
        tuple(found),
        draw(st.sampled_from((0, 10_240))),
        labels=draw(st.sampled_from(((), (("region", "eu"),), (("region", "us"), ("zone", "a"))))),
        failure_domain=draw(st.sampled_from(("", "r1", "r2"))),
        cached_digests=draw(st.frozensets(st.sampled_from(DIGESTS))),
    )
    grants = []
    for gpu in node.gpus:
        share = draw(st.sampled_from((0, 0, 300, 500, WHOLE)))
        if share and gpu.healthy:
            memory_mib = gpu.memory_free_mib if share == WHOLE else draw(st.integers(0, gpu.memory_free_mib))
            grants.append(Grant(gpu.index, share, memory_mib))
    cpu_milli, memory_mib = draw(st.sampled_from((0, 1000, 4000))), draw(st.sampled_from((0, 8192)))
    return node.take(Placement(name, tuple(grants), cpu_milli, memory_mib))


@st.composite
def inventories(draw: st.DrawFn) -> Inventory:
    """Up to five nodes; two in one state are not rare."""
    found: list[Node] = []
    for number in range(draw(st.integers(1, 5))):
        again = found and draw(st.integers(0, 2)) == 0
        node = draw(st.sampled_from(found)) if again else draw(nodes())
        found.append(dataclasses.replace(node, name=f"n{number}"))
    return Inventory(tuple(found))


@st.composite
def demands(draw: st.DrawFn) -> Demand:
    """Whole GPUs, a share of one, or none; most ask for little else."""
    count = draw(st.sampled_from((0, 1, 1, 1, 2, 2, 3, 4)))
    share = draw(st.sampled_from((200, 300, 500, WHOLE))) if count == 1 else WHOLE
    rare = st.sampled_from((False, False, False, True))
    return Demand(
        gpus=count,
        gpu_share_milli=share,
        gpu_memory_mib=draw(st.sampled_from(MEMORY_MIB[:3])) if count and draw(rare) else 0,
        gpu_compute_capability=draw(st.sampled_from(((8, 0), (9, 0)))) if count and draw(rare) else (0, 0),
        gpu_models=draw(st.frozensets(st.sampled_from(MODELS), min_size=1)) if count and draw(rare) else frozenset(),
        gpu_mig_profile="1g.10gb" if count == 1 and draw(rare) else "",
        gpu_nvlink=count > 1 and draw(st.booleans()),
        cpu_milli=draw(st.sampled_from((0, 1000, 2500, 6000))),
        memory_mib=draw(st.sampled_from((0, 4096, 20_000))),
        disk_mib=draw(st.sampled_from((0, 0, 0, 5000))),
        node_labels=(("region", frozenset(("eu", "us"))),) if draw(rare) else (),
        nodes=draw(st.sampled_from((1, 1, 1, 2))),
        reads=draw(st.frozensets(st.sampled_from(DIGESTS))) if draw(rare) else frozenset(),
        priority=draw(st.integers(0, 1)),
        preemptible=draw(st.booleans()),
        expected_s=draw(st.sampled_from((60.0, 3600.0, 50_000.0))),
        team=draw(st.sampled_from(("", "x"))),
    )


@st.composite
def placements(draw: st.DrawFn) -> Placement:
    """Of any node: it may never have had that much."""
    grants = st.builds(
        Grant, st.integers(0, 6), st.sampled_from((300, 500, WHOLE)), st.sampled_from((0, 8192, 40_960, 99_999))
    )
    return Placement(
        "n",
        tuple(draw(st.lists(grants, max_size=4))),
        draw(st.sampled_from((0, 1000, 8000, 64_000))),
        draw(st.sampled_from((0, 8192, 100_000))),
        draw(st.sampled_from((0, 5000, 10_240))),
    )
