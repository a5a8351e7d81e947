"""Two copies of a run are never both at work, however long a worker is cut off."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab_work_pools.lost import unheld
from trimtab_work_pools.rules.fence import Step, fence, fence_after_s
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
