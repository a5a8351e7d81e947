"""Two copies of a run are never both at work, however long a worker is cut off."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab_work_pools.lost import Active, Life, alive, unheld
from trimtab_work_pools.rules.fence import Step, ask_after_s, fence, fence_after_s, guarded
from trimtab_work_pools.worker.pace import ADVERTISED_S, RENEW_S


@pytest.mark.parametrize(
    ("unheard_s", "frozen_at_s", "state", "changed_s", "step"),
    [
        (10.0, None, "RUNNING", 0.0, Step.STAY),
        (239.0, None, "", 0.0, Step.STAY),
        (240.0, None, "", 0.0, Step.FREEZE),
        (900.0, 1000.0, "RUNNING", 500.0, Step.STAY),
        (5.0, 1000.0, "", 0.0, Step.STAY),
        (5.0, 1000.0, "RUNNING", 500.0, Step.THAW),
        (5.0, 1000.0, "PAUSED", 500.0, Step.THAW),
        (5.0, 1000.0, "RUNNING", 1200.0, Step.END),
        (5.0, 1000.0, "PENDING", 1200.0, Step.END),
        (5.0, 1000.0, "SCHEDULED", 1200.0, Step.END),
        (5.0, 1000.0, "COMPLETED", 1200.0, Step.END),
    ],
)
def test_a_run_stands_still_while_nobody_hears_of_its_worker(
    unheard_s: float, frozen_at_s: float | None, state: str, changed_s: float, step: Step
) -> None:
    assert fence(unheard_s, 60.0, 300.0, frozen_at_s, state, changed_s).step is step
    if step in (Step.THAW, Step.END):
        assert fence(unheard_s, 5.0, 300.0, frozen_at_s, state, changed_s).step is Step.STAY, "a peer may be writing"


def test_the_time_is_shorter_than_that_of_the_peers() -> None:
    assert fence_after_s(300.0) == 240.0
    assert fence_after_s(8.0) == 6.0


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**9), st.sampled_from((40.0, 120.0, 300.0)))
def test_two_copies_are_never_both_at_work(seed: int, host_lost_s: float) -> None:
    """One worker with a run, cut off now and then, and a peer that starts the run when it counts as lost. Each looks
    when it comes to it; the server's times are whole seconds.
    """
    rng = random.Random(seed)
    now_s, heard_s, expires_s = 1000.0, 1000.0, 1000.0 + ADVERTISED_S
    state, changed_s, frozen_at_s = "RUNNING", 990.0, None
    here, second, since = True, False, dict[str, float]()
    cut_until_s, since_s, writes_s = 0.0, now_s, math.inf
    looked_s = now_s
    for _ in range(3000):
        now_s += rng.choice((0.2, 1.0, 1.0, 5.0 if rng.random() < 0.1 else 1.0))
        if cut_until_s < now_s and rng.random() < 0.004:
            cut_until_s = now_s + rng.uniform(0.0, 3.0 * host_lost_s)
        connected = now_s >= cut_until_s
        if here:
            if connected and now_s - heard_s >= RENEW_S:
                since_s = now_s if now_s - heard_s >= fence_after_s(host_lost_s) else since_s
                heard_s, expires_s = now_s, now_s + ADVERTISED_S
            seen = state if connected and heard_s == now_s else ""
            verdict = fence(now_s - heard_s, now_s - since_s, host_lost_s, frozen_at_s, seen, changed_s)
            if verdict.step is Step.FREEZE:
                frozen_at_s = float(int(now_s))
            elif verdict.step is Step.THAW:
                frozen_at_s = None
            elif verdict.step is Step.END:
                here = False
        if not second and now_s - looked_s >= 5.0:
            looked_s = now_s
            active = [] if expires_s > now_s else ["r"]
            since, lost = unheld(active, [], since, now_s, host_lost_s)
            writes_s = now_s + rng.uniform(0.0, 8.0) if lost and writes_s == math.inf else writes_s
        if not second and now_s >= writes_s:
            second, state, changed_s = True, "RUNNING", float(int(now_s))
        assert not (second and here and frozen_at_s is None), "two copies at work"
    assert second or here, "and the run is never lost"
    if second:
        assert not here or frozen_at_s is not None


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 10**9), st.sampled_from((40.0, 120.0, 300.0)), st.sampled_from((None, 0.6, 1.5)))
def test_two_copies_are_never_both_at_work_whenever_the_worker_dies(
    seed: int, host_lost_s: float, beats_every: float | None
) -> None:
    """The host is cut off now and then, its worker is killed and started again at any time, and the run itself sends
    heartbeats (each so many times the fence's time) or does not. The guard lives.
    """
    _Host(random.Random(seed), host_lost_s, beats_every and beats_every * fence_after_s(host_lost_s)).live()


@dataclass
class _Host:
    """One host with a run, its worker and its guard; the server, and a peer that starts what is lost."""

    rng: random.Random
    lost_s: float
    beats_every_s: float | None
    now_s: float = 1000.0
    cut_until_s: float = 0.0
    # the server
    state: str = "RUNNING"
    changed_s: float = 990.0
    expires_s: float = 1000.0 + ADVERTISED_S
    beats_s: float = 990.0
    # the peer
    since: dict[str, float] = field(default_factory=dict)
    looked_s: float = 1000.0
    writes_s: float = math.inf
    second: bool = False
    # the host: what is written down, the worker, the run
    word_s: float = 1000.0
    frozen_at_s: float | None = None
    worker: bool = True
    heard_s: float = 1000.0
    since_s: float = 1000.0
    renews_at_s: float = 0.0
    here: bool = True
    beat_at_s: float = 990.0
    guard_at_s: float = 0.0
    guard_beats_s: float | None = None

    def live(self) -> None:
        for _ in range(3000):
            self.now_s += self.rng.choice((0.2, 1.0, 1.0, 5.0 if self.rng.random() < 0.1 else 1.0))
            if self.cut_until_s < self.now_s and self.rng.random() < 0.004:
                self.cut_until_s = self.now_s + self.rng.uniform(0.0, 3.0 * self.lost_s)
            connected = self.now_s >= self.cut_until_s
            if self.here:
                self._run(connected)
                if self.worker:
                    self._work(connected)
                else:
                    self._guard(connected)
            if not self.second:
                self._peer()
            assert not (self.second and self.here and self.frozen_at_s is None), "two copies at work"
        assert self.second or self.here, "and the run is never lost"

    def _run(self, connected: bool) -> None:
        due = self.beats_every_s is not None and self.now_s - self.beat_at_s >= self.beats_every_s
        if due and self.frozen_at_s is None:
            self.beat_at_s = self.now_s
            self.beats_s = self.now_s if connected else self.beats_s

    def _work(self, connected: bool) -> None:
        if connected and self.now_s >= self.renews_at_s and self.now_s - self.heard_s >= RENEW_S:
            anew = self.since_s == math.inf or self.now_s - self.heard_s >= fence_after_s(self.lost_s)
            self.since_s = self.now_s if anew else self.since_s
            self.heard_s = self.word_s = self.now_s
            self.expires_s = self.now_s + ADVERTISED_S
        seen = self.state if connected else ""
        unheard_s, heard_for_s = self.now_s - self.heard_s, self.now_s - self.since_s
        step = fence(unheard_s, heard_for_s, self.lost_s, self.frozen_at_s, seen, self.changed_s).step
        if step is Step.FREEZE:
            self.frozen_at_s = float(int(self.now_s))
        elif step is Step.THAW:
            self.frozen_at_s = None
        elif step is Step.END:
            self.here = False
        self.worker = self.rng.random() >= 0.01

    def _guard(self, connected: bool) -> None:
        if self.rng.random() < 0.01 and connected:  # the next worker: a server that is away keeps it from joining
            self.worker, self.heard_s, self.since_s = True, min(self.now_s, self.word_s), math.inf
            self.renews_at_s = self.now_s + self.rng.uniform(0.0, 20.0)
            return
        if self.now_s < self.guard_at_s:
            return
        self.guard_at_s = self.now_s + 2.0
        heard_s = max(self.word_s, self.guard_beats_s or self.word_s)
        if connected and self.now_s - heard_s >= ask_after_s(self.lost_s):
            self.guard_beats_s = self.beats_s
        if guarded(self.word_s, self.guard_beats_s, self.now_s, self.lost_s, self.frozen_at_s).step is Step.FREEZE:
            self.frozen_at_s = float(int(self.now_s))

    def _peer(self) -> None:
        if self.now_s - self.looked_s >= 5.0:
            self.looked_s = self.now_s
            active = [] if self.expires_s > self.now_s else ["r"]
            self.since, lost = unheld(active, [], self.since, self.now_s, self.lost_s)
            if lost and alive(Active("r", "w", self.beats_s >= self.since["r"]), Life()):
                self.since["r"] = self.now_s
            elif lost and self.writes_s == math.inf:
                self.writes_s = self.now_s + self.rng.uniform(0.0, 8.0)
        if self.now_s >= self.writes_s:
            self.second, self.state, self.changed_s = True, "RUNNING", float(int(self.now_s))
