"""Reads the OpenB trace (Alibaba cluster-trace-gpu-v2023) and places its tasks by the protocol of FGD (USENIX ATC'23).

Tasks arrive one at a time, never depart and are tried once. In the published protocol they are a seeded shuffle of the
list, brought to 1.3 x the GPU capacity with clones drawn uniformly (or by dropping random tasks from a larger list).
"""

from __future__ import annotations

import csv
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from trimtab_work_pools.placement import Placer
from trimtab_work_pools.rank.stranding import Ranking
from trimtab_work_pools.rank.table import FleetTable
from trimtab_work_pools.resources import WHOLE, Demand, Gpu, Inventory, Node, Placement

__all__ = ["Outcome", "Task", "TraceError", "arrivals", "grown", "read_nodes", "read_tasks", "renamed", "run"]

ARRIVALS = 1.3
"""GPU share that arrives, as a multiple of capacity."""


class TraceError(ValueError):
    """A trace file is not as described; the text names the file, the line and the column."""


@dataclass(frozen=True, slots=True)
class Task:
    name: str
    demand: Demand


@dataclass(frozen=True, slots=True)
class Outcome:
    """Percent of GPU share allocated when arrivals have reached 100 % and 130 % of it; what went where.

    Where less arrived than that, it is the percent at the end; `arrived` (percent of capacity) tells. `seconds` is the
    time of one thread spent placing.
    """

    alloc_at_100: float
    alloc_at_130: float
    arrived: float
    placed: int
    decisions: tuple[Placement | None, ...]
    seconds: float

    @property
    def placements_per_s(self) -> float:
        """Decisions per second, those that found no room included."""
        return len(self.decisions) / self.seconds if self.seconds else 0.0


def read_nodes(path: Path) -> Inventory:
    """Nodes of `sn,cpu_milli,memory_mib,gpu,model`. Raises TraceError."""
    nodes = [
        Node(
            name=row.text("sn"),
            cpu_total_milli=row.number("cpu_milli"),
            memory_total_mib=row.number("memory_mib"),
            gpus=tuple(
                Gpu(f"{row.text('sn')}/{i}", i, model=row.values.get("model") or "") for i in range(row.number("gpu"))
            ),
        )
        for row in _rows(path)
    ]
    if not any(node.gpus for node in nodes):
        raise TraceError(f"{path}: no node has a GPU; a placement benchmark needs some")
    try:
        return Inventory(tuple(nodes))
    except ValueError as error:
        raise TraceError(f"{path}: {error}") from None


def read_tasks(path: Path) -> tuple[Task, ...]:
    """Tasks of `name,cpu_milli,memory_mib,num_gpu,gpu_milli` and, if there, `gpu_spec` ("A|B"). Raises TraceError."""
    tasks = tuple(Task(row.text("name"), _demand(row)) for row in _rows(path))
    if not tasks:
        raise TraceError(f"{path}: there are no tasks in it")
    return tasks


def _demand(row: _Row) -> Demand:
    gpus, share = row.number("num_gpu"), row.number("gpu_milli")
    if gpus and not 1 <= share <= WHOLE:
        raise row.error("gpu_milli", f"must be from 1 to {WHOLE} with num_gpu {gpus}")
    if gpus > 1 and share < WHOLE:
        raise row.error("gpu_milli", f"must be {WHOLE} with num_gpu {gpus}: a share is of one GPU")
    models = row.values.get("gpu_spec") or ""
    return Demand(
        gpus=gpus,
        gpu_share_milli=share if gpus else WHOLE,
        gpu_models=frozenset(models.split("|")) if models and gpus else frozenset(),
        cpu_milli=row.number("cpu_milli"),
        memory_mib=row.number("memory_mib"),
    )


@dataclass(frozen=True, slots=True)
class _Row:
    path: Path
    line: int
    values: dict[str, str | None]

    def error(self, column: str, said: str) -> TraceError:
        return TraceError(f"{self.path}, line {self.line}: {column} {said}, not {self.values.get(column)!r}")

    def text(self, column: str) -> str:
        value = self.values.get(column)
        if not value:
            raise self.error(column, "must be there")
        return value

    def number(self, column: str) -> int:
        text = self.text(column)
        if not text.isascii() or not text.isdigit():
            raise self.error(column, "must be a whole number of 0 or more")
        return int(text)


def _rows(path: Path) -> Iterator[_Row]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for line, values in enumerate(csv.DictReader(file), start=2):
                yield _Row(path, line, values)
    except UnicodeDecodeError:
        raise TraceError(f"{path}: is not a CSV file in UTF-8") from None
    except OSError as error:
        raise TraceError(f"{path}: cannot be read: {error.strerror}") from None


def arrivals(tasks: Sequence[Task], inventory: Inventory, seed: int, times: float = ARRIVALS) -> tuple[Task, ...]:
    """The published protocol: `tasks` brought to `times` x the GPU capacity and shuffled, the same for one seed.

    Raises TraceError if no task asks for a GPU.
    """
    capacity_milli = _capacity_milli(inventory)
    draw = random.Random(seed)
    chosen = list(tasks)
    total, wanted = sum(task.demand.gpu_milli for task in chosen), times * capacity_milli
    if total == 0:
        raise TraceError("no task asks for a GPU: arrivals would never reach the capacity")
    while total < wanted:
        chosen.append(draw.choice(tasks))
        total += chosen[-1].demand.gpu_milli
    draw.shuffle(chosen)
    while total - chosen[-1].demand.gpu_milli >= wanted:
        total -= chosen.pop().demand.gpu_milli
    return tuple(chosen)


def renamed(inventory: Inventory, seed: int) -> Inventory:
    """The same nodes in another order, their names dealt out among them."""
    nodes = list(inventory.nodes)
    names = [node.name for node in nodes]
    draw = random.Random(seed)
    draw.shuffle(nodes)
    draw.shuffle(names)
    return Inventory(tuple(replace(node, name=name) for node, name in zip(nodes, names, strict=True)))


def grown(inventory: Inventory, times: float) -> Inventory:
    """A fleet `times` as large, of the same nodes in turn; copies get a number behind their names."""
    if times == 1:
        return inventory
    count = max(1, round(len(inventory.nodes) * times))
    nodes = (inventory.nodes[place % len(inventory.nodes)] for place in range(count))
    return Inventory(tuple(replace(node, name=f"{node.name}-{place}") for place, node in enumerate(nodes)))


def _capacity_milli(inventory: Inventory) -> int:
    return sum(len(node.gpus) for node in inventory.nodes) * WHOLE


def run(inventory: Inventory, tasks: Sequence[Task], ranking: Callable[[FleetTable], Ranking] | None = None) -> Outcome:
    """Places `tasks` in their order, each tried once, with nothing known of those to come."""
    capacity = max(1, _capacity_milli(inventory))
    placer = Placer(inventory, ranking)
    decisions: list[Placement | None] = []
    arrived = allocated = 0
    reached: dict[float, int] = {}
    began = time.perf_counter()
    for task in tasks:
        placements = placer.place(task.demand)
        decisions.append(placements[0] if placements else None)
        arrived += task.demand.gpu_milli
        allocated += task.demand.gpu_milli if placements else 0
        for times in (1.0, ARRIVALS):
            if arrived >= times * capacity:
                reached.setdefault(times, allocated)
    seconds = time.perf_counter() - began
    placed = sum(decision is not None for decision in decisions)
    at_100, at_130 = (100.0 * reached.get(times, allocated) / capacity for times in (1.0, ARRIVALS))
    return Outcome(at_100, at_130, 100.0 * arrived / capacity, placed, tuple(decisions), seconds)
