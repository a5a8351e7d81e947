"""Each way in which a run may end badly, and the step that follows from it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab_work_pools.diagnosis import Cause, Diagnosis, Ended, Largest, Peak, Step, diagnose
from trimtab_work_pools.learnt import suggestion
from trimtab_work_pools.resources import Demand, Grant, Placement

LARGEST = Largest(memory_mib=64_000, gpu_memory_mib=40_000)
CRASHED = Ended(
    exit_code=1,
    state="Crashed",
    message="",
    began=True,
    demand=Demand(gpus=1, gpu_memory_mib=9_000, memory_mib=4_000),
    placement=Placement("a", (Grant(0, 1000, 9_000),), 1000, 4_000),
)


def found(**facts: object) -> Diagnosis:
    diagnosis = diagnose(replace(CRASHED, **facts), LARGEST)  # type: ignore[arg-type]
    assert diagnosis is not None
    return diagnosis


@pytest.mark.parametrize(
    ("facts", "cause", "step"),
    [
        ({"exit_code": -9, "oom_kills": 1}, Cause.HOST_MEMORY, Step.LARGER),
        ({"exit_code": 137, "oom_kills": 2}, Cause.HOST_MEMORY, Step.LARGER),
        ({"message": "numpy._core._exceptions._ArrayMemoryError: Unable"}, Cause.HOST_MEMORY, Step.LARGER),
        ({"state": "Failed", "message": "OutOfMemoryError: CUDA out of memory. Tried"}, Cause.GPU_MEMORY, Step.LARGER),
        ({"message": "RuntimeError: HIP error: out of memory"}, Cause.GPU_MEMORY, Step.LARGER),
        ({"message": "RuntimeError: cuDNN error", "lost_devices": ("GPU-0 of a",)}, Cause.LOST_DEVICE, Step.AGAIN),
        ({"message": "CUDA error: uncorrectable ECC error encountered"}, Cause.LOST_DEVICE, Step.AGAIN),
        ({"exit_code": -9}, Cause.BAD_EXIT, Step.AGAIN),
        (
            {"exit_code": 1, "message": "BrokenProcessPool: terminated abruptly", "oom_kills": 1},
            Cause.HOST_MEMORY,
            Step.LARGER,
        ),
        (
            {"message": "1/1 states failed.", "errors": ("RuntimeError: CUDA out of memory",)},
            Cause.GPU_MEMORY,
            Step.LARGER,
        ),
        ({"message": "ConnectionRefusedError: [Errno 111] Connection refused"}, Cause.UNREACHABLE, Step.LATER),
        ({"message": "OSError: [Errno 28] No space left on device"}, Cause.DISK_FULL, Step.STOP),
        ({"exit_code": -11}, Cause.BAD_EXIT, Step.AGAIN),
        ({"exit_code": 3}, Cause.BAD_EXIT, Step.AGAIN),
        ({"began": False}, Cause.START_UP, Step.AGAIN),
        ({"state": "TimedOut"}, Cause.TIMED_OUT, Step.STOP),
    ],
)
def test_every_cause_leads_to_one_step(facts: dict[str, object], cause: Cause, step: Step) -> None:
    diagnosis = found(**facts)
    assert (diagnosis.cause, diagnosis.step) == (cause, step)
    assert diagnosis.text.strip()[-1] in ".)", "a sentence for people"


@pytest.mark.parametrize(
    "facts",
    [
        {"state": "Completed", "exit_code": 0},
        {"state": "Cancelled", "exit_code": -15},
        {"state": "Failed", "message": "ValueError: labels are all equal"},
        {"state": "Failed", "message": "ValueError: labels are all equal", "oom_kills": 1},
        {"state": "Failed", "message": "1/2 states failed.", "errors": ("KeyError: 'x'", "MemoryError")},
        {"state": "Failed", "message": "httpx.ConnectError: All connection attempts failed"},
    ],
)
def test_what_is_not_the_system_s_fault_is_left_alone(facts: dict[str, object]) -> None:
    assert diagnose(replace(CRASHED, **facts), LARGEST) is None  # type: ignore[arg-type]


def test_an_out_of_memory_run_is_made_larger_once() -> None:
    first = found(message="CUDA out of memory", peak=Peak(gpu_memory_mib=8_990))
    assert first.wishes == (("gpu_memory_mib", 18_000),)
    assert "it had 9000 MiB, saw 8990 used" in first.text
    second = found(message="CUDA out of memory", before={Cause.GPU_MEMORY: 1})
    assert (second.step, second.wishes) == (Step.STOP, ())
    assert "set resources.gpu_memory_mib yourself" in second.text


def test_nothing_is_raised_above_the_largest_node() -> None:
    near = found(message="MemoryError", demand=Demand(memory_mib=50_000))
    assert near.wishes == (("memory_mib", 64_000),)
    at_the_end = found(message="MemoryError", demand=Demand(memory_mib=64_000))
    assert at_the_end.step is Step.STOP
    assert "No node of the fleet can give more than 64000 MiB" in at_the_end.text


def test_one_that_asked_for_nothing_is_given_what_it_was_seen_to_use() -> None:
    nothing = {"demand": Demand(), "placement": Placement("a"), "message": "MemoryError"}
    assert found(**nothing, peak=Peak(memory_mib=3_000)).wishes == (("memory_mib", 6_000),)
    assert found(**nothing).wishes == (("memory_mib", 32_000),)


@given(
    st.sampled_from([{"exit_code": -9}, {"lost_devices": ("GPU-0",)}, {"message": "MemoryError"}, {"began": False}]),
    st.dictionaries(st.sampled_from(list(Cause)), st.integers(0, 5)),
)
def test_no_run_is_started_again_for_ever(facts: dict[str, object], before: dict[Cause, int]) -> None:
    tried = dict(before)
    for _ in range(20):
        diagnosis = found(**facts, before=tried)
        if diagnosis.step is Step.STOP:
            break
        tried[diagnosis.cause] = tried.get(diagnosis.cause, 0) + 1
    assert diagnosis.step is Step.STOP


def test_less_is_suggested_where_far_more_is_asked_than_used() -> None:
    asked = Demand(gpus=1, gpu_memory_mib=40_960, memory_mib=1_000)
    seen = [Peak(memory_mib=900, gpu_memory_mib=used) for used in (8_000, 9_100, 7_000)]
    assert suggestion(asked, seen) == (
        "asked 40960 MiB of GPU memory, its last 3 runs used at most 9100: 11008 would do"
    )
    assert suggestion(asked, seen[:2]) == "", "two runs say little"
    assert suggestion(Demand(gpus=1, gpu_memory_mib=12_000), seen) == ""
    assert suggestion(Demand(gpus=1), seen) == "", "nothing was asked"
