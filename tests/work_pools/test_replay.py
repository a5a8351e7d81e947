"""The replay of job traces: what any schedule must satisfy, known schedules, ageing over time, the command."""

from __future__ import annotations

import csv
import json
import math
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from trimtab_infra.bench import app
from trimtab_work_pools.queue.workload import Policy
from trimtab_work_pools.simulation.baselines import Backfill, Fifo, ShortestFirst
from trimtab_work_pools.simulation.philly import (
    Cluster,
    Job,
    TraceError,
    draw_estimates,
    offered_load,
    read_jobs,
    split,
)
from trimtab_work_pools.simulation.planned import Planned
from trimtab_work_pools.simulation.replay import Costs, Preempt, Scheduler, Start, State, Stretch, replay
from trimtab_work_pools.simulation.report import figures, write_schedule

AIMS = Policy(min_run_s=100.0, patience_s=5000.0, patience_factor=1.0, patience_max_s=20_000.0)
SCHEDULERS = {
    "fifo": Fifo,
    "backfill": Backfill,
    "sjf": ShortestFirst,
    "sjf-stop": lambda: ShortestFirst("stop"),
    "trimtab": lambda: Planned(AIMS, 0.0),
    "trimtab-noisy": lambda: Planned(AIMS, 1.0),
    "trimtab-no-preemption": lambda: Planned(Policy(preempt=False), 0.0),
}


@st.composite
def traces(draw: st.DrawFn) -> tuple[Job, ...]:
    rows = draw(
        st.lists(
            st.tuples(st.integers(0, 3000), st.integers(1, 5000), st.sampled_from((1, 1, 2, 4, 8))),
            min_size=1,
            max_size=14,
        )
    )
    return tuple(
        Job(n, float(submit), float(duration), gpus) for n, (submit, duration, gpus) in enumerate(sorted(rows))
    )


def check(jobs: tuple[Job, ...], cluster: Cluster, costs: Costs, stretches: tuple[Stretch, ...]) -> None:
    """What every schedule must satisfy, whoever made it."""
    own: dict[int, list[Stretch]] = defaultdict(list)
    changes: list[tuple[float, int, int]] = []
    for one in stretches:
        own[one.job].append(one)
        assert sum(gpus for _, gpus in one.parts) == jobs[one.job].num_gpus
        assert len({node for node, _ in one.parts}) == len(one.parts)
        for node, gpus in one.parts:
            changes += [(one.end_s, -gpus, node), (one.start_s, gpus, node)]
    assert own.keys() == {job.index for job in jobs if split(job.num_gpus, cluster)}
    for job, parts in own.items():
        assert parts[0].start_s >= jobs[job].submit_s
        assert all(one.end_s <= after.start_s for one, after in pairwise(parts))
        held_s = sum(one.end_s - one.start_s for one in parts)
        assert held_s >= jobs[job].duration_s - 1e-6
        assert held_s <= jobs[job].duration_s + (len(parts) - 1) * (costs.checkpoint_s + costs.restart_s) + 1e-6
    used = [0] * cluster.nodes
    for _, gpus, node in sorted(changes):  # at one instant what ends comes first
        used[node] += gpus
        assert 0 <= used[node] <= cluster.gpus_per_node


@pytest.mark.parametrize("name", SCHEDULERS)
@settings(max_examples=15, deadline=None)
@given(jobs=traces(), nodes=st.integers(1, 3), gpus=st.sampled_from((1, 4, 8)), seed=st.integers(0, 3))
def test_every_schedule_is_possible(name: str, jobs: tuple[Job, ...], nodes: int, gpus: int, seed: int) -> None:
    cluster, costs = Cluster(nodes, gpus), Costs()
    told = draw_estimates(jobs, 1.0 if name == "trimtab-noisy" else 0.0, seed)
    made = replay(jobs, cluster, told, SCHEDULERS[name](), costs)
    check(jobs, cluster, costs, made)
    last = {one.job: one.start_s for one in made}
    for one in made:  # no thrash: what is stopped has run for its minimum, and pays for its checkpoint
        if one.start_s < last[one.job]:
            assert one.end_s - one.start_s >= AIMS.min_run_s + costs.checkpoint_s


def starts(jobs: list[tuple[float, float, int]], cluster: Cluster, scheduler: Scheduler) -> dict[int, float]:
    trace = tuple(Job(n, *row) for n, row in enumerate(jobs))
    return {one.job: one.start_s for one in replay(trace, cluster, draw_estimates(trace, 0.0, 0), scheduler)}


def test_fifo_stops_at_the_first_that_does_not_fit() -> None:
    assert starts([(0, 100, 3), (1, 50, 4), (2, 10, 1)], Cluster(1, 4), Fifo()) == {0: 0, 1: 100, 2: 150}


def test_easy_backfill_fills_the_gap_but_does_not_delay_the_head() -> None:
    jobs = [(0.0, 100.0, 3), (1.0, 50.0, 4), (2.0, 200.0, 1), (3.0, 97.0, 1)]
    assert starts(jobs, Cluster(1, 4), Backfill()) == {0: 0, 1: 100, 2: 150, 3: 3}


def test_shortest_first_skips_or_stops() -> None:
    jobs = [(0.0, 100.0, 3), (1.0, 50.0, 4), (2.0, 200.0, 1)]
    assert starts(jobs, Cluster(1, 4), ShortestFirst()) == {0: 0, 1: 202, 2: 2}
    assert starts(jobs, Cluster(1, 4), ShortestFirst("stop")) == {0: 0, 1: 100, 2: 150}


def test_a_preempted_job_pays_for_its_checkpoint_and_restart() -> None:
    jobs = (Job(0, 0.0, 10_000.0, 1), Job(1, 1000.0, 100.0, 1))
    made = replay(jobs, Cluster(1, 1), (10_000.0, 100.0), Planned(Policy(), 0.0), Costs(30.0, 60.0))
    assert [(one.job, one.start_s, one.end_s) for one in made] == [(0, 0, 1030), (1, 1030, 1130), (0, 1130, 10_190)]
    result = figures(jobs, Cluster(1, 1), made)
    assert (result.preemptions, result.max_wait_s, result.mean_first_wait_s) == (1, 190.0, 15.0)
    assert math.isclose(result.overhead_share, 90 / 10_190)


def test_ageing_bound_over_time() -> None:
    """A long job meets a stream of short ones that alone fill the cluster: it runs when its patience is out."""
    policy = Policy(patience_s=3000.0, patience_factor=1.0, patience_max_s=10_000.0, overdue_share=0.5, min_run_s=60.0)
    jobs = (Job(0, 5.0, 1000.0, 1), *(Job(n, 50.0 * (n - 1), 100.0, 1) for n in range(1, 400)))
    made = replay(jobs, Cluster(1, 2), draw_estimates(jobs, 0.0, 0), Planned(policy, 0.0))
    own = [one for one in made if one.job == 0]
    waited_s = own[-1].end_s - jobs[0].submit_s - jobs[0].duration_s
    longest_short_s, poll_s = 100.0, 600.0
    assert waited_s <= policy.patience_s + 1000.0 + longest_short_s + poll_s + len(own) * 90.0


def test_replay_refuses_a_scheduler_that_gives_away_what_there_is_not() -> None:
    class Greedy(Fifo):
        def decide(self, state: State, arrived: object) -> list[Start | Preempt]:
            return [Start(job, ((0, 2),)) for job in state.queued]

    jobs = (Job(0, 0.0, 10.0, 2), Job(1, 0.0, 10.0, 2))
    with pytest.raises(RuntimeError, match="twice"):
        replay(jobs, Cluster(1, 2), (10.0, 10.0), Greedy())


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "jobs.csv"
    rows = [f"2017-10-03 00:{n // 60:02}:{n % 60:02},{300 + 97 * n % 5000}.0,{1 << n % 4}" for n in range(0, 300, 7)]
    path.write_text("timestamp,duration,num_gpus\n" + "\n".join([*rows, "2017-10-03 00:06:00,5.0,64"]) + "\n")
    return path


@pytest.mark.parametrize("policy", ["trimtab", "fifo", "backfill", "sjf"])
@pytest.mark.parametrize("estimates", ["exact", "noisy"])
def test_command(trace: Path, tmp_path: Path, policy: str, estimates: str) -> None:
    out = tmp_path / "out.csv"
    args = ["queue", "--jobs", str(trace), "--nodes", "2", "--gpus-per-node", "8", "--policy", policy]
    result = CliRunner().invoke(app, [*args, "--estimates", estimates, "--schedule", str(out)])
    assert result.exit_code == 0, result.output
    said = json.loads(result.output.splitlines()[-1])
    assert (said["jobs"], said["left_out"], said["policy"]) == (43, 1, policy)
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert set(rows[0]) == {"job", "submit", "start", "end", "gpus", "nodes"}
    assert len(rows) == 43 + said["preemptions"]
    for row in rows:
        assert sum(int(part.split(":")[1]) for part in row["nodes"].split("|")) == int(row["gpus"])
        assert float(row["submit"]) <= float(row["start"]) < float(row["end"])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("timestamp,duration\n", "column 'num_gpus' is missing"),
        ("timestamp,duration,num_gpus\n", "no jobs"),
        ("timestamp,duration,num_gpus\nyesterday,5,1\n", "line 2"),
        ("timestamp,duration,num_gpus\n2017-10-03 00:00:00,-5,1\n", "above 0"),
        ("timestamp,duration,num_gpus\n2017-10-03 00:00:00,5,1.5\n", "line 2"),
        ("timestamp,duration,num_gpus\n2017-10-03 00:00:00,5,99\n", "use more nodes"),
    ],
)
def test_bad_traces_are_told_to_people(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "jobs.csv"
    path.write_text(text)
    result = CliRunner().invoke(app, ["queue", "--jobs", str(path), "--nodes", "1", "--policy", "trimtab"])
    assert result.exit_code == 2
    assert says in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("pair", "says"),
    [("nonsense=1", "no such field"), ("preempt=maybe", "true or false"), ("reservations=x", "not a number")],
)
def test_bad_aims_are_told_to_people(trace: Path, pair: str, says: str) -> None:
    args = ["queue", "--jobs", str(trace), "--nodes", "2", "--policy", "trimtab", "--set", pair]
    result = CliRunner().invoke(app, args)
    assert result.exit_code == 2
    assert says in result.output


def test_aims_reach_the_planner(trace: Path) -> None:
    args = ["queue", "--jobs", str(trace), "--nodes", "1", "--policy", "trimtab"]
    said = [
        json.loads(CliRunner().invoke(app, [*args, "--set", f"preempt={value}"]).output.splitlines()[-1])
        for value in ("true", "false")
    ]
    assert said[0]["preemptions"] > said[1]["preemptions"] == 0


def test_reads_and_measures(tmp_path: Path, trace: Path) -> None:
    jobs = read_jobs(trace)
    assert (jobs[0].submit_s, jobs[1].submit_s, jobs[-1].num_gpus) == (0.0, 7.0, 64)
    assert offered_load(jobs[:2], Cluster(1, 8)) == pytest.approx((300 + 2 ** (7 % 4) * (300 + 97 * 7)) / (7 * 8))
    assert [split(n, Cluster(3, 8)) for n in (1, 8, 16, 24, 12, 25)] == [(1, 1), (1, 8), (2, 8), (3, 8), (2, 6), None]
    with pytest.raises(TraceError, match="cannot be read"):
        read_jobs(tmp_path / "none.csv")
    write_schedule(tmp_path / "s.csv", jobs, [Stretch(1, 7.25, 90.0, ((0, 4), (1, 4)))])
    assert (tmp_path / "s.csv").read_text().splitlines()[1] == "1,7,7.25,90,8,0:4|1:4"
