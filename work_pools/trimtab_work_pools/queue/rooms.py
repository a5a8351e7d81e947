"""What the queue planner needs to know of a node: a room, and nothing of GPUs, labels or NVLink.

A room is a value: what of a node is free at one instant. The planner compares instants (now, when a run ends, when a
reservation starts), so a room can be added to, taken from, and met with another. `Slots` is the smallest room there is:
so many interchangeable GPUs.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Protocol, Self

__all__ = ["Claim", "Refusal", "Room", "Slots"]


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a demand does not fit: the dimension, and a sentence with by how much."""

    dimension: str
    text: str


@dataclass(frozen=True, slots=True)
class Claim:
    """What a run would hold on one node. `score` ranks claims of one demand, least first; `devices` is for the room."""

    score: float
    devices: Any


class Room(Protocol):
    """Free capacity of one node at one instant. All methods return new values; none looks at a node's name."""

    @property
    def key(self) -> Hashable:
        """Sortable description; equal keys mean interchangeable nodes."""
        ...

    def fits(self, demand: Any) -> Claim | Refusal:
        """The best claim for `demand` here, or why there is none."""
        ...

    def take(self, claim: Claim) -> Self: ...

    def give_back(self, claim: Claim) -> Self: ...

    def meet(self, other: Self) -> Self:
        """What is free at both instants."""
        ...


@dataclass(frozen=True, slots=True)
class Slots:
    """`free` of interchangeable whole GPUs; a demand is the number needed on the node; best fit."""

    free: int

    @property
    def key(self) -> Hashable:
        return (self.free,)

    def fits(self, demand: int) -> Claim | Refusal:
        if demand > self.free:
            return Refusal("gpus", f"needs {demand} GPUs; {self.free} free")
        return Claim(float(self.free - demand), demand)

    def take(self, claim: Claim) -> Slots:
        return Slots(self.free - claim.devices)

    def give_back(self, claim: Claim) -> Slots:
        return Slots(self.free + claim.devices)

    def meet(self, other: Slots) -> Slots:
        return self if self.free <= other.free else other
