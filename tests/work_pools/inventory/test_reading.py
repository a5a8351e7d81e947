"""From readings to the node that planners see, with the public fake reader."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from trimtab_work_pools.fit import Dimension, Fit, Refused, fit
from trimtab_work_pools.inventory import (
    Devices,
    FakeReader,
    Fault,
    GpuReading,
    Health,
    Host,
    HostReading,
    MigSlice,
    Reader,
    node_of,
)
from trimtab_work_pools.inventory.show import as_json
from trimtab_work_pools.resources import Demand, Gpu, Node

HOT = Health((Fault.TOO_HOT,), ("95 C",))


def test_a_host_without_gpus_is_a_node() -> None:
    host = Host("n1", 3500, 16000, disk_free_mib=5000, labels=(("failure_domain", "rack 7"), ("region", "eu")))
    node = node_of(HostReading(replace(host, cached_digests=frozenset({"sha256:1"})), read_at_s=12.0))
    assert node == Node(
        name="n1",
        cpu_total_milli=3500,
        memory_total_mib=16000,
        disk_total_mib=5000,
        labels=(("failure_domain", "rack 7"), ("region", "eu")),
        failure_domain="rack 7",
        cached_digests=frozenset({"sha256:1"}),
        advertised_at_s=12.0,
    )
    assert isinstance(fit(node, Demand(cpu_milli=3500)), Fit)


def test_the_fake_honours_the_protocol_and_what_it_says_can_be_planned() -> None:
    fake = FakeReader.of_gpus(4)
    reader: Reader = fake
    found = fit(node_of(reader.read()), Demand(gpus=4, gpu_nvlink=True, gpu_memory_mib=81920))
    assert isinstance(found, Fit)
    assert found.placement.gpus == (0, 1, 2, 3)
    fake.lose("GPU-fake-2")
    refused = fit(node_of(reader.read()), Demand(gpus=4))
    assert isinstance(refused, Refused)
    assert refused.dimension is Dimension.GPU_HEALTH
    with pytest.raises(KeyError):
        fake.lose("GPU-none")
    reader.close()
    assert fake.closed


def test_unknown_memory_promises_none_and_unknown_owners_count_as_others() -> None:
    silent = GpuReading("a", 0)
    crowded = GpuReading("b", 1, memory_total_mib=1000, memory_used_mib=400)
    told = GpuReading("c", 2, memory_total_mib=1000, memory_used_mib=400, memory_foreign_mib=100)
    node = node_of(HostReading(Host("n", 1000, 1000), Devices((silent, crowded, told))))
    assert [gpu.memory_free_mib for gpu in node.gpus] == [0, 600, 900]
    assert node.gpus[0].compute_capability == (0, 0)


def test_what_is_given_stays_given() -> None:
    fake = FakeReader.of_gpus(3)
    node = node_of(fake.read())
    found = fit(node, Demand(gpus=1, gpu_share_milli=250, gpu_memory_mib=20000, cpu_milli=2000, disk_mib=1000))
    assert isinstance(found, Fit)
    given = node.take(found.placement)
    held = given.gpus[found.placement.gpus[0]]

    assert node_of(fake.read(), given) == given
    # The GPU gets hot while the run is on it, and others take most of the disk: the run can still be taken off.
    reading = fake.read()
    hot = replace(next(one for one in reading.devices.gpus if one.uuid == held.uuid), health=HOT)
    fake.change(hot)
    crowded = replace(fake.read(), host=replace(reading.host, disk_free_mib=10))
    later = node_of(crowded, given)
    assert later.gpus[held.index].share_free_milli == 0
    assert later.gpus[held.index].memory_given_mib == 20000
    assert later.disk_free_mib == 0
    assert later.give_back(found.placement).gpus[held.index].share_given_milli == 0


def test_a_gpu_that_holds_a_run_and_is_gone_stays_as_unhealthy() -> None:
    host = Host("n", 1000, 1000)
    given = Node("n", 1000, 1000, gpus=(Gpu("old", 4, share_given_milli=1000), Gpu("unused", 5)))
    reading = HostReading(host, Devices((GpuReading("new", 0),)))
    node = node_of(reading, given)
    assert [(gpu.uuid, gpu.index, gpu.healthy) for gpu in node.gpus] == [("new", 0, True), ("old", 4, False)]
    same_index = HostReading(host, Devices((GpuReading("new", 4),)))
    assert [gpu.uuid for gpu in node_of(same_index, given).gpus] == ["new"]


def test_slices_stand_for_their_gpu_and_have_indices_of_their_own() -> None:
    slices = tuple(
        MigSlice(f"MIG-{gi}-{ci}", "1c.2g.20gb", gi, ci, 19968, 30, 30, health=HOT if gi else Health())
        for gi in (0, 14)
        for ci in (0, 7)
    )
    gpus = (GpuReading("a", 0, mig_enabled=True, slices=slices), GpuReading("b", 1, mig_enabled=True, slices=slices))
    node = node_of(HostReading(Host("n", 1000, 1000), Devices((*gpus, GpuReading("c", 2, mig_enabled=True)))))
    assert [gpu.index for gpu in node.gpus] == [1000, 1007, 1140, 1147, 2000, 2007, 2140, 2147]
    assert [gpu.healthy for gpu in node.gpus[:4]] == [True, True, False, False]
    assert isinstance(fit(node, Demand(gpus=1, gpu_mig_profile="1c.2g.20gb", gpu_memory_mib=19000)), Fit)
    assert isinstance(fit(node, Demand(gpus=1)), Refused)  # a whole GPU is not there


def test_json_has_all_of_it() -> None:
    shown = json.loads(as_json(FakeReader.of_gpus(2).read()))
    assert shown["host"]["cpu_total_milli"] == 32000
    assert [gpu["nvlink_peers"] for gpu in shown["devices"]["gpus"]] == [[1], [0]]
    assert shown["devices"]["gpus"][0]["temperature_c"] is None
