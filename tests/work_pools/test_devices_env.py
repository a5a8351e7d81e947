"""What a run is told of its devices."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab_work_pools.devices_env import (
    THREAD_VARIABLES,
    DeviceError,
    GangMember,
    choose_cpus,
    port_environment,
    run_environment,
)
from trimtab_work_pools.fit import Fit, fit
from trimtab_work_pools.resources import Demand, Gpu, Grant, Node, Placement

GIB = 1024
GPUS = tuple(Gpu(f"GPU-{index}", index, memory_total_mib=80 * GIB, numa_node=index // 2) for index in range(4))
SLICE = Gpu("MIG-7", 3010, memory_total_mib=10 * GIB, mig_profile="1g.10gb", numa_node=1)
NODE = Node("n", 16000, 64 * GIB, gpus=(*GPUS, SLICE))
NUMA = ((0, range(8)), (1, range(8, 16)))


def test_a_run_without_gpus_sees_none() -> None:
    told = run_environment(Placement("n"), NODE)
    assert told == {"CUDA_VISIBLE_DEVICES": "", "NVIDIA_VISIBLE_DEVICES": "void"}


def test_whole_gpus_by_uuid() -> None:
    placement = Placement("n", (Grant(1, 1000, 80 * GIB), Grant(3, 1000, 79 * GIB)), cpu_milli=4500)
    told = run_environment(placement, NODE)
    assert told["CUDA_VISIBLE_DEVICES"] == told["NVIDIA_VISIBLE_DEVICES"] == "GPU-1,GPU-3"
    assert (told["TRIMTAB_GPU_MEMORY_MIB"], told["TRIMTAB_GPU_MEMORY_FRACTION"]) == (str(79 * GIB), "0.9875")
    assert "XLA_PYTHON_CLIENT_MEM_FRACTION" not in told  # a whole GPU: frameworks take what they take
    assert {told[name] for name in THREAD_VARIABLES} == {"4"}


def test_a_mig_slice_by_its_own_uuid() -> None:
    told = run_environment(Placement("n", (Grant(3010, 1000, 10 * GIB),)), NODE)
    assert told["CUDA_VISIBLE_DEVICES"] == "MIG-7"
    assert told["TRIMTAB_GPU_MEMORY_FRACTION"] == "1"


def test_a_share() -> None:
    found = fit(NODE, Demand(gpus=1, gpu_share_milli=300, gpu_memory_mib=20 * GIB))
    assert isinstance(found, Fit)
    told = run_environment(found.placement, NODE)
    assert told == {
        "CUDA_VISIBLE_DEVICES": "GPU-0",
        "NVIDIA_VISIBLE_DEVICES": "GPU-0",
        "TRIMTAB_GPU_SHARE": "0.3",
        "TRIMTAB_GPU_MEMORY_MIB": "20480",
        "TRIMTAB_GPU_MEMORY_FRACTION": "0.25",
        "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.25",
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
        "CUPY_GPU_MEMORY_LIMIT": str(20 * 2**30),
        "FLAGS_fraction_of_gpu_memory_to_use": "0.25",
        "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "30",
        "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": "0=20480M",
    }


@given(st.lists(st.integers(1, 20 * GIB), min_size=1, max_size=4))
def test_shares_of_one_gpu_never_add_up_to_more_than_it(memories_mib: list[int]) -> None:
    told = [run_environment(Placement("n", (Grant(0, 250, held),)), NODE) for held in memories_mib]
    assert sum(float(one["TRIMTAB_GPU_MEMORY_FRACTION"]) for one in told) <= sum(memories_mib) / (80 * GIB)
    assert sum(int(one["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"]) for one in told) <= 100


def test_memory_that_is_not_known_is_not_told() -> None:
    node = Node("n", 1000, GIB, gpus=(Gpu("a", 0),))
    told = run_environment(Placement("n", (Grant(0, 500, 0),)), node)
    assert told["TRIMTAB_GPU_SHARE"] == "0.5"
    assert not any("MEM_" in name or "MEMORY" in name for name in told)


def test_what_the_run_sets_itself_stays_but_for_its_devices() -> None:
    own = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "GPU-0", "XLA_CLIENT_MEM_FRACTION": ".5", "RANK": "9"}
    placement = Placement("n", (Grant(0, 500, 10 * GIB),), cpu_milli=2000)
    told = run_environment(placement, NODE, GangMember(0, 2, "n", 29500), own)
    assert told["CUDA_VISIBLE_DEVICES"] == "GPU-0"
    assert told["RANK"] == "0"
    assert told["MKL_NUM_THREADS"] == "2"
    assert not told.keys() & {"OMP_NUM_THREADS", "XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"}


def test_a_member_of_a_gang() -> None:
    placement = Placement("n", (Grant(0), Grant(1)))
    told = run_environment(placement, NODE, GangMember(1, 3, "node-a", 29511))
    assert {name: told[name] for name in ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK", "NODE_RANK")} == {
        "MASTER_ADDR": "node-a",
        "MASTER_PORT": "29511",
        "WORLD_SIZE": "3",
        "RANK": "1",
        "NODE_RANK": "1",
    }
    assert (told["PET_NNODES"], told["PET_NODE_RANK"], told["PET_NPROC_PER_NODE"]) == ("3", "1", "2")


@pytest.mark.parametrize(("rank", "nodes", "port"), [(2, 2, 29500), (-1, 2, 29500), (0, 1, 0), (0, 1, 65536)])
def test_a_place_that_no_gang_has(rank: int, nodes: int, port: int) -> None:
    with pytest.raises(ValueError, match="must be from"):
        GangMember(rank, nodes, "n", port)


def test_devices_that_are_not_there() -> None:
    with pytest.raises(DeviceError, match=r"node 'n' has no GPU with index 9; it has 0, 1, 2, 3, 3010"):
        run_environment(Placement("n", (Grant(9),)), NODE)
    with pytest.raises(DeviceError, match="on node 'm' cannot be started on node 'n'"):
        choose_cpus(Placement("m", cpu_milli=1000), NODE, NUMA)


def test_cpus_near_the_gpus() -> None:
    placement = Placement("n", (Grant(2),), cpu_milli=3000)
    assert choose_cpus(placement, NODE, NUMA) == (8, 9, 10)
    assert choose_cpus(placement, NODE, NUMA, {8: 1, 10: 1}) == (9, 11, 12)
    assert choose_cpus(placement, NODE, NUMA, dict.fromkeys(range(8, 14), 1)) == (0, 14, 15)  # free ones come first
    assert choose_cpus(placement, NODE, NUMA, dict.fromkeys(range(16), 1)) == (8, 9, 10)
    assert choose_cpus(Placement("n", (Grant(3010),), cpu_milli=500), NODE, NUMA) == (8,)


def test_cpus_without_gpus_stay_on_one_numa_node_and_keep_the_other_whole() -> None:
    load = {0: 1, 1: 1}
    assert choose_cpus(Placement("n", cpu_milli=6000), NODE, NUMA, load) == (2, 3, 4, 5, 6, 7)
    assert choose_cpus(Placement("n", cpu_milli=7000), NODE, NUMA, load) == tuple(range(8, 15))
    assert choose_cpus(Placement("n"), NODE, NUMA, load) == ()
    assert choose_cpus(Placement("n", cpu_milli=2000), NODE, ()) == ()


@given(
    st.integers(0, 20_000), st.dictionaries(st.integers(0, 15), st.integers(0, 3)), st.sampled_from([(), (0,), (0, 2)])
)
def test_cpus_are_as_many_as_asked_and_the_least_loaded(
    cpu_milli: int, load: dict[int, int], gpus: tuple[int, ...]
) -> None:
    chosen = choose_cpus(Placement("n", tuple(Grant(index) for index in gpus), cpu_milli), NODE, NUMA, load)
    assert len(chosen) == len(set(chosen)) == min(16, -(-cpu_milli // 1000))
    left = set(range(16)) - set(chosen)
    assert not chosen or not left or max(load.get(c, 0) for c in chosen) <= min(load.get(c, 0) for c in left)


def test_thread_counts_reach_the_libraries() -> None:
    """Polars is asked, since it is here; the others read theirs the same way."""
    told = run_environment(Placement("n", cpu_milli=1000), NODE)
    code = "import polars; print(polars.thread_pool_size())"
    environment = {**os.environ, **told}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"


TWO = Placement("n", (Grant(1), Grant(3)))


def test_numbers_for_tools_that_take_nothing_else() -> None:
    told = run_environment(TWO, NODE, device_ids="index")
    assert told["CUDA_VISIBLE_DEVICES"] == "1,3"
    assert told["NVIDIA_VISIBLE_DEVICES"] == "GPU-1,GPU-3"
    assert run_environment(TWO, NODE, device_ids="index", in_container=True)["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert run_environment(Placement("n"), NODE, device_ids="index")["CUDA_VISIBLE_DEVICES"] == ""


def test_numbers_that_cannot_be_had() -> None:
    with pytest.raises(DeviceError, match="not possible for MIG slice MIG-7: it has no number; use uuid"):
        run_environment(Placement("n", (Grant(3010),)), NODE, device_ids="index")
    lost = replace(NODE, gpus=(replace(GPUS[0], healthy=False), *GPUS[1:]))
    with pytest.raises(DeviceError, match="while GPU 0 of node 'n' is not well"):
        run_environment(TWO, lost, device_ids="index")
    assert run_environment(TWO, lost)["CUDA_VISIBLE_DEVICES"] == "GPU-1,GPU-3"


@pytest.mark.parametrize("own", ["GPU-1", "GPU-3,GPU-1", "1", "3, 1", "", "-1", "NoDevFiles"])
def test_a_variable_of_the_run_s_own_stays_if_it_names_only_what_was_given(own: str) -> None:
    assert run_environment(TWO, NODE, own={"CUDA_VISIBLE_DEVICES": own})["CUDA_VISIBLE_DEVICES"] == own


@pytest.mark.parametrize(
    ("own", "other"), [("0", "0"), ("1,2", "2"), ("GPU-0", "GPU-0"), ("GPU-", "GPU-"), ("all", "all")]
)
def test_a_variable_that_names_other_devices_is_refused(own: str, other: str) -> None:
    with pytest.raises(DeviceError) as refused:
        run_environment(TWO, NODE, own={"CUDA_VISIBLE_DEVICES": own})
    said = str(refused.value)
    assert f"CUDA_VISIBLE_DEVICES={own} in env names {other}, which the run was not given" in said
    assert "it has GPU 1 (GPU-1), GPU 3 (GPU-3). Leave the variable out" in said


def test_a_run_s_own_meeting_place_stays() -> None:
    assert port_environment(20001, {})["MASTER_PORT"] == port_environment(20001, {})["PET_MASTER_PORT"] == "20001"
    assert port_environment(20001, {})["MASTER_ADDR"] == "127.0.0.1"
    assert port_environment(20001, {"MASTER_PORT": "29500"}) == {}
