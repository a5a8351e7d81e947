"""The facts a plan is made from: what waits, what runs, on which nodes; and what the planner is asked to aim at."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass, field

from trimtab_work_pools.queue.rooms import Claim, Room
from trimtab_work_pools.queue.runtime import gittins_index_s, mean_left_s

__all__ = ["Fleet", "Limit", "Member", "Policy", "Run", "Running", "WorkloadError"]


class WorkloadError(ValueError):
    """A run or a policy contradicts itself; the text names the field and says what is allowed."""


def _check(held: bool, text: str) -> None:
    if not held:
        raise WorkloadError(text)


@dataclass(frozen=True, slots=True)
class Run:
    """A queued (or running) run. Times are seconds on one clock.

    `demand` is what each of its `nodes` nodes must have room for; `width` is how much of the fleet it takes as a whole,
    in GPUs (a share counts as its part). `expected_s` is the median of its run time, `sigma` the standard deviation of
    the logarithm; `attained_s` is work already done and kept. `not_before_s` is its scheduled start. `limits` are the
    names of the concurrency limits that it counts against, once for each node.
    """

    id: str
    demand: Hashable
    submitted_s: float
    expected_s: float
    nodes: int = 1
    width: float = 1.0
    sigma: float = 0.0
    attained_s: float = 0.0
    priority: int = 0
    deadline_s: float | None = None
    preemptible: bool = True
    team: str = ""
    not_before_s: float = -math.inf
    limits: tuple[str, ...] = ()
    index_s: float = field(init=False, compare=False, repr=False, default=0.0)

    def __post_init__(self) -> None:
        _check(self.nodes >= 1, f"run {self.id}: nodes must be at least 1, not {self.nodes}")
        for name in ("expected_s", "width"):
            value = getattr(self, name)
            _check(math.isfinite(value) and value > 0, f"run {self.id}: {name} must be above 0, not {value}")
        for name in ("sigma", "attained_s"):
            value = getattr(self, name)
            _check(math.isfinite(value) and value >= 0, f"run {self.id}: {name} must be 0 or more, not {value}")
        object.__setattr__(self, "index_s", gittins_index_s(self.expected_s, self.sigma, self.attained_s))

    @property
    def left_s(self) -> float:
        """Mean work left, given what is attained."""
        return mean_left_s(self.expected_s, self.sigma, self.attained_s)


@dataclass(frozen=True, slots=True)
class Running:
    """A run that holds its claims since `started_s`; `run.attained_s` is as it was at that start.

    `overhead_s` of this stretch goes into restoring its checkpoint; `unsaved_s` is the work it would lose if stopped
    now; `stopping_until_s`: it has been told to stop and will be gone by then.
    """

    run: Run
    parts: tuple[tuple[str, Claim], ...]
    started_s: float
    overhead_s: float = 0.0
    unsaved_s: float = 0.0
    stopping_until_s: float | None = None

    def attained_s(self, now_s: float) -> float:
        return self.run.attained_s + max(0.0, now_s - self.started_s - self.overhead_s)


@dataclass(frozen=True, slots=True)
class Member:
    """A node as the planner sees it: `room` is free now, with what runs there taken out; `width` is its GPUs in all."""

    name: str
    room: Room
    width: float = 1.0


@dataclass(frozen=True, slots=True)
class Limit:
    """A concurrency limit: at most `most` runs at once of those that name it, whatever the nodes have room for.

    `taken` of them are claimed or running now. `name` is how a person knows it ("work queue 'nightly'").
    """

    name: str
    most: int
    taken: int

    @property
    def left(self) -> int:
        return max(0, self.most - self.taken)


@dataclass(frozen=True, slots=True)
class Fleet:
    """Nodes, what runs on them, and the limits that are set; names of nodes, and ids of runs, are unique."""

    members: tuple[Member, ...]
    running: tuple[Running, ...] = ()
    limits: tuple[Limit, ...] = ()

    @property
    def width(self) -> float:
        """GPUs of all nodes, used or not."""
        return sum(member.width for member in self.members)

    def __post_init__(self) -> None:
        names = {member.name for member in self.members}
        _check(len(names) == len(self.members), "fleet: two nodes have one name; names must be unique")
        for running in self.running:
            stray = [name for name, _ in running.parts if name not in names]
            _check(not stray, f"run {running.run.id} holds node {stray[:1]}, which is not in the fleet")


@dataclass(frozen=True, slots=True)
class Policy:
    """What the planner aims at. Every bound that QUEUE.md states is a field here.

    - `patience_s` + `patience_factor` x expected run time, at most `patience_max_s` (up to twice that for a run wider
      than half the fleet): how long a run may be overtaken by others of its priority for the sake of a lower mean wait.
      Then it is *overdue* and goes in order of falling due; each further such period lifts it by one priority.
    - `overdue_share`: of the fleet that overdue runs together may claim ahead of the rest (one is always let through).
    - `deadline_margin`: a run is *pressing* when its slack is less than this times the work left.
    - `reservations`: how many of the first waiting runs get a reservation that no other run may delay.
    - `preempt`: whether running runs may be stopped at all. A victim has run `min_run_s`, its cost is at least
      `preempt_factor` times that of the run it makes way for, and that run would wait more than `soon_s` otherwise.
    - `checkpoint_s` and `restart_s`: what stopping and restarting costs, with the GPUs held.
    - `shares`: team -> entitlement; a team not named has 1.
    """

    patience_s: float = 7 * 86400.0
    patience_factor: float = 2.0
    patience_max_s: float = 26 * 86400.0
    overdue_share: float = 0.5
    deadline_margin: float = 1.0
    reservations: int = 8
    preempt: bool = True
    preempt_factor: float = 2.0
    min_run_s: float = 600.0
    soon_s: float = 60.0
    checkpoint_s: float = 30.0
    restart_s: float = 60.0
    shares: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        for name in ("patience_s", "min_run_s"):
            _check(getattr(self, name) > 0, f"policy: {name} must be above 0, not {getattr(self, name)}")
        for name in ("patience_factor", "deadline_margin", "soon_s", "checkpoint_s", "restart_s"):
            _check(getattr(self, name) >= 0, f"policy: {name} must be 0 or more, not {getattr(self, name)}")
        _check(self.patience_max_s >= self.patience_s, "policy: patience_max_s must not be below patience_s")
        _check(0 < self.overdue_share <= 1, f"policy: overdue_share must be in (0, 1], not {self.overdue_share}")
        _check(self.preempt_factor >= 1, f"policy: preempt_factor must be 1 or more, not {self.preempt_factor}")
        _check(self.reservations >= 1, f"policy: reservations must be 1 or more, not {self.reservations}")
        for team, share in self.shares:
            _check(share > 0, f"policy: the share of team {team!r} must be above 0, not {share}")

    def patience_of(self, run: Run, fleet_width: float) -> float:
        """How long (s) `run` may wait before it is overdue, on a fleet of `fleet_width` GPUs."""
        patience_s = min(self.patience_max_s, self.patience_s + self.patience_factor * run.expected_s)
        # All others wait while one run has most of the fleet: beyond half of it, patience is in proportion.
        return patience_s * max(1.0, 2.0 * run.width / max(fleet_width, run.width))
