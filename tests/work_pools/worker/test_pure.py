"""What a worker decides, without a server: ledger, advertisements, picking, what a run is told, the policy."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from node_cases import read_node
from strategies import demands, inventories, placements

from trimtab_work_pools.advertise import Advertisement, AdvertisementError, Board, current, later
from trimtab_work_pools.fit import Fit, fit
from trimtab_work_pools.inventory import Devices, GpuReading, Host, HostReading
from trimtab_work_pools.ledger import Holding, Ledger
from trimtab_work_pools.queue.verdicts import Code
from trimtab_work_pools.queue.workload import Policy
from trimtab_work_pools.resources import CapacityError, Demand, Inventory, Node, Placement
from trimtab_work_pools.wishes import read_demand
from trimtab_work_pools.worker.affinity import bind, own_cpus
from trimtab_work_pools.worker.host_claims import HostClaim
from trimtab_work_pools.worker.picking import NEVER, Queued, pick
from trimtab_work_pools.worker.pool_policy import PolicyError, read_policy
from trimtab_work_pools.worker.this_node import NodeSettings, advertised

NOW_S = 1_700_000_000.0


def holding(run_id: str, node: Node, demand: Demand) -> Holding:
    found = fit(node, demand)
    assert isinstance(found, Fit)
    return Holding(run_id, demand, found.placement, NOW_S - 60, NOW_S - 30, "claim")


def advertise(node: Node, *held: Holding, worker: str = "", expires_s: float = NOW_S + 30) -> Advertisement:
    return Advertisement(worker or f"w-{node.name}", node, held, expires_s)


# --- ledger ---


@settings(max_examples=100, deadline=None)
@given(inventories(), st.lists(demands(), max_size=6))
def test_a_ledger_gives_nothing_twice_and_forgets_nothing(inventory: Inventory, wanted: list[Demand]) -> None:
    node = replace(
        inventory.nodes[0],
        gpus=tuple(replace(gpu, share_given_milli=0, memory_given_mib=0) for gpu in inventory.nodes[0].gpus),
        cpu_given_milli=0,
        memory_given_mib=0,
    )
    ledger = Ledger(node)
    for number, demand in enumerate(wanted):
        found = fit(ledger.free(), demand)
        if isinstance(found, Fit):
            ledger = ledger.reserve(Holding(f"r{number}", demand, found.placement, NOW_S, NOW_S))
            with pytest.raises(CapacityError, match="already"):
                ledger.reserve(Holding(f"r{number}", demand, found.placement, NOW_S, NOW_S))
    for one in ledger.holdings:
        ledger = ledger.release(one.run_id)
    assert ledger.free() == node


def test_a_holding_outlasts_what_befalls_its_device() -> None:
    node = read_node("a", {"gpus": {"count": 2}})
    ledger = Ledger(node).reserve(holding("r", node, Demand(gpus=1)))
    filled = replace(node.gpus[0], memory_used_mib=40_000)
    failed = replace(node.gpus[0], healthy=False)
    assert ledger.read_again(replace(node, gpus=(filled, node.gpus[1]))).free().gpus[0].memory_free_mib == 0
    broken = ledger.read_again(replace(node, gpus=(failed, node.gpus[1])))
    assert broken.free().gpus[0].share_free_milli == 0
    assert ledger.stopping("r", NOW_S).find("r") == replace(ledger.holdings[0], stopping_until_s=NOW_S)


@settings(max_examples=200, deadline=None)
@given(inventories(), st.lists(st.tuples(placements(), demands()), max_size=6), st.lists(demands(), max_size=4))
def test_whatever_is_held_of_a_node_that_has_changed_can_be_planned_with(
    inventory: Inventory, held: list[tuple[Placement, Demand]], wanted: list[Demand]
) -> None:
    """A run fills the disk that it was given, a limit is lowered, slices are made anew: more is held than there is."""
    fleet = []
    for place, node in enumerate(inventory.nodes):
        mine = held[place :: len(inventory.nodes)]
        holdings = [
            Holding(f"{node.name}-{number}", demand, replace(placement, node=node.name), NOW_S, NOW_S - number)
            for number, (placement, demand) in enumerate(mine)
        ]
        bare = replace(
            node,
            gpus=tuple(replace(gpu, share_given_milli=0, memory_given_mib=0) for gpu in node.gpus),
            cpu_given_milli=0, memory_given_mib=0, disk_given_mib=0,
        )  # fmt: skip
        fleet.append(advertise(bare, *holdings))
        free = Ledger(bare, tuple(holdings)).free()
        assert 0 <= free.cpu_given_milli <= free.cpu_total_milli
        for placement in Ledger(bare, tuple(holdings)).fitted():
            free = free.give_back(placement)
        assert free == bare, "what is taken is what is given back"
    queue = [Queued(f"q{number}", demand, NOW_S - 9) for number, demand in enumerate(wanted)]
    for node in inventory.nodes:
        pick(node.name, fleet, queue, Policy(), NOW_S).reasons()


def test_a_gpu_is_held_by_its_uuid_whatever_its_number_is_now() -> None:
    node = read_node("a", {"gpus": {"count": 3}})
    held = holding("r", node, Demand(gpus=2))
    uuids = tuple((node.gpus[grant.index].uuid, grant.share_milli) for grant in held.placement.grants)
    claim = HostClaim("c", "w", 1, 1, "p", held, uuids)
    assert claim.held_on(node) is held
    turned = replace(node, gpus=tuple(replace(gpu, index=2 - gpu.index) for gpu in node.gpus))
    numbers = {gpu.uuid: gpu.index for gpu in turned.gpus}
    assert [grant.index for grant in claim.held_on(turned).placement.grants] == [numbers[uuid] for uuid, _ in uuids]
    less = replace(node, gpus=tuple(gpu for gpu in node.gpus if gpu.uuid != uuids[0][0]))
    assert [grant.index for grant in claim.held_on(less).placement.grants] == [held.placement.grants[1].index]


# --- advertisements ---


def test_an_advertisement_comes_back_as_it_was() -> None:
    node = read_node(
        "a-host-with-a-long-name.example.com",
        {"gpus": {"count": 16, "nvlink": [list(range(16))]}, "labels": {"region": "eu"}},
    )
    ledger = Ledger(node)
    for number in range(40):
        demand = Demand(gpus=1, gpu_share_milli=330, cpu_milli=1000, team="vision", expected_s=60.0, priority=3)
        ledger = ledger.reserve(holding(f"0000-{number:032d}", ledger.free(), demand))
    for held in (ledger.holdings, ()):
        said = advertise(node, *held)
        assert Advertisement.from_text(said.to_text(), "here") == said
        parts = said.to_parts()
        values = {"head": parts.head, **{f"part {number}": value for number, value in parts.rest}}
        assert Board.read(values) == Board((said,))


@pytest.mark.parametrize("text", ["", "{}", "zlib:nonsense", "[1]", '{"worker": 1}', "zlib:" + "0" * 40])
def test_what_is_no_advertisement_is_named(text: str) -> None:
    with pytest.raises(AdvertisementError, match="is no advertisement of a worker"):
        Advertisement.from_text(text, "variable x")


def test_what_has_expired_counts_no_more_and_of_two_the_later() -> None:
    node, other = read_node("a", {}), read_node("b", {})
    old = advertise(node, expires_s=NOW_S - 1)
    first, second = advertise(node, worker="w1", expires_s=NOW_S + 5), advertise(node, worker="w2", expires_s=NOW_S + 9)
    assert current([old], NOW_S) == ()
    assert current([second, advertise(other), old, first], NOW_S) == (second, advertise(other))


def test_what_was_heard_since_is_later_than_what_is_on_the_server() -> None:
    node = read_node("a", {})
    read, heard = advertise(node), advertise(node, expires_s=NOW_S + 40)
    assert later(Board((read,)), {"w-a": heard}) == {"w-a": heard}
    assert later(Board((heard,)), {"w-a": read}) == {"w-a": heard}
    assert later(Board(), {"w-a": heard}) == {}, "it has withdrawn"


def test_who_is_there_and_cannot_be_read_still_holds_what_was_heard_of_it() -> None:
    node = read_node("a", {})
    heard = advertise(node)
    until_s = heard.expires_s + 10
    newer = json.dumps({"worker": "w-a", "expires_s": until_s, "node": {"form": "of the year 2031"}})
    board = Board.read({"variable x": newer, "variable y": json.dumps({"worker": "w-b", "expires_s": until_s})})
    assert [(sign.worker, sign.expires_s) for sign in board.silent] == [("w-a", until_s), ("w-b", until_s)]
    assert "what worker 'w-a' says is no advertisement of a worker" in board.problems[0]
    assert later(board, {"w-a": heard}) == {"w-a": replace(heard, expires_s=until_s)}


# --- picking ---


def queued(run_id: str, queue_priority: int = 1, **wishes: object) -> Queued:
    return Queued(run_id, read_demand({"resources": wishes}), NOW_S - 10, queue_priority)


def test_every_run_is_picked_by_one_worker() -> None:
    """The same snapshot everywhere, each worker its own share; together they start what the plan starts."""
    fleet = [advertise(read_node(name, {"cpus": 4, "gpus": {"count": 2}})) for name in ("a", "b", "c")]
    queue = [queued(f"r{number}", gpus=1, cpus=1) for number in range(9)]
    picked = {one.node.name: pick(one.node.name, fleet, queue, Policy(), NOW_S) for one in fleet}
    runs = [run_id for share in picked.values() for run_id, _ in share.starts]
    assert len(runs) == len(set(runs)) == 6
    assert len({repr(share.plan) for share in picked.values()}) == 1
    for name, share in picked.items():
        assert {placement.node for _, placement in share.starts} == {name}
        assert sorted(gpu for _, placement in share.starts for gpu in placement.gpus) == [0, 1]


def test_a_run_that_fits_a_peer_better_is_left_to_it_until_the_peer_is_gone() -> None:
    """The small GPU is the peer's. When its advertisement has expired, the run is taken here."""
    here, peer = (
        read_node("a", {"gpus": {"count": 1, "memory_mib": 80_000}}),
        read_node("b", {"gpus": {"count": 1, "memory_mib": 16_000}}),
    )
    run = queued("r", gpus=1, gpu_memory_mib=12_000)
    assert pick("a", [advertise(here), advertise(peer)], [run], Policy(), NOW_S).starts == ()
    gone = [advertise(here, expires_s=NOW_S + 60), advertise(peer)]
    assert [run_id for run_id, _ in pick("a", gone, [run], Policy(), NOW_S + 31).starts] == ["r"]


def test_what_a_peer_has_claimed_is_not_picked_again() -> None:
    node = read_node("a", {"cpus": 4})
    held = holding("r", node, Demand(cpu_milli=1000))
    picked = pick("a", [advertise(node), advertise(read_node("b", {}), held)], [queued("r", cpus=1)], Policy(), NOW_S)
    assert picked.starts == ()
    assert picked.runs == ()


def test_queue_priority_and_the_run_s_own_count_alike() -> None:
    node = advertise(read_node("a", {"cpus": 1}))
    queue = [queued("low", 3, cpus=1), queued("high", 2, cpus=1)]
    assert [run_id for run_id, _ in pick("a", [node], queue, Policy(), NOW_S).starts] == ["high"]
    queue = [queued("low", 3, cpus=1, priority=2), queued("high", 2, cpus=1)]
    assert [run_id for run_id, _ in pick("a", [node], queue, Policy(), NOW_S).starts] == ["low"]


def test_nothing_new_is_put_on_a_node_that_drains() -> None:
    node = read_node("a", {"cpus": 4})
    draining = replace(advertise(node), draining=True)
    picked = pick("a", [draining], [queued("r", cpus=1)], Policy(), NOW_S)
    assert picked.starts == ()
    assert picked.plan.waits[0].code is Code.NEVER_FITS


def test_victims_are_told_by_their_own_worker() -> None:
    node = read_node("a", {"cpus": 2})
    modest = replace(holding("modest", node, Demand(cpu_milli=2000, preemptible=True)), started_s=NOW_S - 5000)
    fleet = [advertise(node, modest), advertise(read_node("b", {"cpus": 1}))]
    run = queued("urgent", cpus=2, priority=5)
    assert pick("a", fleet, [run], Policy(), NOW_S).stops == (("modest", "urgent"),)
    assert pick("b", fleet, [run], Policy(), NOW_S).stops == ()


def test_reasons_are_a_state_and_a_sentence() -> None:
    node = read_node("a", {"cpus": 2})
    fleet = [advertise(node, holding("old", node, Demand(cpu_milli=2000, expected_s=600.0)))]
    picked = pick("a", fleet, [queued("wide", cpus=8), queued("waits", cpus=1)], Policy(), NOW_S)
    reasons = picked.reasons()
    assert reasons["wide"] == (
        NEVER,
        "can never start on this fleet, even idle: a: needs 8 CPUs; 2 of 2 free; the most CPUs on one node is 2:"
        " ask for cpus of at most that, or add a larger node",
    )
    assert reasons["waits"][0] == "AwaitingResources"
    assert reasons["waits"][1].startswith("a: needs 1 CPU; 0 of 2 free; reserved from 2023-11-14")


# --- what people set ---


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("fast", "variable p must map fields of a policy to values"),
        ({"patience": 3}, r"variable p: patience is no field of a policy \(allowed: patience_s, "),
        ({"patience_s": "long"}, "variable p: patience_s: Input should be a valid number"),
        ({"overdue_share": 2}, "variable p: .*overdue_share must be in"),
    ],
)
def test_a_wrong_policy_is_named(value: object, said: str) -> None:
    with pytest.raises(PolicyError, match=said):
        read_policy(value, "variable p")


def test_a_policy_of_some_fields() -> None:
    assert read_policy({"preempt": False, "shares": [["x", 2.0]]}, "p") == Policy(preempt=False, shares=(("x", 2.0),))
    assert read_policy({}, "p") == Policy()


def test_what_a_node_offers_can_be_narrowed(monkeypatch: pytest.MonkeyPatch) -> None:
    env = {"TRIMTAB_NODE_NAME": "n", "TRIMTAB_NODE_CPUS": "1.5", "TRIMTAB_NODE_MEMORY_MIB": "2048"}
    env |= {"TRIMTAB_NODE_LABELS": "region=eu-1, tier=gold", "TRIMTAB_NODE_DOMAIN": "rack-1"}
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    settings = NodeSettings.from_environment()
    reading = HostReading(Host("host", 64_000, 65_536, disk_free_mib=5_000, labels=settings.labels), read_at_s=NOW_S)
    node = advertised(reading, settings)
    assert (node.cpu_total_milli, node.memory_total_mib, node.failure_domain) == (1500, 2048, "rack-1")
    assert (settings.name, node.labels) == ("n", (("region", "eu-1"), ("tier", "gold")))
    for name in env:
        monkeypatch.delenv(name)
    whole = advertised(reading, NodeSettings.from_environment())
    assert (whole.cpu_total_milli, whole.memory_total_mib) == (64_000, 65_536)


def test_what_breathes_is_no_news() -> None:
    """Free disk, the memory that a desktop takes, the time of the reading."""

    def node_with(disk_mib: int, foreign_mib: int, at_s: float) -> Node:
        gpu = GpuReading("GPU-a", 0, memory_total_mib=40_960, memory_used_mib=900, memory_foreign_mib=foreign_mib)
        return advertised(HostReading(Host("a", 1, 1, disk_free_mib=disk_mib), Devices((gpu,)), at_s), NodeSettings())

    assert node_with(5_000, 300, NOW_S) == node_with(4_200, 500, NOW_S + 9)
    assert node_with(5_000, 300, NOW_S).gpus[0].memory_used_mib == 512
    assert node_with(5_000, 0, NOW_S).gpus[0].memory_used_mib == 0


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"TRIMTAB_NODE_CPUS": "many"}, "TRIMTAB_NODE_CPUS must be a number above 0, not 'many'"),
        ({"TRIMTAB_NODE_CPUS": "0"}, "TRIMTAB_NODE_CPUS must be a number above 0"),
        ({"TRIMTAB_NODE_LABELS": "eu"}, "label 'eu' in TRIMTAB_NODE_LABELS must be key=value, like region=eu-1"),
    ],
)
def test_a_wrong_setting_of_a_node_is_named(env: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=said):
        NodeSettings.from_environment()


# --- CPUs ---


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one CPU only: nothing to choose from")
def test_runs_are_bound_to_cpus_of_their_own() -> None:
    cpus = tuple(sorted(os.sched_getaffinity(0)))
    host = Host("a", 1000 * len(cpus), 1024, cpus)
    node = advertised(HostReading(host), NodeSettings())
    with (
        subprocess.Popen(["cat"], stdin=subprocess.PIPE) as one,
        subprocess.Popen(["cat"], stdin=subprocess.PIPE) as two,
    ):
        first = own_cpus(Placement("a", cpu_milli=500), node, host, [])
        bind(one.pid, first)
        second = own_cpus(Placement("a", cpu_milli=1000), node, host, [one.pid])
        bind(two.pid, second)
        assert (len(first), len(second)) == (1, 1)
        assert first != second
        assert os.sched_getaffinity(two.pid) == set(second)
        assert own_cpus(Placement("a", cpu_milli=1000 * len(cpus)), node, host, []) == ()
    bind(one.pid, first)  # it has gone
