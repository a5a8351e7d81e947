"""Steps of the wall clock, and a host that sleeps, change no duration and nothing of who a process is."""

from __future__ import annotations

import signal
from dataclasses import dataclass, field

import pytest

from trimtab_work_pools.host.clock import SYSTEM, ManualClock
from trimtab_work_pools.server.server_clock import ServerClock
from trimtab_work_pools.worker.stopping import Stopping


@dataclass
class Run:
    """What is sent to it."""

    sent: list[signal.Signals] = field(default_factory=list)

    def send(self, number: signal.Signals) -> None:
        self.sent.append(number)


def test_the_grace_of_a_run_is_time_that_the_host_was_awake() -> None:
    clock, run = ManualClock(), Run()
    stopping = Stopping(clock)
    stopping.tell("r", run.send, "Preempted", "why", 30.0)
    assert stopping.left_s() == {"r": 30.0}
    clock.suspend_s(3600)
    stopping.press()
    assert run.sent == [signal.SIGTERM], "it had no time yet"
    clock.pass_s(29)
    stopping.press()
    assert run.sent == [signal.SIGTERM]
    clock.pass_s(1)
    stopping.press()
    assert run.sent == [signal.SIGTERM, signal.SIGKILL]
    assert stopping.ended("r") == ("Preempted", "why")


@pytest.mark.parametrize("step_s", [-3600, -1, 1, 3600])
def test_a_step_of_this_host_s_wall_clock_is_not_seen(step_s: float) -> None:
    """It is asked once, when the worker begins."""
    wall = [1_000_000.0]
    clock = ManualClock()
    server = ServerClock(clock, lambda: wall[0])
    assert server.now_s() == 1_000_000.0
    wall[0] += step_s
    clock.pass_s(10)
    assert server.now_s() == 1_000_010.0
    server.heard(1_000_012.0)
    assert server.now_s() == 1_000_010.0, "an answer tells the second only"


def test_what_the_server_says_is_followed_and_sleep_is_counted() -> None:
    clock = ManualClock()
    server = ServerClock(clock, lambda: 500.0)
    server.heard(10_000.0)
    assert server.now_s() == 10_000.0
    clock.suspend_s(3600)
    clock.pass_s(1)
    assert server.now_s() == 13_601.0, "an advertisement expires while its host sleeps"
    server.heard(13_601.0 - 3600)
    assert server.now_s() == 10_001.0, "the server's own clock was stepped"


def test_the_host_s_clock_is_the_kernel_s() -> None:
    first, awake = SYSTEM.boot_s(), SYSTEM.awake_s()
    assert SYSTEM.boot_s() >= first > 0
    assert SYSTEM.awake_s() >= awake
    assert len(SYSTEM.boot_id) == 36
