"""What a worker has given away of its own node: reservations in, the next ledger out. Pure.

A run is entered when it is picked, before it is claimed on the server, so that two plans in a row never give one device
twice; it leaves when its process has gone, or when the claim was lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from trimtab_work_pools.resources import WHOLE, CapacityError, Demand, Gpu, Grant, Node, Placement

__all__ = ["Holding", "Ledger"]


@dataclass(frozen=True, slots=True)
class Holding:
    """A run that holds a part of a node since `started_s`. `claim_id` tells this stretch of it from every other."""

    run_id: str
    demand: Demand
    placement: Placement
    submitted_s: float
    started_s: float
    claim_id: str = ""
    attained_s: float = 0.0
    stopping_until_s: float | None = None


@dataclass(frozen=True, slots=True)
class Ledger:
    """A node as its inventory reads it, with nothing given away, and who holds what of it."""

    node: Node
    holdings: tuple[Holding, ...] = ()

    def fitted(self) -> tuple[Placement, ...]:
        """What each holding has of the node as it is now, in their order: never more in all than there is.

        What is held may be more than that while a node changes: a run has filled the disk that it was given, a limit
        was lowered, MIG slices were made anew, or two workers offer unlike parts of one host.
        """
        left = _Left(self.node)
        return tuple(left.of(holding.placement) for holding in self.holdings)

    def free(self) -> Node:
        """The node with all that is held given away, also where a device has since failed or been filled by others."""
        shares: dict[int, int] = {}
        memory: dict[int, int] = {}
        held = self.fitted()
        for placement in held:
            for grant in placement.grants:
                shares[grant.index] = shares.get(grant.index, 0) + grant.share_milli
                memory[grant.index] = memory.get(grant.index, 0) + grant.memory_mib
        gpus = tuple(_given(gpu, shares.get(gpu.index, 0), memory.get(gpu.index, 0)) for gpu in self.node.gpus)
        return replace(
            self.node,
            gpus=gpus,
            cpu_given_milli=sum(one.cpu_milli for one in held),
            memory_given_mib=sum(one.memory_mib for one in held),
            disk_given_mib=sum(one.disk_mib for one in held),
        )

    def reserve(self, holding: Holding) -> Ledger:
        """With one more holding. Raises CapacityError if the run holds something already, or there is not that much."""
        if self.find(holding.run_id):
            raise CapacityError(f"run {holding.run_id} holds a part of node {self.node.name} already")
        self.free().take(holding.placement)
        return replace(self, holdings=(*self.holdings, holding))

    def release(self, run_id: str) -> Ledger:
        """Without what this run holds; the same if it holds nothing."""
        return replace(self, holdings=tuple(one for one in self.holdings if one.run_id != run_id))

    def stopping(self, run_id: str, until_s: float) -> Ledger:
        """The run has been told to stop, and will be gone by then."""
        marked = (replace(one, stopping_until_s=until_s) if one.run_id == run_id else one for one in self.holdings)
        return replace(self, holdings=tuple(marked))

    def read_again(self, node: Node) -> Ledger:
        """The same holdings on the node as it is now."""
        return replace(self, node=node)

    def find(self, run_id: str) -> Holding | None:
        """What a run holds."""
        return next((one for one in self.holdings if one.run_id == run_id), None)


class _Left:
    """What of a node is not handed out yet."""

    def __init__(self, node: Node) -> None:
        self._cpu_milli, self._memory_mib, self._disk_mib = (
            node.cpu_total_milli,
            node.memory_total_mib,
            node.disk_total_mib,
        )
        self._share_milli = {gpu.index: WHOLE for gpu in node.gpus}

    def of(self, wanted: Placement) -> Placement:
        """As much of it as there is; it is left no more."""
        given = replace(
            wanted,
            grants=tuple(self._grants(wanted.grants)),
            cpu_milli=_within(wanted.cpu_milli, self._cpu_milli),
            memory_mib=_within(wanted.memory_mib, self._memory_mib),
            disk_mib=_within(wanted.disk_mib, self._disk_mib),
        )
        self._cpu_milli -= given.cpu_milli
        self._memory_mib -= given.memory_mib
        self._disk_mib -= given.disk_mib
        return given

    def _grants(self, wanted: Iterable[Grant]) -> Iterator[Grant]:
        """Of GPUs that are there, each once."""
        seen: set[int] = set()
        for grant in wanted:
            if grant.index in self._share_milli and grant.index not in seen:
                seen.add(grant.index)
                share = _within(grant.share_milli, self._share_milli[grant.index])
                self._share_milli[grant.index] -= share
                yield Grant(grant.index, share, max(0, grant.memory_mib))


def _within(wanted: int, most: int) -> int:
    return max(0, min(wanted, most))


def _given(gpu: Gpu, share_milli: int, memory_mib: int) -> Gpu:
    if not share_milli and not memory_mib:
        return gpu
    return replace(gpu, share_given_milli=share_milli, memory_given_mib=memory_mib)
