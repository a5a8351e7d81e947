"""Nodes that take no runs now and might again: drained, down, not heard of, or with a GPU that is not well. Pure.

They never count for a plan. They are known so that nobody is told to ask for less because a node is away.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime

from trimtab_work_pools.advertise import Advertisement
from trimtab_work_pools.queue.explain import Away
from trimtab_work_pools.queue.gpu_rooms import fleet_of
from trimtab_work_pools.resources import Gpu, Inventory, Node

__all__ = ["KEPT_S", "away_from", "last_seen", "remembered"]

KEPT_S = 7 * 86_400.0
"""So long a node is remembered."""


def remembered(
    fleet: Iterable[Advertisement], known: Iterable[Advertisement], now_s: float
) -> tuple[Advertisement, ...]:
    """Of all that is `known`, the latest of each node that the `fleet` does not have, no older than `KEPT_S`."""
    here = {one.node.name for one in fleet}
    latest: dict[str, Advertisement] = {}
    for one in sorted(known, key=lambda one: (one.expires_s, one.worker)):
        if one.node.name not in here and now_s - one.expires_s < KEPT_S:
            latest[one.node.name] = one
    return tuple(latest[name] for name in sorted(latest))


def away_from(
    fleet: Iterable[Advertisement], known: Iterable[Advertisement], now_s: float, good_s: float
) -> tuple[Away, ...]:
    """What each such node could hold, if it took runs again and were idle. `fleet` is what is planned with; an
    advertisement is good for `good_s`.
    """
    fleet = tuple(fleet)
    found = [
        *_unwell(fleet),
        *((one.node, last_seen(one, now_s, good_s), False) for one in remembered(fleet, known, now_s)),
    ]
    rooms = {member.name: member.room for member in fleet_of(Inventory(tuple(node for node, _, _ in found))).members}
    return tuple(Away(node.name, rooms[node.name], said, instead) for node, said, instead in found)


def last_seen(one: Advertisement, now_s: float, good_s: float) -> str:
    """`last seen 03:06:10, draining`; with the day if it was another."""
    seen, now = (datetime.fromtimestamp(at_s, UTC) for at_s in (one.expires_s - good_s, now_s))
    clock = f"{seen:%H:%M:%S}" if seen.date() == now.date() else f"{seen:%Y-%m-%d %H:%M:%S}"
    return f"last seen {clock}" + (f", {one.closed or 'draining'}" if one.draining else "")


def _unwell(fleet: Iterable[Advertisement]) -> Iterator[tuple[Node, str, bool]]:
    for one in fleet:
        ill = [gpu.index for gpu in one.node.gpus if not gpu.healthy]
        full = [gpu.index for gpu in one.node.gpus if gpu.memory_used_mib]
        node = replace(one.node, gpus=tuple(map(_well, one.node.gpus)))
        if one.draining:
            yield node, one.closed or "it is draining", True
        elif ill:
            yield node, f"GPU {_list(ill)} is not healthy now, its worker's log says why", False
        elif full:
            yield node, f"processes that are no runs hold memory of GPU {_list(full)}", False


def _well(gpu: Gpu) -> Gpu:
    return replace(gpu, healthy=True, memory_used_mib=0)


def _list(indices: list[int]) -> str:
    return ", ".join(map(str, indices))
