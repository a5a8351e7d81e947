"""The verdict on a GPU, as a pure function."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from trimtab_work_pools.inventory import Fault, Health, Limits, Process, Xid
from trimtab_work_pools.inventory.health import APPLICATION_XIDS, HEALTHY, Signs, judge

SIGNS = st.builds(
    Signs,
    unreachable=st.sampled_from(["", "", "gone"]),
    reset_needed=st.none() | st.booleans(),
    remap_failed=st.none() | st.booleans(),
    ecc_uncorrected=st.none() | st.integers(0, 3),
    temperature_c=st.none() | st.floats(20, 110),
    slowdown_c=st.none() | st.floats(80, 100),
    xids=st.lists(st.builds(Xid, st.sampled_from([13, 31, 48, 79]))),
    foreign=st.none() | st.lists(st.builds(Process, st.integers(1, 9), memory_mib=st.none() | st.integers(0, 2000))),
)


@given(SIGNS, st.sampled_from([HEALTHY, Health((Fault.TOO_HOT,), ("hot",))]))
def test_every_fault_has_one_reason_and_stands_once(signs: Signs, before: Health) -> None:
    health = judge(signs, Limits(), before)
    assert len(health.faults) == len(set(health.faults)) == len(health.reasons)
    assert all(health.reasons)
    assert health.ok == (not health.faults)


def test_the_unknown_is_not_held_against_a_gpu() -> None:
    assert judge(Signs(), Limits()).ok
    assert judge(Signs(temperature_c=120), Limits()).ok
    assert judge(Signs(foreign=(Process(1), Process(2))), Limits()).ok


@given(SIGNS, st.floats(20, 110))
def test_a_hotter_gpu_is_never_healthier(signs: Signs, hotter_c: float) -> None:
    hotter = replace(signs, temperature_c=max(hotter_c, signs.temperature_c or 0.0))
    assert set(judge(signs, Limits()).faults) <= set(judge(hotter, Limits()).faults)


def test_xids_of_applications_may_be_counted_and_others_ignored() -> None:
    strict, lax = Limits(ignored_xids=frozenset()), Limits(ignored_xids=APPLICATION_XIDS | {79})
    assert judge(Signs(xids=(Xid(13),)), strict).faults == (Fault.XID,)
    assert judge(Signs(xids=(Xid(79),)), lax).ok


def test_processes_of_others_may_be_let_be() -> None:
    busy = Signs(foreign=(Process(7, "notebook", 30000), Process(8, "", 10)))
    assert judge(busy, Limits(foreign_memory_mib=None)).ok
    assert judge(busy, Limits()).reasons == ("pid 7 (notebook) and 1 more, which is no run of ours, holds 30010 MiB",)
