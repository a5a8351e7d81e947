"""The schedulers others use, to compare with: fifo, EASY backfill and shortest job first. None of them preempts."""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable, Sequence
from typing import Literal

from trimtab_work_pools.simulation.replay import Parts, Start, State

__all__ = ["Backfill", "Fifo", "ShortestFirst", "pack"]


def pack(free: Sequence[int], shape: tuple[int, int]) -> Parts | None:
    """Best fit: the nodes with the least free GPUs that suffice, one part on each; None if there are too few."""
    nodes, gpus = shape
    roomy = [(have, node) for node, have in enumerate(free) if have >= gpus]
    if len(roomy) < nodes:
        return None
    return tuple((node, gpus) for _, node in sorted(roomy)[:nodes])


class _InOrder:
    """Holds the jobs in the order of `key`; starts them from the head."""

    def __init__(self) -> None:
        self._order: list[tuple[float, int]] = []

    def wake_s(self, state: State) -> float:  # noqa: ARG002 - the protocol has it
        return math.inf

    def key(self, state: State, job: int) -> float:
        return state.jobs[job].submit_s

    def join(self, state: State, arrived: Iterable[int]) -> None:
        for job in arrived:
            bisect.insort(self._order, (self.key(state, job), job))

    def take_head(self, state: State, free: list[int]) -> list[Start]:
        """Start jobs from the head; stop at the first that does not fit."""
        starts: list[Start] = []
        for _, job in self._order:
            parts = pack(free, state.shape(job))
            if parts is None:
                break
            _give(free, parts)
            starts.append(Start(job, parts))
        del self._order[: len(starts)]
        return starts

    def drop(self, starts: Sequence[Start]) -> None:
        gone = {start.job for start in starts}
        if gone:
            self._order = [entry for entry in self._order if entry[1] not in gone]


class Fifo(_InOrder):
    """What a stock Prefect worker does: in order of submission, stop at the first that does not fit."""

    def decide(self, state: State, arrived: Sequence[int]) -> list[Start]:
        self.join(state, arrived)
        return self.take_head(state, list(state.free))


class ShortestFirst(_InOrder):
    """Non-preemptive shortest job first by the estimate.

    `on_block="skip"` starts whatever fits, so a wide job may be overtaken for ever; `"stop"` waits for the first that
    does not fit. Neither is the better one on every trace, so the benchmark runs both and compares with the lower.
    """

    def __init__(self, on_block: Literal["skip", "stop"] = "skip") -> None:
        super().__init__()
        self._skip = on_block == "skip"

    def key(self, state: State, job: int) -> float:
        return state.estimates_s[job]

    def decide(self, state: State, arrived: Sequence[int]) -> list[Start]:
        self.join(state, arrived)
        free = list(state.free)
        starts = self.take_head(state, free)
        return starts + self._fill(state, free) if self._skip else starts

    def _fill(self, state: State, free: list[int]) -> list[Start]:
        starts: list[Start] = []
        refused: set[tuple[int, int]] = set()
        for _, job in self._order:
            if not any(free):
                break
            shape = state.shape(job)
            parts = None if shape in refused else pack(free, shape)
            if parts is None:
                refused.add(shape)
                continue
            _give(free, parts)
            starts.append(Start(job, parts))
        self.drop(starts)
        return starts


class Backfill(_InOrder):
    """EASY backfill (Lifka 1995): the head of the queue has a reservation, others may start if they do not delay it."""

    def decide(self, state: State, arrived: Sequence[int]) -> list[Start]:
        self.join(state, arrived)
        free = list(state.free)
        starts = self.take_head(state, free)
        if not self._order or not any(free):
            return starts
        return starts + self._behind_head(state, free, starts)

    def _behind_head(self, state: State, free: list[int], started: Sequence[Start]) -> list[Start]:
        head = state.shape(self._order[0][1])
        shadow_s, later = self._shadow(state, free, started, head)
        starts: list[Start] = []
        refused: set[tuple[int, int]] = set()
        late: set[tuple[int, int]] = set()
        for _, job in self._order[1:]:
            if not any(free):
                break
            shape = state.shape(job)
            fits_before = state.now_s + state.estimates_s[job] <= shadow_s
            if shape in refused or (shape in late and not fits_before):
                continue
            parts = pack(free, shape)
            if parts is None:
                refused.add(shape)
                continue
            if not fits_before:
                rest = list(later)
                _give(rest, parts)
                if min(rest) < 0 or pack(rest, head) is None:
                    late.add(shape)
                    continue
                later = rest
            _give(free, parts)
            late.clear()  # the next one would be packed on other nodes, where it may not be in the head's way
            starts.append(Start(job, parts))
        self.drop(starts)
        return starts

    def _shadow(
        self, state: State, free: list[int], started: Sequence[Start], head: tuple[int, int]
    ) -> tuple[float, list[int]]:
        """When the head is expected to fit, and what is free then. A job past its estimate may end any time."""
        now_s = state.now_s
        ends = [(max(now_s, run.start_s + state.estimates_s[run.job]), run.parts) for run in state.active.values()]
        ends += [(now_s + state.estimates_s[start.job], start.parts) for start in started]
        later = list(free)
        for end_s, parts in sorted(ends):
            for node, gpus in parts:
                later[node] += gpus
            if pack(later, head) is not None:
                return end_s, later
        return math.inf, later


def _give(free: list[int], parts: Parts) -> None:
    for node, gpus in parts:
        free[node] -= gpus
