"""When a gang goes on, starts again, or has failed; and its members' places in the plan."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab_work_pools.advertise import Advertisement
from trimtab_work_pools.gangs import (
    CONFIRMED,
    ENDS_WITHIN_S,
    FOLLOWS_WITHIN_S,
    GATHERING,
    GATHERS_WITHIN_S,
    RESERVES_WITHIN_S,
    SETTLES_WITHIN_S,
    WORD,
    WORD_WITHIN_S,
    Member,
    Step,
    follows,
    gathered,
    leader_ended,
    leader_failed,
    members_say,
    word_given,
)
from trimtab_work_pools.queue.workload import Policy
from trimtab_work_pools.resources import Demand, Node
from trimtab_work_pools.worker.picking import Queued, members_to_come, pick

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


def test_the_place_of_a_member_is_kept_until_its_run_is_there() -> None:
    gang = Queued("g", Demand(cpu_milli=2000, nodes=2, priority=1), 0.0)
    small = Queued("s", Demand(cpu_milli=1000), 5.0)
    fleet = advertised("a", "b")
    picked = {name: pick(name, fleet, [gang, small], Policy(), 0.0) for name in ("a", "b")}
    (other,) = [name for name, one in picked.items() if not one.gangs]
    (leader,) = {"a", "b"} - {other}
    assert members_to_come(leader, picked[leader], [gang, small]) == []
    coming = members_to_come(other, picked[other], [gang, small])
    assert [(one.node, one.gang, one.demand.nodes) for one in coming] == [(other, "g", 1)]
    free = [pick(name, fleet, [small], Policy(), 0.0, coming).starts for name in (leader, other)]
    assert [bool(starts) for starts in free] == [True, False], "the gang has left the queue, and the place is kept"
    member = Queued("m", Demand(cpu_milli=2000), 6.0, node=other, gang="g")
    assert [run_id for run_id, _ in pick(other, fleet, [small, member], Policy(), 0.0).starts] == ["m"]


def waits(name: str = "", state: str = "SCHEDULED") -> Member:
    return Member("rank-1", state, False, "why", 1.0, name)


@pytest.mark.parametrize(
    ("members", "waited_s", "step", "text"),
    [
        ((waits("Scheduled"),), 5.0, Step.GO_ON, ""),
        ((waits("Pending", "PENDING"),), 5.0, Step.GO_ON, ""),
        ((waits(CONFIRMED, "PENDING"),), 5.0, Step.START, ""),
        ((waits(CONFIRMED, "PENDING"), waits("Pending", "PENDING")), 5.0, Step.GO_ON, ""),
        ((waits(CONFIRMED, "PENDING"),), RESERVES_WITHIN_S, Step.AGAIN, "had no place within 30 s"),
        ((waits("AwaitingResources"),), 1.0, Step.GO_ON, ""),
        ((waits("AwaitingResources"),), 4.0, Step.AGAIN, "has no place: why"),
        ((waits("Cancelled", "CANCELLED"),), 1.0, Step.AGAIN, "is cancelled"),
        ((), 1.0, Step.AGAIN, "1 of its 1 other members are not there"),
    ],
)
def test_rank_0_gives_the_word_when_all_hold_their_devices(
    members: tuple[Member, ...], waited_s: float, step: Step, text: str
) -> None:
    verdict = gathered(members, max(1, len(members)), waited_s)
    assert verdict.step is step
    assert text in verdict.text


@pytest.mark.parametrize(
    ("member", "since_s", "step"),
    [
        (waits(CONFIRMED, "PENDING"), 1.0, Step.GO_ON),
        (waits("Submitting", "PENDING"), 1.0, Step.START),
        (waits("Completed", "COMPLETED"), 1.0, Step.START),
        (waits("Crashed", "CRASHED"), 1.0, Step.AGAIN),
        (waits("LostHost"), 1.0, Step.AGAIN),
        (waits(CONFIRMED, "PENDING"), FOLLOWS_WITHIN_S, Step.AGAIN),
    ],
)
def test_rank_0_begins_when_all_others_have(member: Member, since_s: float, step: Step) -> None:
    assert follows((member,), 1, since_s).step is step


@pytest.mark.parametrize(
    ("own", "leader", "name", "waited_s", "step"),
    [
        ("PENDING", "PENDING", "Pending", 1.0, Step.GO_ON),
        ("PENDING", "PENDING", GATHERING, 1.0, Step.GO_ON),
        ("PENDING", "PENDING", WORD, 1.0, Step.START),
        ("PENDING", "PENDING", "Submitting", 1.0, Step.START),
        ("PENDING", "RUNNING", "Running", 1.0, Step.START),
        ("CANCELLED", "PENDING", WORD, 1.0, Step.AGAIN),
        ("PENDING", "SCHEDULED", "AwaitingResources", 1.0, Step.AGAIN),
        ("PENDING", "", "", 1.0, Step.AGAIN),
        ("PENDING", "PENDING", GATHERING, WORD_WITHIN_S, Step.AGAIN),
    ],
)
def test_a_member_waits_for_the_word(own: str, leader: str, name: str, waited_s: float, step: Step) -> None:
    assert word_given(own, leader, name, waited_s).step is step


# --- gangs that take from each other what they need ---


@dataclass
class Try:
    """A gang in the model: which nodes it wants, what states its ranks have, since when."""

    nodes: tuple[str, ...]
    leader: tuple[str, str] = ("SCHEDULED", "Scheduled")
    members: list[Member] = field(default_factory=list)
    since_s: float = 0.0
    confirmed_s: list[float] = field(default_factory=list)
    due_s: float = 0.0
    done: bool = False


class Model:
    """Nodes that hold one rank each; workers that see and do things in any order, one at a time."""

    def __init__(self, gangs: list[Try], rng: random.Random) -> None:
        self.gangs, self.rng, self.now_s = gangs, rng, 0.0
        self.holds: dict[str, tuple[int, int]] = {}
        self.began: list[tuple[int, int]] = []

    def step(self) -> None:
        self.now_s += self.rng.choice((0.0, 0.1, 0.5, 2.0))
        place = self.rng.randrange(len(self.gangs))
        gang = self.gangs[place]
        if gang.done:
            return
        if gang.leader[0] == "SCHEDULED":
            self.claim(place, gang)
        elif self.rng.random() < 0.5:
            self.lead(place, gang)
        else:
            self.follow(place, gang, self.rng.randrange(len(gang.nodes) - 1))

    def claim(self, place: int, gang: Try) -> None:
        """Seldom with a wrong picture of the other nodes; never of its own, where the claims are."""
        free = [name for name in gang.nodes if name not in self.holds]
        blind = self.rng.random() < 0.3
        if gang.due_s > self.now_s or gang.nodes[0] in self.holds or not (blind or len(free) == len(gang.nodes)):
            return
        self.holds[gang.nodes[0]] = (place, 0)
        gang.leader, gang.since_s = ("PENDING", GATHERING), self.now_s
        gang.members = [Member(f"rank-{rank}", "SCHEDULED", False) for rank in range(1, len(gang.nodes))]
        gang.confirmed_s = [0.0] * len(gang.members)

    def lead(self, place: int, gang: Try) -> None:
        judge = gathered if gang.leader[1] == GATHERING else follows
        verdict = judge(gang.members, len(gang.nodes) - 1, self.now_s - gang.since_s)
        if verdict.step is Step.AGAIN:
            gang.members = [Member(one.name, "CANCELLED", False) for one in gang.members]
            gang.leader, gang.due_s = ("SCHEDULED", "AwaitingResources"), self.now_s + self.rng.uniform(1.0, 8.0)
            self.free(place)
        elif verdict.step is Step.START and gang.leader[1] == GATHERING:
            gang.leader, gang.since_s = ("PENDING", WORD), self.now_s
        elif verdict.step is Step.START:
            self.begin(place, 0)
            gang.done = True
            self.free(place)  # it has come to its end

    def follow(self, place: int, gang: Try, number: int) -> None:
        member, node = gang.members[number], gang.nodes[number + 1]
        if member.state == "SCHEDULED" and node not in self.holds:
            self.holds[node] = (place, number + 1)
            gang.members[number] = Member(member.name, "PENDING", False, state_name=CONFIRMED)
            gang.confirmed_s[number] = self.now_s
        elif member.state == "SCHEDULED":
            gang.members[number] = Member(member.name, "SCHEDULED", False, "taken", state_name="AwaitingResources")
        elif member.state_name == CONFIRMED:
            verdict = word_given(member.state, *gang.leader, self.now_s - gang.confirmed_s[number])
            if verdict.step is Step.START:
                self.begin(place, number + 1)
                gang.members[number] = Member(member.name, "RUNNING", True, state_name="Running")
            elif verdict.step is Step.AGAIN:
                gang.members[number] = Member(member.name, "CANCELLED", False)

    def begin(self, place: int, rank: int) -> None:
        held = {rank for of, rank in self.holds.values() if of == place}
        assert held == set(range(len(self.gangs[place].nodes))), "a rank began while another had no place"
        self.began.append((place, rank))

    def free(self, place: int) -> None:
        self.holds = {node: by for node, by in self.holds.items() if by[0] != place}


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 5), st.integers(2, 4), st.integers(0, 10**9))
def test_no_rank_begins_before_all_hold_and_every_gang_comes_to_its_end(gangs: int, nodes: int, seed: int) -> None:
    rng = random.Random(seed)
    names = [f"n{number}" for number in range(nodes)]
    model = Model([Try(tuple(rng.sample(names, rng.randint(2, nodes)))) for _ in range(gangs)], rng)
    for _ in range(20_000):
        model.step()
        if all(gang.done for gang in model.gangs):
            break
    assert all(gang.done for gang in model.gangs), "two of them keep what the other one needs"
    assert sorted(set(model.began)) == sorted(
        (place, rank) for place, gang in enumerate(model.gangs) for rank in range(len(gang.nodes))
    )
