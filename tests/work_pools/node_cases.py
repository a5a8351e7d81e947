"""Reads nodes as the cases write them: `[nodes.NAME]` tables, with what of them is given away."""

from __future__ import annotations

from typing import Any

from trimtab_work_pools.resources import Gpu, Inventory, Node, Placement, labels_of
from trimtab_work_pools.resources import Grant as Held

__all__ = ["held", "read_inventory", "read_node"]


def read_inventory(tables: dict[str, dict[str, Any]]) -> Inventory:
    return Inventory(tuple(read_node(name, table) for name, table in tables.items()))


def read_node(name: str, table: dict[str, Any]) -> Node:
    """Keys: cpus, memory_mib, disk_mib, labels, domain, cached, gpus (a table for all, or a list), given (a list)."""
    gpus = table.get("gpus", [])
    if isinstance(gpus, dict):
        count = gpus.pop("count")
        links = gpus.pop("nvlink", [])
        gpus = [gpus | {"peers": _peers(index, links)} for index in range(count)]
    node = Node(
        name,
        round(table.get("cpus", 64) * 1000),
        table.get("memory_mib", 262_144),
        tuple(_gpu(name, index, facts) for index, facts in enumerate(gpus)),
        table.get("disk_mib", 0),
        labels=labels_of(table.get("labels", {})),
        failure_domain=table.get("domain", ""),
        cached_digests=frozenset(table.get("cached", [])),
    )
    for entry in table.get("given", []):
        node = node.take(held(node, entry))
    return node


def held(node: Node, entry: dict[str, Any]) -> Placement:
    """What a run holds: gpus (indices), share, gpu_memory_mib, cpus, memory_mib; whole GPUs with all their memory."""
    share = round(entry.get("share", 1) * 1000)
    grants = []
    for index in entry.get("gpus", []):
        memory_mib = node.gpus[index].memory_free_mib if share == 1000 else 0
        grants.append(Held(index, share, entry.get("gpu_memory_mib", memory_mib)))
    cpu_milli = round(entry.get("cpus", 0) * 1000)
    return Placement(node.name, tuple(grants), cpu_milli, entry.get("memory_mib", 0), entry.get("disk_mib", 0))


def _peers(index: int, groups: list[list[int]]) -> frozenset[int]:
    return frozenset(other for group in groups if index in group for other in group) - {index}


def _gpu(name: str, index: int, facts: dict[str, Any]) -> Gpu:
    major, minor = str(facts.get("capability", "8.0")).split(".")
    return Gpu(
        f"GPU-{name}-{index}",
        index,
        facts.get("model", "A100"),
        facts.get("memory_mib", 40_960),
        facts.get("used_mib", 0),
        compute_capability=(int(major), int(minor)),
        mig_profile=facts.get("mig", ""),
        nvlink_peers=facts.get("peers", frozenset()),
        numa_node=facts.get("numa"),
        healthy=facts.get("healthy", True),
    )
