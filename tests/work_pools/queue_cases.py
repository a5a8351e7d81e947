"""Reads a queue case: one TOML file with a fleet, a queue, and the plan that is expected of them."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab_work_pools.queue.rooms import Claim, Slots
from trimtab_work_pools.queue.workload import Fleet, Member, Policy, Run, Running

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
    running = tuple(_running(entry) for entry in raw.get("running", []))
    held: dict[str, int] = {}
    for one in running:
        for name, claim in one.parts:
            held[name] = held.get(name, 0) + claim.devices
    members = tuple(
        Member(name, Slots(gpus - held.get(name, 0)), float(gpus)) for name, gpus in raw.get("nodes", {}).items()
    )
    policy = raw.get("policy", {})
    if "shares" in policy:
        policy["shares"] = tuple(policy["shares"].items())
    queue = tuple(_run(entry) for entry in raw["queued"])
    return Case(float(raw["now_s"]), Fleet(members, running), queue, Policy(**policy), raw["expect"])


def _run(entry: dict[str, Any]) -> Run:
    facts = {"submitted_s": 0.0, "expected_s": 600.0, "nodes": 1} | entry
    gpus = facts.pop("gpus", 1)
    return Run(demand=gpus, width=float(gpus * facts["nodes"]), **facts)


def _running(entry: dict[str, Any]) -> Running:
    stretch = {"started_s", "overhead_s", "unsaved_s", "stopping_until_s"}
    on: dict[str, int] = entry["on"]
    facts = {key: value for key, value in entry.items() if key not in stretch | {"on"}}
    run = _run(facts | {"gpus": next(iter(on.values())), "nodes": len(on)})
    return Running(
        run, tuple((n, Claim(0.0, g)) for n, g in on.items()), **{k: entry[k] for k in stretch & entry.keys()}
    )
