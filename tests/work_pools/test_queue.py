"""The queue planner: cases from files, and what must never happen, as properties."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from queue_cases import CASES, read_case

from trimtab_work_pools.queue import decide, plan
from trimtab_work_pools.queue.explain import explain
from trimtab_work_pools.queue.priority import order, outranks, running_key
from trimtab_work_pools.queue.rooms import Claim, Slots
from trimtab_work_pools.queue.verdicts import Code, Plan
from trimtab_work_pools.queue.workload import Fleet, Limit, Member, Policy, Run, Running, WorkloadError

NOW_S = 1_000_000.0


@pytest.mark.parametrize("path", sorted(CASES.glob("*.toml")), ids=lambda path: path.stem)
def test_case(path: Path) -> None:
    case = read_case(path)
    made = plan(case.fleet, case.queue, case.policy, case.now_s)
    starts = {start.run_id: [name for name, _ in start.parts] for start in made.starts}
    spread = case.expect.get("domains", {})
    domains = {
        member.name: getattr(member.room, "node", member).failure_domain for member in case.fleet.members if spread
    }
    assert {run_id: sorted(domains[name] for name in starts.pop(run_id)) for run_id in spread} == spread
    assert starts == case.expect.get("start", {})
    assert {stop.run_id: stop.for_run_id for stop in made.stops} == case.expect.get("stop", {})
    waits = {wait.run_id: wait for wait in made.waits}
    runs = {run.id: run for run in case.queue}
    assert waits.keys() == case.expect.get("wait", {}).keys()
    for run_id, wanted in case.expect.get("wait", {}).items():
        said = explain(runs[run_id], case.fleet, made)
        assert wanted.pop("says", "") in said
        for field, value in wanted.items():
            got = getattr(waits[run_id], field)
            assert (list(got) if isinstance(got, tuple) else got) == value, f"{run_id}.{field}"


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_no_plan_starts_more_than_a_limit_lets_run(data: st.DataObject) -> None:
    fleet, queue = data.draw(situations())
    names = ("pool", "queue a", "queue b")
    limits = tuple(Limit(name, data.draw(st.integers(0, 4)), data.draw(st.integers(0, 5))) for name in names[:2])
    queue = tuple(dataclasses.replace(run, limits=("pool", data.draw(st.sampled_from(names[1:])))) for run in queue)
    made = plan(dataclasses.replace(fleet, limits=limits), queue, Policy(), NOW_S)
    nodes = {run.id: run for run in queue}
    for limit in limits:
        counted = [nodes[one.run_id].nodes for one in made.starts if limit.name in nodes[one.run_id].limits]
        assert sum(counted) <= limit.left
    assert len(made.starts) + len(made.waits) == len(queue)


@st.composite
def runs(draw: st.DrawFn, run_id: str, widest: int = 8) -> Run:
    gpus, nodes = draw(st.integers(1, widest)), draw(st.sampled_from((1, 1, 1, 2)))
    deadline_s = draw(st.none() | st.integers(-100, 5000))
    return Run(
        run_id,
        gpus,
        NOW_S - draw(st.integers(0, 3_000_000)),
        float(draw(st.integers(1, 100_000))),
        nodes=nodes,
        width=float(gpus * nodes),
        sigma=draw(st.sampled_from((0.0, 1.0))),
        priority=draw(st.integers(0, 2)),
        deadline_s=None if deadline_s is None else NOW_S + deadline_s,
        preemptible=draw(st.booleans()),
        team=draw(st.sampled_from(("", "x", "y"))),
    )


@st.composite
def situations(draw: st.DrawFn) -> tuple[Fleet, tuple[Run, ...]]:
    """A fleet of up to five nodes with runs on it, and up to twelve queued runs."""
    sizes = draw(st.lists(st.sampled_from((1, 2, 4, 8)), min_size=1, max_size=5))
    free = list(sizes)
    running: list[Running] = []
    for number in range(draw(st.integers(0, 6))):
        run = draw(runs(f"r{number}"))
        roomy = [node for node, have in enumerate(free) if have >= run.demand][: run.nodes]
        if len(roomy) < run.nodes:
            continue
        for node in roomy:
            free[node] -= run.demand
        started_s = max(run.submitted_s, NOW_S - draw(st.integers(0, 50_000)))
        stopping_s = draw(st.sampled_from((None, None, NOW_S + 20)))
        parts = tuple((f"n{node}", Claim(0.0, run.demand)) for node in roomy)
        running.append(
            Running(run, parts, started_s, unsaved_s=float(draw(st.integers(0, 900))), stopping_until_s=stopping_s)
        )
    members = tuple(
        Member(f"n{node}", Slots(have), float(size)) for node, (have, size) in enumerate(zip(free, sizes, strict=True))
    )
    queue = tuple(draw(runs(f"q{number}")) for number in range(draw(st.integers(0, 12))))
    return Fleet(members, tuple(running)), queue


POLICIES = st.sampled_from(
    (
        Policy(),
        Policy(preempt=False),
        Policy(reservations=1),
        Policy(patience_s=3600.0, patience_factor=0.0, overdue_share=1.0),
        Policy(shares=(("x", 3.0),), preempt_factor=1.0),
    )
)


@settings(max_examples=100, deadline=None)
@given(situations(), POLICIES)
def test_never_more_given_than_there_is_and_every_run_has_one_verdict(
    situation: tuple[Fleet, tuple[Run, ...]], policy: Policy
) -> None:
    fleet, queue = situation
    made = plan(fleet, queue, policy, NOW_S)
    by_id = {run.id: run for run in queue}
    free = {member.name: member.room.free for member in fleet.members}
    for start in made.starts:
        run = by_id[start.run_id]
        assert len({name for name, _ in start.parts}) == len(start.parts) == run.nodes  # gangs: all or nothing
        for name, claim in start.parts:
            assert claim.devices == run.demand
            free[name] -= claim.devices
    assert min(free.values()) >= 0
    verdicts = Counter([s.run_id for s in made.starts] + [w.run_id for w in made.waits])
    assert verdicts == Counter(by_id.keys())
    for run in queue:
        assert explain(run, fleet, made)


@settings(max_examples=70, deadline=None)
@given(situations(), POLICIES, st.randoms(use_true_random=False))
def test_same_plan_for_any_order_of_input(situation: tuple[Fleet, tuple[Run, ...]], policy: Policy, random) -> None:  # type: ignore[no-untyped-def]
    fleet, queue = situation
    shuffled = Fleet(
        tuple(random.sample(fleet.members, len(fleet.members))), tuple(random.sample(fleet.running, len(fleet.running)))
    )
    assert plan(fleet, queue, policy, NOW_S) == plan(shuffled, random.sample(queue, len(queue)), policy, NOW_S)


@settings(max_examples=70, deadline=None)
@given(situations(), POLICIES, st.randoms(use_true_random=False))
def test_names_of_nodes_do_not_matter(situation: tuple[Fleet, tuple[Run, ...]], policy: Policy, random) -> None:  # type: ignore[no-untyped-def]
    fleet, queue = situation
    names = [member.name for member in fleet.members]
    new = dict(zip(names, random.sample([f"host-{n}" for n in range(len(names))], len(names)), strict=True))
    renamed = Fleet(
        tuple(dataclasses.replace(member, name=new[member.name]) for member in fleet.members),
        tuple(dataclasses.replace(r, parts=tuple((new[n], c) for n, c in r.parts)) for r in fleet.running),
    )

    def nameless(made: Plan) -> object:
        waits = [(w.run_id, w.code, w.ahead, w.at_s, len(w.nodes), w.because) for w in made.waits]
        return [s.run_id for s in made.starts], made.stops, waits

    assert nameless(plan(fleet, queue, policy, NOW_S)) == nameless(plan(renamed, queue, policy, NOW_S))


@settings(max_examples=70, deadline=None)
@given(situations(), POLICIES)
def test_decide_is_the_plan_without_reasons(situation: tuple[Fleet, tuple[Run, ...]], policy: Policy) -> None:
    fleet, queue = situation
    made = plan(fleet, queue, policy, NOW_S)
    assert decide(fleet, queue, policy, NOW_S) == (made.starts, made.stops)


@settings(max_examples=100, deadline=None)
@given(runs("only"), st.lists(st.sampled_from((1, 2, 4, 8)), min_size=1, max_size=5), POLICIES)
def test_a_run_that_fits_an_idle_fleet_starts(run: Run, sizes: list[int], policy: Policy) -> None:
    fleet = Fleet(tuple(Member(f"n{n}", Slots(size), float(size)) for n, size in enumerate(sizes)))
    fits = sum(size >= run.demand for size in sizes) >= run.nodes
    made = plan(fleet, (run,), policy, NOW_S)
    assert [start.run_id for start in made.starts] == ([run.id] if fits else [])
    assert [wait.code for wait in made.waits] == ([] if fits else [Code.NEVER_FITS])


@settings(max_examples=70, deadline=None)
@given(situations(), st.integers(1, 8))
def test_more_capacity_never_leaves_the_first_run_waiting(situation: tuple[Fleet, tuple[Run, ...]], gpus: int) -> None:
    """The first in the order is never worse off; those behind it may be, as in any list scheduling (Graham 1969)."""
    fleet, queue = situation
    more = Fleet((*fleet.members, Member("new", Slots(gpus), float(gpus))), fleet.running)
    policy = Policy(overdue_share=1.0)
    first = {run.id for one in order(queue, fleet.running, 1e9, policy, NOW_S)[:1] for run in [one.run]}
    before = {start.run_id for start in plan(fleet, queue, policy, NOW_S).starts} & first
    assert before <= {start.run_id for start in plan(more, queue, policy, NOW_S).starts}


@settings(max_examples=100, deadline=None)
@given(situations(), POLICIES)
def test_stops_follow_the_rules(situation: tuple[Fleet, tuple[Run, ...]], policy: Policy) -> None:
    fleet, queue = situation
    made = plan(fleet, queue, policy, NOW_S)
    ranked = {one.run.id: one for one in order(queue, fleet.running, fleet.width, policy, NOW_S)}
    victims = {one.run.id: one for one in fleet.running}
    assert len({stop.run_id for stop in made.stops}) == len(made.stops)
    for stop in made.stops:
        victim = victims[stop.run_id]
        assert policy.preempt
        assert victim.run.preemptible
        assert victim.stopping_until_s is None
        assert NOW_S - victim.started_s >= policy.min_run_s
        key, other = ranked[stop.for_run_id].key, running_key(victim, fleet.width, policy, NOW_S)
        reclaimed = key[:2] == other[:2] and victim.run.team != ranked[stop.for_run_id].run.team
        assert reclaimed or outranks(key, other, policy.preempt_factor)


@given(
    st.lists(
        st.tuples(st.integers(-2, 0), st.integers(0, 1), st.floats(0, 100), st.just(0.0), st.text(max_size=2)),
        max_size=6,
    )
)
def test_outranking_has_no_cycle(keys: list[tuple[int, int, float, float, str]]) -> None:
    for a in keys:
        assert not outranks(a, a, 1.0)
        for b in keys:
            assert not (outranks(a, b, 1.0) and outranks(b, a, 1.0))
            for c in keys:
                if outranks(a, b, 1.5) and outranks(b, c, 1.5):
                    assert outranks(a, c, 1.5)


@settings(max_examples=70, deadline=None)
@given(st.lists(runs("x"), min_size=2, max_size=8), st.integers(1, 4))
def test_ageing_bound(drawn: list[Run], lifts: int) -> None:
    """A run that waited k patiences is behind only what was due earlier, or what stands k or more priorities higher."""
    policy = Policy(overdue_share=1.0, patience_s=3600.0, patience_factor=1.0, patience_max_s=200_000.0)
    queue = [dataclasses.replace(run, id=f"q{n}", deadline_s=None) for n, run in enumerate(drawn)]
    old = dataclasses.replace(
        queue[0], id="old", priority=0, submitted_s=NOW_S - lifts * policy.patience_of(queue[0], 1e9) - 1
    )
    ranked = [one.run for one in order([old, *queue[1:]], (), 1e9, policy, NOW_S)]
    for ahead in ranked[: ranked.index(old)]:
        waited_s = NOW_S - ahead.submitted_s
        lifted = int(waited_s // policy.patience_of(ahead, 1e9))
        due_s = ahead.submitted_s + policy.patience_of(ahead, 1e9)
        higher = ahead.priority + max(0, lifted - 1) > lifts - 1
        same = ahead.priority + lifted - 1 == lifts - 1 and due_s <= old.submitted_s + policy.patience_of(old, 1e9)
        assert higher or (lifted and same)


def test_rejects_what_contradicts_itself() -> None:
    run = Run("r", 1, 0.0, 1.0)
    with pytest.raises(WorkloadError, match="unique"):
        plan(Fleet((Member("a", Slots(1)),)), (run, run), Policy(), 0.0)
    with pytest.raises(WorkloadError, match="expected_s"):
        Run("r", 1, 0.0, 0.0)
    with pytest.raises(WorkloadError, match="overdue_share"):
        Policy(overdue_share=0.0)
    with pytest.raises(WorkloadError, match="names must be unique"):
        Fleet((Member("a", Slots(1)), Member("a", Slots(1))))
    with pytest.raises(LookupError, match="no verdict"):
        explain(run, Fleet(()), plan(Fleet(()), (), Policy(), 0.0))


def test_a_thousand_runs_over_a_thousand_nodes_in_a_second() -> None:
    members, running = [], []
    for node in range(1000):
        used = node % 9
        members.append(Member(f"n{node}", Slots(8 - used), 8.0))
        for slot in range(used):
            run = Run(f"r{node}-{slot}", 1, 0.0, 1000.0 + 37 * (node + slot) % 90_000, sigma=1.0)
            running.append(Running(run, ((f"n{node}", Claim(0.0, 1)),), 5000.0))
    queue = [
        Run(f"q{n}", 1 << n % 4, 10.0 * n, 60.0 + 91 * n % 50_000, width=float(1 << n % 4), sigma=1.0, team=f"t{n % 3}")
        for n in range(1000)
    ]
    fleet = Fleet(tuple(members), tuple(running))
    began = time.process_time()
    made = plan(fleet, queue, Policy(), 20_000.0)
    assert time.process_time() - began < 1.0
    assert len(made.starts) + len(made.waits) == 1000
    assert len(made.starts) > 500
