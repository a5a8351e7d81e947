"""The expectations behind the score, against exact small cases and simulation; and which way each term pulls."""

from __future__ import annotations

import random

import numpy as np
import pytest

from trimtab_work_pools.fit import Fit, fit
from trimtab_work_pools.placement import Placer, Unplaced, place
from trimtab_work_pools.rank.filter import Idle, Question
from trimtab_work_pools.rank.kinds import Kinds
from trimtab_work_pools.rank.mix import Mix
from trimtab_work_pools.rank.outlook import Aims, Outlook, Pull, outlook
from trimtab_work_pools.rank.stranding import StrandingRank
from trimtab_work_pools.rank.table import FleetTable, StateTable
from trimtab_work_pools.resources import Demand, Gpu, Inventory, Node, Placement
from trimtab_work_pools.simulation.fragmentation import Fragmentation

HALF, WHOLE, PAIR = Demand(gpus=1, gpu_share_milli=500), Demand(gpus=1), Demand(gpus=2)


def node(name: str, gpus: int = 4, model: str = "A100", cpus: int = 32) -> Node:
    return Node(name, cpus * 1000, 65_536, tuple(Gpu(f"{name}/{i}", i, model, 40_960) for i in range(gpus)))


def look(*demands: Demand, aims: Aims | None = None, most_gpus: int = 8) -> Outlook:
    hosts = {demand: np.array([True]) for demand in demands}
    return outlook(Mix.of(demands), [8.0], hosts, most_gpus, aims or Aims())


def test_a_remainder_too_small_for_all_is_lost_and_one_that_fits_exactly_is_not() -> None:
    loss = look(HALF, WHOLE).share_loss
    assert loss[499] == pytest.approx(0.499)
    assert loss[500] == pytest.approx(0.0, abs=1e-9)
    assert loss[700] == pytest.approx(0.2)
    assert loss[0] == 0.0


def test_the_expected_remainder_of_a_gpu_is_that_of_a_simulation() -> None:
    mix = [Demand(gpus=1, gpu_share_milli=share) for share in (300, 300, 450, 1000)]
    expected = look(*mix, aims=Aims(offers=5)).share_loss
    draw = random.Random(3)
    left = []
    for _ in range(20_000):
        free = 1000
        for _ in range(5):
            share = draw.choice(mix).gpu_share_milli
            free -= share if share <= free else 0
        left.append(free / 1000)
    assert expected[1000] == pytest.approx(sum(left) / len(left), abs=0.005)


def test_whole_gpus_left_over_by_demands_for_several() -> None:
    loss = look(PAIR, PAIR, Demand(gpus=4), WHOLE, aims=Aims(whole=1.0)).whole_loss
    assert list(loss[:6]) == pytest.approx([0, 0.75, 0.5, 1.25, 0, 0.75])
    assert list(look(WHOLE, HALF).whole_loss) == [0.0] * 9


def test_expected_shortfall_is_that_of_a_simulation() -> None:
    """The demands for 4 GPUs pull N(4 x 8, 3^2 x 4) CPUs; 30 are free."""
    pull = Pull(mean=8.0, spread=3.0)
    draw = np.random.default_rng(5)
    short = np.maximum(0.0, draw.normal(32.0, 6.0, 400_000) - 30.0).mean() / 8.0
    assert pull.short(np.array([4.0]), np.array([30.0]))[0] == pytest.approx(short, abs=0.003)
    assert pull.short(np.array([4.0]), np.array([1000.0]))[0] == pytest.approx(0.0, abs=1e-9)
    assert pull.short(np.array([4.0]), np.array([0.0]))[0] == pytest.approx(4.0, abs=1e-4)
    assert list(Pull(0.0, 0.0).short(np.array([1.0]), np.array([0.0]))) == [0.0]


def test_cpus_pulled_are_those_of_the_mix() -> None:
    pull = look(
        Demand(gpus=1, cpu_milli=4000), Demand(gpus=1, cpu_milli=8000), aims=Aims(pull_mean=1, pull_spread=1)
    ).cpu
    assert pull.mean == pytest.approx(6000)
    assert pull.spread == pytest.approx(2000)
    assert look(Demand(cpu_milli=4000)).cpu == Pull(0.0, 0.0)


def test_a_gpu_that_few_demands_can_do_without_has_a_price() -> None:
    picky = Demand(gpus=1, gpu_models=frozenset(("H100",)))
    hosts = {WHOLE: np.array([True, True]), picky: np.array([False, True])}
    price = outlook(Mix.of([WHOLE, picky]), [8.0, 8.0], hosts, 8, Aims(scarcity=1.0)).price
    assert list(price) == pytest.approx([0.5, 1.5])


def test_a_mix_is_the_same_in_any_order_and_by_shape() -> None:
    urgent = Demand(gpus=2, priority=7, team="x", reads=frozenset(("d",)))
    assert Mix.of([WHOLE, PAIR, urgent]) == Mix.of([urgent, WHOLE, PAIR])
    assert dict(Mix.of([WHOLE, PAIR, urgent]).entries) == pytest.approx({WHOLE: 1 / 3, PAIR: 2 / 3})
    assert Mix.of([WHOLE, PAIR, urgent]).gpus == pytest.approx(5 / 3)
    assert Mix.of([]).gpus == 0


def test_nodes_in_one_state_are_one_row_and_rows_are_used_again() -> None:
    table = FleetTable([node("a"), node("b"), node("c", 2)])
    assert table.size == 2
    assert sorted(table.count[:2]) == [1, 2]
    taken = table.nodes["a"].take(Placement("a", cpu_milli=1000))
    table.put(taken)
    assert table.size == 3
    assert table.names_like("a") == ["a"]
    table.put(taken.give_back(Placement("a", cpu_milli=1000)))
    assert sorted(table.names_like("a")) == ["a", "b"]
    table.put(table.nodes["c"].take(Placement("c", cpu_milli=1)))
    assert table.size == 3, "the row that a left is used again"
    assert table.first(table.changed[-1]) == "c"


def test_kinds_do_not_depend_on_names_or_order() -> None:
    fleet = [node("a"), node("b", 2, "T4"), node("c"), node("d", 0)]
    one, two = Kinds(fleet), Kinds(fleet[::-1])
    assert one.nodes == two.nodes
    assert one.counts == two.counts
    assert sorted(one.counts) == [1, 1, 2]
    assert one.gpus == 4
    assert [one.counts[one.number(each)] for each in fleet] == [2, 1, 2, 1]


def test_rows_that_may_fit_are_found_by_counting() -> None:
    fleet = [node("a", 4), node("b", 2, "T4"), node("c", 0)]
    kinds = Kinds(fleet)
    table = StateTable(kinds, [kinds.state(kinds.number(each), each) for each in fleet])
    for demand in (HALF, WHOLE, PAIR, Demand(gpus=3), Demand(cpu_milli=40_000), Demand(gpus=1, gpu_memory_mib=50_000)):
        assert list(Question(table, demand).fits(np.arange(3))) == [isinstance(fit(one, demand), Fit) for one in fleet]
    assert Idle(kinds).could_host(Demand(gpus=3)).sum() == 1


def test_a_score_is_the_loss_before_less_the_loss_after() -> None:
    """With every second run for two, one of the last two whole GPUs together costs what breaking the pair costs."""
    table = FleetTable([node("a", 2)])
    aims = Aims(pull_mean=1e-9, pull_spread=0.0, memory=0.0, scarcity=0.0, whole=1.0)
    rank = StrandingRank(table, aims, Mix.of([WHOLE, PAIR]))
    scores = {
        demand: rank.scores(Question(table, demand), np.array([0]))[0] for demand in (WHOLE, PAIR, Demand(gpus=3))
    }
    assert scores[WHOLE] == pytest.approx(-0.5)
    assert scores[PAIR] == pytest.approx(0.0)
    assert scores[Demand(gpus=3)] == -np.inf


def test_the_last_cpus_beside_free_gpus_are_kept() -> None:
    """Two nodes with two free GPUs; a run of 12 CPUs without GPU goes where enough are left for the GPUs."""
    fleet = Inventory((node("few", 2, cpus=16), node("many", 2, cpus=64)))
    history = Mix.of([Demand(gpus=1, cpu_milli=8000)] * 3 + [Demand(cpu_milli=12_000)])
    found = place(fleet, Demand(cpu_milli=12_000), history)
    assert not isinstance(found, Unplaced)
    assert found[0].node == "many"


def test_a_placer_learns_what_comes() -> None:
    """After many pairs a single run goes to the node that has an odd GPU left."""
    placer = Placer(Inventory((node("even", 4), node("odd", 5))))
    for _ in range(6):
        for placement in placer.place(PAIR):
            placer.release(placement)
    assert placer.place(WHOLE)[0].node == "odd"


def test_fragments_are_those_of_the_paper() -> None:
    """FGD: one GPU of two free by half. The half is a fragment to who wants a whole one; both, to who wants two."""
    kinds = Kinds([node("a", 2)])
    table = StateTable(kinds, [kinds.state(0, node("a", 2))])
    measure = Fragmentation(table, Mix.of([HALF, WHOLE, PAIR, Demand(cpu_milli=1)]))
    fragments = measure.of(np.array([0]), np.array([32_000.0]), np.array([[500, 1000]]))
    assert fragments[0] == pytest.approx((0.0 + 0.5 + 1.5 + 1.5) / 4)
