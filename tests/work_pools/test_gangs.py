"""When a gang goes on, starts again, or has failed; and its members' places in the plan."""

from __future__ import annotations

import pytest

from trimtab_work_pools.advertise import Advertisement
from trimtab_work_pools.gangs import (
    ENDS_WITHIN_S,
    GATHERS_WITHIN_S,
    SETTLES_WITHIN_S,
    Member,
    Step,
    leader_ended,
    leader_failed,
    members_say,
)
from trimtab_work_pools.queue.workload import Policy
from trimtab_work_pools.resources import Demand, Node
from trimtab_work_pools.worker.picking import Queued, pick

RUNS = Member("rank-1", "RUNNING", True)
WAITS = Member("rank-2", "SCHEDULED", False)
FAILS = Member("rank-1", "FAILED", True, "connection reset by peer")


@pytest.mark.parametrize(
    ("members", "waited_s", "broken_before", "step", "text"),
    [
        ((RUNS, WAITS), 5.0, 0, Step.GO_ON, ""),
        ((RUNS, Member("rank-2", "COMPLETED", True)), 900.0, 0, Step.GO_ON, ""),
        ((RUNS, WAITS), GATHERS_WITHIN_S + 1, 0, Step.AGAIN, "rank-2 has not started within 60 s"),
        ((RUNS, Member("rank-2", "CRASHED", True)), 5.0, 0, Step.AGAIN, "rank-2 was lost (crashed)"),
        ((RUNS, Member("rank-2", "SCHEDULED", True)), 5.0, 0, Step.AGAIN, "rank-2 was lost (scheduled)"),
        ((RUNS, Member("rank-2", "CRASHED", True)), 5.0, 3, Step.FAIL, "was started again 3 times before"),
        ((RUNS, Member("rank-2", "FAILED", True, "no data")), 5.0, 0, Step.FAIL, "rank-2 failed: no data"),
        ((RUNS, Member("rank-2", "FAILED", True, "no data", 1.0)), 5.0, 0, Step.GO_ON, ""),
        ((FAILS, Member("rank-2", "CRASHED", True)), 5.0, 0, Step.AGAIN, "rank-2 was lost (crashed)"),
        ((RUNS,), 5.0, 0, Step.AGAIN, "1 of its 2 members are not there any more"),
    ],
)
def test_rank_0_follows_its_members(
    members: tuple[Member, ...], waited_s: float, broken_before: int, step: Step, text: str
) -> None:
    verdict = members_say(members, 2, waited_s, broken_before)
    assert verdict.step is step
    assert text in verdict.text


LATER_S = SETTLES_WITHIN_S + 1


@pytest.mark.parametrize(
    ("members", "since_s", "broken_before", "step", "text"),
    [
        ((RUNS,), 1.0, 0, Step.GO_ON, ""),
        ((RUNS,), LATER_S, 0, Step.FAIL, ""),
        ((RUNS, Member("rank-2", "CRASHED", True)), 1.0, 0, Step.AGAIN, "rank-2 was lost (crashed)"),
        ((RUNS, Member("rank-2", "CRASHED", True)), 1.0, 3, Step.FAIL, "was started again 3 times before"),
        ((RUNS, Member("rank-2", "FAILED", True, "no data", 2.0)), 1.0, 0, Step.FAIL, "rank-2 failed first: no data"),
        ((RUNS, Member("rank-2", "FAILED", True, "no rank 0", 1.0)), LATER_S, 0, Step.FAIL, ""),
    ],
)
def test_a_rank_0_that_fails_may_have_lost_another(
    members: tuple[Member, ...], since_s: float, broken_before: int, step: Step, text: str
) -> None:
    verdict = leader_failed(members, since_s, broken_before)
    assert verdict.step is step
    assert text in verdict.text
    assert bool(verdict.text) == bool(text)


def test_members_follow_rank_0() -> None:
    assert leader_ended("RUNNING", 0.0) == leader_ended("COMPLETED", 1.0) == leader_ended("FAILED", LATER_S) == ""
    assert "failed" in leader_ended("FAILED", 2 * LATER_S)
    assert "completed" in leader_ended("COMPLETED", ENDS_WITHIN_S + 1)
    assert "scheduled" in leader_ended("SCHEDULED", 0.0)
    assert "not there" in leader_ended("", 0.0)


def advertised(*names: str) -> list[Advertisement]:
    return [Advertisement(f"w-{name}", Node(name, 2000, 8000), (), 100.0) for name in names]


def test_a_gang_starts_on_all_its_nodes_or_on_none() -> None:
    gang = Queued("g", Demand(cpu_milli=2000, nodes=2), 0.0)
    picked = {name: pick(name, advertised("a", "b"), [gang], Policy(), 0.0) for name in ("a", "b")}
    leaders = [name for name, one in picked.items() if one.starts]
    assert len(leaders) == 1, "one of them is rank 0"
    assert picked[leaders[0]].gangs == (("g", tuple({"a", "b"} - set(leaders))),)
    assert pick("a", advertised("a"), [gang], Policy(), 0.0).starts == ()


def test_a_member_has_precedence_on_its_node_and_goes_to_no_other() -> None:
    member = Queued("m", Demand(cpu_milli=2000), 5.0, node="b")
    other = Queued("o", Demand(cpu_milli=2000, priority=9), 0.0)
    fleet = advertised("a", "b")
    assert [run_id for run_id, _ in pick("b", fleet, [other, member], Policy(), 0.0).starts] == ["m"]
    assert [run_id for run_id, _ in pick("a", fleet, [other, member], Policy(), 0.0).starts] == ["o"]
    told = pick("a", advertised("a"), [member], Policy(), 0.0)
    assert told.starts == ()
    assert told.reasons() == {"m": ("AwaitingResources", "it is for node b, which takes no runs now")}
