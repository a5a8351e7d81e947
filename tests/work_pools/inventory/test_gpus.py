"""GPUs as the real nvidia-ml-py reads them from the stand-in driver, while that changes."""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from nvml_driver import Driver, ReaderProcess, all_of, gpu, line, mentions

from trimtab_work_pools.fit import Fit, fit
from trimtab_work_pools.inventory import Devices, Fault, Health, Host, HostReading, Limits, Topology, Xid, node_of
from trimtab_work_pools.inventory.kept_xids import KeptXids
from trimtab_work_pools.resources import Demand

NOT_SUPPORTED, LOST, UNINITIALIZED, UNKNOWN, NO_PERMISSION, FUNCTION_NOT_FOUND = 3, 15, 1, 999, 4, 13

OF_ONE_GPU = {
    "nvmlDeviceGetName": "model",
    "nvmlDeviceGetMemoryInfo": "memory",
    "nvmlDeviceGetUtilizationRates": "utilisation",
    "nvmlDeviceGetCudaComputeCapability": "compute capability",
    "nvmlDeviceGetPciInfo_v3": "PCI bus id",
    "nvmlDeviceGetMemoryAffinity": "NUMA node",
    "nvmlDeviceGetPowerUsage": "power",
    "nvmlDeviceGetEnforcedPowerLimit": "power limit",
    "nvmlDeviceGetTemperature": "temperature",
    "nvmlDeviceGetTemperatureThreshold": "slowdown temperature",
    "nvmlDeviceGetTotalEccErrors": "ECC",
    "nvmlDeviceGetRemappedRows": "row remapping",
    "nvmlDeviceGetComputeRunningProcesses_v3": "compute processes",
    "nvmlDeviceGetGraphicsRunningProcesses_v3": "graphics processes",
    "nvmlDeviceGetTopologyCommonAncestor": "PCIe topology",
    "nvmlDeviceGetP2PStatus": "NVLink",
    "nvmlDeviceRegisterEvents": "XID events",
}
OF_ALL = (
    "nvmlSystemGetDriverVersion",
    "nvmlSystemGetCudaDriverVersion_v2",
    "nvmlEventSetCreate",
    "nvmlEventSetWait_v2",
)


def health(devices: Devices, number: int) -> Health:
    found = all_of(devices)[f"GPU-{number}"].health
    assert isinstance(found, Health)
    return found


def test_all_that_is_told(driver: Driver, reader: ReaderProcess) -> None:
    driver.set(gpu(0, nvlink="1", utilization=12), gpu(1, nvlink="0", used=10009), gpu(2, numa=70, temperature=40))
    devices = reader.read()
    assert devices.problems == ()
    assert (devices.driver_version, devices.cuda_version) == ("575.51.03", "12.9")
    first, second, third = devices.gpus
    assert (first.uuid, first.index, first.model) == ("GPU-0", 0, "NVIDIA H100 80GB HBM3")
    assert (first.memory_total_mib, first.memory_used_mib, first.memory_foreign_mib) == (81559, 559, 559)
    assert (first.utilisation_percent, first.compute_capability, first.mig_enabled) == (12, (9, 0), None)
    assert (first.pci_bus_id, first.numa_node, third.numa_node) == ("00000000:1A:00.0", 0, 70)
    assert (first.power_w, first.power_limit_w, first.temperature_c, first.slowdown_c) == (71.0, 700.0, 33.0, 87.0)
    assert (first.ecc_uncorrected, first.reset_needed, first.remap_failed) == (0, False, False)
    assert (first.nvlink_peers, second.nvlink_peers, third.nvlink_peers) == ({1}, {0}, frozenset())
    assert first.topology == ((1, Topology.PHB), (2, Topology.SYS))
    assert (first.xids, first.foreign, first.slices) == ((), (), ())
    assert all(one.health.ok for one in devices.gpus)


def test_no_gpus_and_no_driver(driver: Driver, reader: ReaderProcess) -> None:
    assert reader.read() == Devices(driver_version="575.51.03", cuda_version="12.9")
    driver.set(state="gone")
    devices = reader.read()
    assert devices.gpus == ()
    assert mentions(devices.problems, "not loaded")
    driver.set(state="mismatch")
    assert mentions(reader.read().problems, "reboot")


def test_no_library(driver: Driver) -> None:
    environment = driver.environment()
    del environment["LD_LIBRARY_PATH"]
    reader = ReaderProcess(environment)
    devices = reader.read()
    reader.close()
    if devices.driver_version:
        pytest.skip("this host has an NVIDIA driver of its own")
    assert devices.gpus == ()
    assert mentions(devices.problems, "libnvidia-ml.so.1")


def test_a_hot_gpu_is_used_again_when_it_has_cooled_down(driver: Driver, reader: ReaderProcess) -> None:
    verdicts = []
    for temperature in (86, 87, 85, 82, 81, 86):
        driver.set(gpu(0, temperature=temperature), gpu(1))
        devices = reader.read()
        verdicts.append(health(devices, 0).faults)
        assert health(devices, 1).ok
    hot = (Fault.TOO_HOT,)
    assert verdicts == [(), hot, hot, hot, (), ()]


def test_a_limit_of_the_worker(driver: Driver, start_reader: Callable[..., ReaderProcess]) -> None:
    driver.set(gpu(0, temperature=70, ecc=2))
    reader = start_reader(Limits(temperature_c=65, ecc_uncorrected=2))
    assert health(reader.read(), 0).faults == (Fault.TOO_HOT,)
    driver.set(gpu(0, temperature=50, ecc=3))
    assert health(reader.read(), 0).reasons == ("3 uncorrected ECC errors since the driver was loaded; 2 allowed",)


def test_faulty_memory(driver: Driver, reader: ReaderProcess) -> None:
    driver.set(gpu(0, ecc=1), gpu(1, remap_pending=1), gpu(2, remap_failed=1), gpu(3, ecc=None))
    devices = reader.read()
    assert [health(devices, number).faults for number in range(4)] == [
        (Fault.ECC,),
        (Fault.RESET_NEEDED,),
        (Fault.REMAP_FAILED,),
        (),
    ]
    assert devices.gpus[3].ecc_uncorrected is None


@pytest.mark.parametrize("how", [1, 2], ids=["its calls fail", "its handle is refused"])
def test_a_gpu_is_lost_and_comes_back(driver: Driver, reader: ReaderProcess, how: int) -> None:
    driver.set(gpu(0), gpu(1), gpu(2), driver.xid(1, 79))
    assert health(reader.read(), 1).ok  # events begin when the reader does
    event = driver.xid(1, 79)
    driver.set(gpu(0), gpu(1, lost=how), gpu(2), event)
    devices = reader.read()
    lost = devices.gpus[1]
    assert (lost.uuid, lost.index, lost.model) == ("GPU-1", 1, "NVIDIA H100 80GB HBM3")
    assert lost.health.faults == (Fault.LOST,)
    assert lost.xids == (Xid(79),)
    assert (lost.temperature_c, lost.memory_used_mib, lost.utilisation_percent) == (None, None, None)
    assert mentions(devices.problems, "GPU-1", "fallen off the bus")
    assert [one.health.ok for one in devices.gpus] == [True, False, True]
    assert devices.gpus[0].temperature_c == 33
    driver.set(gpu(0), gpu(1), gpu(2), event)
    devices = reader.read()
    assert devices.problems == ()
    assert [one.health.ok for one in devices.gpus] == [True, True, True]
    assert devices.gpus[1].xids == ()
    driver.set(gpu(0), gpu(1), gpu(2), driver.xid(1, 48))
    assert reader.read().gpus[1].xids == (Xid(48),)  # it is watched again


def test_a_gpu_that_was_never_seen_is_named_as_far_as_can_be(driver: Driver, reader: ReaderProcess) -> None:
    driver.set(gpu(0), gpu(1, lost=2))
    devices = reader.read()
    assert [one.uuid for one in devices.gpus] == ["GPU-0"]
    assert mentions(devices.problems, "number 1", "fallen off the bus")


def test_xids(driver: Driver, reader: ReaderProcess) -> None:
    gpus = [gpu(0), gpu(1), gpu(2)]
    driver.set(*gpus)
    reader.read()
    events = [driver.xid(0, 31), driver.xid(1, 48), driver.xid(1, 63), driver.xid(1, 48)]
    driver.set(*gpus, *events)
    devices = reader.read()
    assert devices.gpus[0].xids == (Xid(31),)
    assert health(devices, 0).ok  # a page fault is the application's
    assert devices.gpus[1].xids == (Xid(48), Xid(63))
    assert health(devices, 1).faults == (Fault.XID,)
    assert "48, 63" in health(devices, 1).reasons[0]
    assert health(devices, 2).ok
    assert reader.read() == devices  # neither forgotten nor counted again


def test_the_driver_goes_and_another_one_comes(driver: Driver, reader: ReaderProcess) -> None:
    driver.set(gpu(0), gpu(1), gpu(2))
    reader.read()
    driver.set(gpu(0), gpu(1), gpu(2), driver.xid(2, 95))
    assert not health(reader.read(), 2).ok
    driver.set(state="gone")
    for _ in range(2):
        devices = reader.read()
        assert [one.index for one in devices.gpus] == [0, 1, 2]
        assert all(one.health.faults == (Fault.LOST,) for one in devices.gpus)
        assert mentions(devices.problems, "no GPU can be read", "not loaded")
    # GPU-0 was taken out: the driver numbers the others anew, the reader does not.
    driver.set(gpu(1, nvlink="1"), gpu(2, nvlink="0"), gpu(3), generation=2)
    devices = reader.read()
    assert [(one.uuid, one.index) for one in devices.gpus] == [("GPU-0", 0), ("GPU-1", 1), ("GPU-2", 2), ("GPU-3", 3)]
    assert [one.health.ok for one in devices.gpus] == [False, True, True, True]
    assert [one.nvlink_peers for one in devices.gpus[1:]] == [{2}, {1}, frozenset()]
    assert mentions(devices.problems, "GPU-0", "no longer tells of it")


def test_a_reload_between_two_reads_goes_unnoticed(driver: Driver, reader: ReaderProcess) -> None:
    driver.set(gpu(0))
    before = reader.read()
    driver.set(gpu(0), generation=2)
    assert reader.read() == before
    driver.set(gpu(0), driver.xid(0, 79), generation=2)
    assert health(reader.read(), 0).faults == (Fault.XID,)  # and the new driver is watched
    driver.set(gpu(0), generation=3)
    assert reader.read() == before  # loading a driver resets the GPUs


def test_the_reader_opens_again_after_close(driver: Driver, reader: ReaderProcess) -> None:
    driver.set(gpu(0), gpu(1, nvlink="0"))
    before = reader.read()
    reader.close_driver()
    reader.close_driver()
    assert reader.read() == before


@pytest.fixture
def family() -> Iterator[tuple[int, int]]:
    """A process, and one that it started."""
    inner = "import sys; sys.stdin.read()"
    start = f"p = subprocess.Popen([sys.executable, '-c', {inner!r}])"
    outer = f"import subprocess, sys; {start}; print(p.pid, flush=True); p.wait()"
    parent = subprocess.Popen([sys.executable, "-c", outer], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert parent.stdin is not None
    assert parent.stdout is not None
    yield parent.pid, int(parent.stdout.readline())
    parent.stdin.close()
    parent.wait()
    parent.stdout.close()


def test_processes_of_ours_and_of_others(driver: Driver, reader: ReaderProcess, family: tuple[int, int]) -> None:
    parent, child = family
    other = os.getpid()
    ours = [line("process", gpu=0, pid=parent, memory=300), line("process", gpu=0, pid=child, memory=10000)]
    driver.set(gpu(0, used=10309), *ours)
    taken = reader.read().gpus[0]
    assert taken.memory_foreign_mib == 10859
    assert taken.health.faults == (Fault.TAKEN,)

    reader.ours({parent})
    mine = reader.read().gpus[0]
    assert (mine.memory_used_mib, mine.memory_foreign_mib, mine.foreign) == (10859, 559, ())  # 550 are the driver's
    assert mine.health.ok

    driver.set(gpu(0, used=30309), *ours, line("process", gpu=0, pid=other, memory=20000))
    shared = reader.read().gpus[0]
    assert shared.memory_foreign_mib == 20559
    assert shared.foreign is not None
    assert [(one.pid, one.memory_mib) for one in shared.foreign] == [(other, 20000)]
    assert shared.foreign[0].name == psutil.Process(other).name()
    assert f"pid {other}" in shared.health.reasons[0]

    driver.set(gpu(0, used=10309 + 800), *ours, line("process", gpu=0, pid=other, memory=800))
    assert reader.read().gpus[0].health.ok  # little enough to share with


def test_memory_of_a_process_that_the_driver_does_not_tell(driver: Driver, reader: ReaderProcess) -> None:
    driver.set(gpu(0, used=19450), line("process", gpu=0, pid=os.getpid()))
    told = reader.read().gpus[0]
    assert told.foreign is not None
    assert (told.foreign[0].memory_mib, told.memory_foreign_mib) == (None, 20000)
    reader.ours({os.getpid()})
    assert reader.read().gpus[0].memory_foreign_mib == 0  # nobody else is there


def test_mig_slices(driver: Driver, reader: ReaderProcess) -> None:
    lines = [
        gpu(0, mig=0),
        gpu(1, mig=1, utilization=None),
        line("slice", gpu=1, gi=1, ci=0, uuid="MIG-a", profile="3g.40gb", memory=40448, used=44),
        line("slice", gpu=1, gi=2, ci=0, uuid="MIG-b", profile="3g.40gb", memory=40448, used=9044),
        line("process", gpu=1, pid=os.getpid(), memory=9000, gi=2),
        gpu(2, mig=1),
    ]
    driver.set(*lines)
    devices = reader.read()
    assert devices.problems == ()
    whole, parent, bare = devices.gpus
    assert (whole.mig_enabled, parent.mig_enabled, bare.slices) == (False, True, ())
    assert [(one.uuid, one.profile, one.gpu_instance) for one in parent.slices] == [
        ("MIG-a", "3g.40gb", 1),
        ("MIG-b", "3g.40gb", 2),
    ]
    assert [one.memory_foreign_mib for one in parent.slices] == [44, 9044]
    assert [one.health.faults for one in parent.slices] == [(), (Fault.TAKEN,)]
    assert parent.health.ok
    driver.set(*lines, driver.xid(1, 94, gi=1))
    parent = reader.read().gpus[1]
    assert [one.health.faults for one in parent.slices] == [(Fault.XID,), (Fault.TAKEN,)]

    node = node_of(HostReading(Host("n", 8000, 1000), reader.read()))
    assert [(one.uuid, one.index, one.mig_profile, one.healthy) for one in node.gpus] == [
        ("GPU-0", 0, "", True),
        ("MIG-a", 2010, "3g.40gb", False),
        ("MIG-b", 2020, "3g.40gb", False),
    ]


@pytest.mark.parametrize("code", [NOT_SUPPORTED, FUNCTION_NOT_FOUND, NO_PERMISSION])
def test_what_one_call_does_not_tell_is_named_and_the_rest_goes_on(
    driver: Driver, start_reader: Callable[..., ReaderProcess], code: int
) -> None:
    driver.set(gpu(0, nvlink="1"), gpu(1, nvlink="0"))
    reader = start_reader()
    well = reader.read()
    for call, what in OF_ONE_GPU.items():
        driver.set(gpu(0, nvlink="1"), gpu(1, nvlink="0"), line("fails", call=call, code=code, gpu=0))
        reader.close_driver()  # so that what is asked once is asked again
        devices = reader.read()
        assert len(devices.gpus) == 2, call
        assert all(one.health.ok for one in devices.gpus), call
        assert mentions(devices.problems, what, "GPU 0"), (call, devices.problems)
        assert len(devices.problems) == 1, (call, devices.problems)
        assert devices.gpus[1].temperature_c == 33, call
        assert reader.read().problems == devices.problems, call
    for call in OF_ALL:
        driver.set(gpu(0, nvlink="1"), gpu(1, nvlink="0"), line("fails", call=call, code=code))
        reader.close_driver()
        assert len(reader.read().gpus) == 2, call
    driver.set(gpu(0, nvlink="1"), gpu(1, nvlink="0"))
    reader.close_driver()
    assert reader.read() == well


def test_a_driver_that_goes_between_two_reads_of_events(driver: Driver, reader: ReaderProcess) -> None:
    driver.set(gpu(0))
    before = reader.read()
    driver.set(gpu(0), line("fails", call="nvmlEventSetWait_v2", code=UNINITIALIZED))
    assert reader.read() == before  # opened anew at once


def test_a_gpu_may_be_lost_at_any_call(driver: Driver, reader: ReaderProcess) -> None:
    driver.set(gpu(0), gpu(1))
    reader.read()
    between_two = {"nvmlDeviceGetTopologyCommonAncestor", "nvmlDeviceGetP2PStatus"}
    for call in ["nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetUUID", "nvmlDeviceGetMigMode", *OF_ONE_GPU]:
        driver.set(gpu(0), gpu(1), line("fails", call=call, code=LOST, gpu=1))
        reader.close_driver()
        devices = reader.read()
        assert [one.uuid for one in devices.gpus] == ["GPU-0", "GPU-1"], call
        assert health(devices, 0).ok, call
        assert health(devices, 1).faults == (() if call in between_two else (Fault.LOST,)), call
        driver.set(gpu(0), gpu(1))
        assert reader.read().problems == (), call


def test_the_driver_may_go_at_any_call(driver: Driver, reader: ReaderProcess) -> None:
    driver.set(gpu(0))
    reader.read()
    # With one GPU no pair is asked for, and in its first read a reader has no events to wait for.
    not_asked = {"nvmlDeviceGetTopologyCommonAncestor", "nvmlDeviceGetP2PStatus", "nvmlEventSetWait_v2"}
    handles = {"nvmlDeviceGetCount_v2", "nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetUUID"}
    for call in sorted((handles | set(OF_ALL) | set(OF_ONE_GPU)) - not_asked):
        driver.set(gpu(0), line("fails", call=call, code=UNINITIALIZED))
        reader.close_driver()
        devices = reader.read()
        assert health(devices, 0).faults == (Fault.LOST,), call
        assert mentions(devices.problems, "no GPU can be read"), call
        driver.set(gpu(0))
        assert health(reader.read(), 0).ok, call


def test_topology_is_asked_again_when_a_link_may_be_down(driver: Driver, reader: ReaderProcess) -> None:
    driver.set(gpu(0, nvlink="1"), gpu(1, nvlink="0"))
    assert reader.read().gpus[0].nvlink_peers == {1}
    driver.set(gpu(0), gpu(1), driver.xid(0, 74))
    assert reader.read().gpus[0].nvlink_peers == frozenset()


def test_an_event_of_a_gpu_that_cannot_be_named(driver: Driver, reader: ReaderProcess) -> None:
    driver.set(gpu(0))
    reader.read()
    driver.set(gpu(0), gpu(1, lost=2), driver.xid(1, 79, stray=1))
    assert mentions(reader.read().problems, "XID 79", "cannot be named")
    driver.set(gpu(0), line("fails", call="nvmlEventSetWait_v2", code=LOST))
    assert reader.read().problems == ()
    driver.set(gpu(0))
    reader.read()  # the events were set up anew
    driver.set(gpu(0), driver.xid(0, 48))
    assert reader.read().gpus[0].xids == (Xid(48),)


def test_a_storm_of_events_does_not_hold_up_the_read(driver: Driver, reader: ReaderProcess) -> None:
    driver.set(gpu(0))
    reader.read()
    driver.set(gpu(0), *[driver.xid(0, 200 + number % 7) for number in range(400)])
    assert len(reader.read().gpus[0].xids) == 7
    driver.set(gpu(0), *[driver.xid(0, code) for code in [300] * 300 + [301]])
    assert Xid(301) not in reader.read().gpus[0].xids
    assert Xid(301) in reader.read().gpus[0].xids


def test_reading_eight_gpus_costs_little_and_starts_no_thread(driver: Driver, reader: ReaderProcess) -> None:
    links = ",".join(str(number) for number in range(8))
    driver.set(*[gpu(number, nvlink=links, numa=number // 4) for number in range(8)])
    assert len(reader.read().gpus) == 8
    took_s = statistics.median(reader.timed_reads(30))
    print(f"8 GPUs: {took_s * 1000:.2f} ms a read (median of 30)")
    assert took_s < 0.1  # 3 ms on two idle cores; room for a busy machine
    assert psutil.Process(reader.process.pid).num_threads() == 1


def test_whatever_happens_a_gpu_keeps_its_index_and_the_lost_have_nothing_to_give(
    driver: Driver, reader: ReaderProcess
) -> None:
    draw = random.Random(4)
    indices: dict[str, int] = {}
    generation, lost_ones = 1, 0
    for step in range(150):
        generation += draw.random() < 0.1
        present = draw.sample(range(6), draw.randint(0, 6))
        lines = [gpu(n, lost=draw.choice([None] * 6 + [1, 2]), ecc=draw.choice([0, 0, 1])) for n in present]
        if lines and draw.random() < 0.3:
            lines.append(driver.xid(draw.randrange(len(present)), draw.choice([31, 79])))
        if lines and draw.random() < 0.3:
            lines.append(line("fails", call=draw.choice(list(OF_ONE_GPU)), code=draw.choice([1, 3, 15, 999])))
        driver.set(*lines, generation=generation, state=draw.choice(["loaded"] * 6 + ["gone", "mismatch"]))
        devices = reader.read()
        for one in devices.gpus:
            assert indices.setdefault(one.uuid, one.index) == one.index, step
            if one.unreachable:
                lost_ones += 1
                assert one.health.faults == (Fault.LOST,), step
                assert one.temperature_c is None, step
                assert mentions(devices.problems, one.unreachable), step
        assert indices.keys() == {one.uuid for one in devices.gpus}, step
        node = node_of(HostReading(Host("n", 8000, 1000), devices))
        assert len({one.index for one in node.gpus}) == len(node.gpus), step
        assert [one.healthy for one in node.gpus] == [one.health.ok for one in devices.gpus], step
    assert len(indices) == 6
    assert lost_ones > 50


@pytest.mark.gpu
def test_a_real_driver() -> None:
    """On a host with NVIDIA GPUs: every one is told with its memory, and agrees with nvidia-smi."""
    environment = {name: value for name, value in os.environ.items() if name != "NVML_FAKE_STATE"}
    reader = ReaderProcess(environment)
    devices = reader.read()
    reader.close()
    if not devices.gpus:
        pytest.skip(f"no NVIDIA GPU here: {'; '.join(devices.problems)}")
    query = ["nvidia-smi", "--query-gpu=uuid,name,memory.total", "--format=csv,noheader,nounits"]
    told = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()
    expected = {tuple(part.strip() for part in row.split(",")) for row in told}
    assert {(one.uuid, one.model, str(one.memory_total_mib)) for one in devices.gpus} == expected


def test_a_gpu_that_answers_unknown_error_is_not_well(driver: Driver, reader: ReaderProcess) -> None:
    driver.set(gpu(0), gpu(1))
    reader.read()
    for call, what in {"nvmlDeviceGetMemoryInfo": "memory", "nvmlDeviceGetTotalEccErrors": "ECC"}.items():
        driver.set(gpu(0), gpu(1), line("fails", call=call, code=UNKNOWN, gpu=0))
        devices = reader.read()
        assert [one.health.faults for one in devices.gpus] == [(Fault.UNREADABLE,), ()]
        assert f"'Unknown Error' when it is asked for its {what}" in health(devices, 0).reasons[0]
        assert node_of(HostReading(Host("n", 8000, 1000), devices)).gpus[0].healthy is False
    driver.set(gpu(0), gpu(1))
    assert all(one.health.ok for one in reader.read().gpus)


def test_a_gpu_without_memory_of_its_own_has_the_host_s(driver: Driver, reader: ReaderProcess) -> None:
    """GB10, Jetson: NVML says "not supported"."""
    theirs = line("process", gpu=0, pid=os.getpid(), memory=300)
    driver.set(gpu(0, model="NVIDIA_GB10", memory=None, used=None), theirs)
    devices = reader.read()
    found = devices.gpus[0]
    host_mib = psutil.virtual_memory().total // 2**20
    assert found.unified
    assert found.memory_total_mib is not None
    assert 0 < found.memory_total_mib <= host_mib
    assert (found.memory_used_mib, found.memory_foreign_mib) == (300, 300)
    assert mentions(devices.problems, "GPU 0 has no memory of its own", "the host's", str(found.memory_total_mib))
    node = node_of(HostReading(Host("n", 8000, 1000), devices))
    assert isinstance(fit(node, Demand(gpus=1, gpu_memory_mib=found.memory_total_mib - 400)), Fit)


def test_a_process_in_several_lists_counts_once(driver: Driver, reader: ReaderProcess) -> None:
    own, child = os.getpid(), os.getppid()
    both = line("process", gpu=0, pid=own, memory=500, lists="CG")
    client = line("process", gpu=0, pid=child, memory=200, lists="CM")
    driver.set(gpu(0, used=700, reserved=0), both, client, line("process", gpu=0, pid=1, memory=7, lists="M"))
    found = reader.read().gpus[0]
    assert found.foreign is not None
    assert sorted((one.pid, one.memory_mib) for one in found.foreign) == sorted([(own, 500), (child, 200), (1, 7)])
    reader.ours({own, child, 1})
    assert reader.read().gpus[0].memory_foreign_mib == 0


@pytest.mark.parametrize(
    ("code", "well"),
    [
        (13, True),
        (31, True),
        (43, True),
        (63, True),
        (69, True),
        (46, False),
        (79, False),
        (94, False),
        (109, False),
        (999, False),
    ],
)
def test_what_nvidia_s_catalogue_says_of_an_xid(driver: Driver, reader: ReaderProcess, code: int, well: bool) -> None:
    driver.set(gpu(0))
    reader.read()
    driver.set(gpu(0), driver.xid(0, code))
    assert health(reader.read(), 0).ok is well


def test_xids_outlive_the_reader_until_the_gpu_or_the_host_is_reset(tmp_path: Path) -> None:
    boot = tmp_path / "boot_id"
    boot.write_text("one\n")
    KeptXids(tmp_path, boot).write({"GPU-1": (Xid(79),), "GPU-2": (Xid(48, 3),)})
    KeptXids(tmp_path, boot).write({"GPU-1": (Xid(48), Xid(79))})
    assert KeptXids(tmp_path, boot).read() == {"GPU-1": (Xid(79), Xid(48)), "GPU-2": (Xid(48, 3),)}
    KeptXids(tmp_path, boot).write({}, ["GPU-1"])
    assert KeptXids(tmp_path, boot).read() == {"GPU-2": (Xid(48, 3),)}
    boot.write_text("two\n")
    assert KeptXids(tmp_path, boot).read() == {}
    for odd in ("", "{", "[]", '{"boot": "two"}', '{"boot": "two", "xids": {"a": [1]}}', "\x00"):
        (tmp_path / "xids").write_text(odd)
        assert KeptXids(tmp_path, boot).read() == {}
    KeptXids(tmp_path / "none", boot).write({"GPU-1": (Xid(79),)})
