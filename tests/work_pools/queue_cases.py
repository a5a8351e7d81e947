"""Reads a queue case: one TOML file with a fleet, a queue, and the plan that is expected of them.

Nodes are so many interchangeable GPUs (`a = 8`), or tables as `node_cases` reads them; then runs have `resources` as in
job variables, and what a running run holds is written as there.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from node_cases import held, read_node

from trimtab_work_pools.queue.gpu_rooms import Occupant, fleet_of, run_of
from trimtab_work_pools.queue.rooms import Claim, Slots
from trimtab_work_pools.queue.workload import Fleet, Limit, Member, Policy, Run, Running
from trimtab_work_pools.resources import Inventory
from trimtab_work_pools.wishes import read_demand

_STRETCH = {"started_s", "overhead_s", "unsaved_s", "stopping_until_s"}
CASES = Path(__file__).parents[1] / "cases" / "queue"


@dataclass(frozen=True)
class Case:
    now_s: float
    fleet: Fleet
    queue: tuple[Run, ...]
    policy: Policy
    expect: dict[str, Any]


def read_case(path: Path) -> Case:
    """`nodes` maps a name to its GPUs; a run's `gpus` are per node; `on` maps nodes a running run holds to GPUs."""
    raw = tomllib.loads(path.read_text(encoding="utf-8"))
    policy = raw.get("policy", {})
    if "shares" in policy:
        policy["shares"] = tuple(policy["shares"].items())
    real = any(isinstance(node, dict) for node in raw.get("nodes", {}).values())
    fleet = _real_fleet(raw) if real else _fleet(raw)
    fleet = replace(fleet, limits=tuple(Limit(**entry) for entry in raw.get("limits", [])))
    queue = tuple((_real_run if real else _run)(entry) for entry in raw["queued"])
    return Case(float(raw["now_s"]), fleet, queue, Policy(**policy), raw["expect"])


def _fleet(raw: dict[str, Any]) -> Fleet:
    running = tuple(_running(entry) for entry in raw.get("running", []))
    taken: dict[str, int] = {}
    for one in running:
        for name, claim in one.parts:
            taken[name] = taken.get(name, 0) + claim.devices
    members = (
        Member(name, Slots(gpus - taken.get(name, 0)), float(gpus)) for name, gpus in raw.get("nodes", {}).items()
    )
    return Fleet(tuple(members), running)


def _real_fleet(raw: dict[str, Any]) -> Fleet:
    nodes = {name: read_node(name, table) for name, table in raw["nodes"].items()}
    occupants = []
    for entry in raw.get("running", []):
        placements = tuple(held(nodes[name], what) for name, what in entry["on"].items())
        nodes |= {placement.node: nodes[placement.node].take(placement) for placement in placements}
        stretch = {key: entry[key] for key in _STRETCH & entry.keys()}
        facts = {key: value for key, value in entry.items() if key not in _STRETCH | {"on"}}
        occupants.append(Occupant(_real_run(facts), placements, **stretch))
    return fleet_of(Inventory(tuple(nodes.values())), occupants)


def _real_run(entry: dict[str, Any]) -> Run:
    facts = {"submitted_s": 0.0} | entry
    demand = read_demand({"resources": {"expected_s": 600.0} | facts.pop("resources", {})})
    return run_of(facts.pop("id"), demand, facts.pop("submitted_s"), **facts)


def _run(entry: dict[str, Any]) -> Run:
    facts = {"submitted_s": 0.0, "expected_s": 600.0, "nodes": 1} | entry
    facts["limits"] = tuple(facts.get("limits", ()))
    gpus = facts.pop("gpus", 1)
    return Run(demand=gpus, width=float(gpus * facts["nodes"]), **facts)


def _running(entry: dict[str, Any]) -> Running:
    on: dict[str, int] = entry["on"]
    facts = {key: value for key, value in entry.items() if key not in _STRETCH | {"on"}}
    run = _run(facts | {"gpus": next(iter(on.values())), "nodes": len(on)})
    return Running(
        run, tuple((n, Claim(0.0, g)) for n, g in on.items()), **{k: entry[k] for k in _STRETCH & entry.keys()}
    )
