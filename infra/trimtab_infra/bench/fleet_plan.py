"""How long the pure plan would take for the runs of `trimtab bench fleet`: no server, no processes, no delays."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from trimtab_work_pools.advertise import Advertisement, fleet_from
from trimtab_work_pools.ledger import Holding
from trimtab_work_pools.queue import plan
from trimtab_work_pools.queue.gpu_rooms import run_of
from trimtab_work_pools.queue.workload import Policy
from trimtab_work_pools.resources import Demand
from trimtab_work_pools.wishes import read_demand

__all__ = ["Asked", "planned_empty_s"]


@dataclass(frozen=True)
class Asked:
    """A run: what it needs, when it was asked for (s), and how long it works (s)."""

    run_id: str
    resources: Mapping[str, Any]
    at_s: float
    seconds: float


def planned_empty_s(fleet: Iterable[Advertisement], asked: Iterable[Asked]) -> float:
    """Seconds from the first run's being asked for to the end of the last, planned again at every arrival and end."""
    held = {one.node.name: replace(one, holdings=()) for one in fleet}
    runs = {one.run_id: one for one in asked}
    demands: dict[str, Demand] = {run_id: read_demand({"resources": one.resources}) for run_id, one in runs.items()}
    events = [(one.at_s, run_id, "") for run_id, one in runs.items()]
    heapq.heapify(events)
    began_s, now_s, queue = events[0][0], events[0][0], dict[str, float]()
    while events:
        now_s, run_id, node = heapq.heappop(events)
        if node:
            kept = tuple(one for one in held[node].holdings if one.run_id != run_id)
            held[node] = replace(held[node], holdings=kept)
        else:
            queue[run_id] = now_s
        if events and events[0][0] == now_s:
            continue
        waiting = [run_of(run_id, demands[run_id], at_s) for run_id, at_s in queue.items()]
        for start in plan(fleet_from(held.values()), waiting, Policy(), now_s).starts:
            name, claim = start.parts[0]
            placement = replace(claim.devices, node=name)
            holding = Holding(start.run_id, demands[start.run_id], placement, queue.pop(start.run_id), now_s)
            held[name] = replace(held[name], holdings=(*held[name].holdings, holding))
            heapq.heappush(events, (now_s + runs[start.run_id].seconds, start.run_id, name))
    return now_s - began_s
