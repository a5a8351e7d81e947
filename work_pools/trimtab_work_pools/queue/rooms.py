"""What the queue planner needs to know of a node: a room, and nothing of GPUs, labels or NVLink.

A room is a value: what of a node is free at one instant. The planner compares instants (now, when a run ends, when a
reservation starts), so a room can be added to, taken from, and met with another. For the present, where most questions
are asked, the rooms of all nodes are asked together. `Slots` is the smallest room there is: so many interchangeable
GPUs. `gpu_rooms` has the room of a real node.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

__all__ = ["EQUAL", "Claim", "Flags", "Refusal", "Room", "Rooms", "Scores", "Slots"]

Scores = NDArray[np.float64]
"""By the position of a node: least is best, infinite is no room."""

Flags = NDArray[np.bool_]
"""By the position of a node."""

EQUAL = 1e-9
"""Scores closer than this are a tie: far above the rounding of sums, far below any meaning."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a demand does not fit: the dimension, and a sentence with by how much; `far` sorts the nearest miss first."""

    dimension: str
    text: str
    far: tuple[float, ...] = ()


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

    @staticmethod
    def advice(rooms: Sequence[Any], demand: Any, nodes: int) -> str:
        """What would change that none of these rooms (idle, at least one) can hold `demand` on `nodes` nodes."""
        ...

    @staticmethod
    def together(rooms: Sequence[Any], demands: Iterable[Any]) -> Rooms:
        """The rooms of all nodes, to be asked at once. `demands` are all that are known of, waiting or running."""
        ...


class Rooms(Protocol):
    """The rooms of all nodes at the present. A node is addressed by its position."""

    def has_room(self, demand: Any) -> Flags:
        """Where `demand` has room."""
        ...

    def scores(self, demand: Any) -> Scores:
        """Where `demand` has room, and how well it would go there. Not to be written to."""
        ...

    def put(self, position: int, room: Any) -> None:
        """The room of one node is another from now on."""
        ...

    def spread(self, scores: Scores, position: int) -> None:
        """A gang has one of its nodes at `position`: in `scores`, makes nodes that may fail with it less welcome."""
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

    @staticmethod
    def advice(rooms: Sequence[Slots], demand: int, nodes: int) -> str:
        most = max(room.free for room in rooms)
        enough = sum(room.free >= demand for room in rooms)
        if enough:
            return f"it needs {nodes} such nodes at once, and there are {enough}: ask for fewer nodes, or add some"
        return f"the most on one node is {most}: ask for at most that, or add a larger node"

    @staticmethod
    def together(rooms: Sequence[Slots], demands: Iterable[int]) -> SlotRooms:
        return SlotRooms(rooms)


class SlotRooms:
    """`Rooms` of nodes with interchangeable GPUs."""

    def __init__(self, rooms: Sequence[Slots]) -> None:
        self._free = np.array([room.free for room in rooms], dtype=np.float64)

    def has_room(self, demand: int) -> Flags:
        return self._free >= demand

    def scores(self, demand: int) -> Scores:
        return np.where(self._free >= demand, self._free - demand, np.inf)

    def put(self, position: int, room: Slots) -> None:
        self._free[position] = room.free

    def spread(self, scores: Scores, position: int) -> None:
        """Nothing is known of what fails together."""
