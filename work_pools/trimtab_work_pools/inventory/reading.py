"""What was read of a host and its GPUs, as frozen values, and the node that planners see, made from them.

Unknown is None (or an empty text), never a pretended 0: a driver that does not tell the temperature gives None.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import IntEnum

from trimtab_work_pools.inventory.health import HEALTHY, Fault, Health, Process, Xid
from trimtab_work_pools.resources import Gpu, Node

__all__ = ["Devices", "GpuReading", "Host", "HostReading", "MigSlice", "Topology", "node_of"]


class Topology(IntEnum):
    """What two GPUs have in common on the PCIe tree, nearest first (`nvmlGpuTopologyLevel_t`; nvidia-smi's letters)."""

    SAME_BOARD = 0
    PIX = 10
    PXB = 20
    PHB = 30
    NODE = 40
    SYS = 50


@dataclass(frozen=True, slots=True)
class MigSlice:
    """A MIG device: one compute instance in a GPU instance. `profile` is like "1g.10gb".

    Several compute instances of one GPU instance ("1c.3g.40gb") share its memory: each tells all of it.
    """

    uuid: str
    profile: str = ""
    gpu_instance: int | None = None
    compute_instance: int | None = None
    memory_total_mib: int | None = None
    memory_used_mib: int | None = None
    memory_foreign_mib: int | None = None
    foreign: tuple[Process, ...] | None = None
    health: Health = HEALTHY


@dataclass(frozen=True, slots=True)
class GpuReading:
    """One GPU at one time.

    `index` stays the same as long as the reader lives, also when the driver numbers GPUs anew; at first it is NVML's.
    `memory_used_mib` is all that is not free (the driver's own part included), `memory_foreign_mib` what of it our runs
    do not hold. `nvlink_peers` and `topology` name other GPUs by `index`. `ecc_uncorrected` counts since the driver was
    loaded, `xids` since the GPU was last reset (or the reader was started). `unreachable` says why NVML no longer
    answers for it: then only what does not change is kept. `unified`: it has no memory of its own, `memory_*` are the
    host's. `unreadable`: what the driver answered "Unknown Error" for.
    """

    uuid: str
    index: int
    model: str = ""
    memory_total_mib: int | None = None
    memory_used_mib: int | None = None
    memory_foreign_mib: int | None = None
    utilisation_percent: int | None = None
    compute_capability: tuple[int, int] | None = None
    mig_enabled: bool | None = None
    slices: tuple[MigSlice, ...] = ()
    nvlink_peers: frozenset[int] | None = None
    pci_bus_id: str = ""
    topology: tuple[tuple[int, Topology], ...] = ()
    numa_node: int | None = None
    power_w: float | None = None
    power_limit_w: float | None = None
    temperature_c: float | None = None
    slowdown_c: float | None = None
    ecc_uncorrected: int | None = None
    reset_needed: bool | None = None
    remap_failed: bool | None = None
    xids: tuple[Xid, ...] = ()
    foreign: tuple[Process, ...] | None = None
    unified: bool = False
    unreadable: tuple[str, ...] = ()
    unreachable: str = ""
    health: Health = HEALTHY

    def unread(self) -> GpuReading:
        """What of it needs no reading: who it is, its neighbours, its XIDs, and the last verdict."""
        return GpuReading(
            self.uuid,
            self.index,
            health=self.health,
            nvlink_peers=self.nvlink_peers,
            topology=self.topology,
            xids=self.xids,
        )

    def lost(self, why: str) -> GpuReading:
        """The same GPU when it no longer answers: what can change is unknown, nothing of it may be given."""
        health = Health((Fault.LOST,), (why,))
        slices = (replace(part, memory_used_mib=None, memory_foreign_mib=None, foreign=None) for part in self.slices)
        return replace(
            self,
            memory_used_mib=None,
            memory_foreign_mib=None,
            slices=tuple(replace(part, health=health) for part in slices),
            utilisation_percent=None,
            power_w=None,
            temperature_c=None,
            ecc_uncorrected=None,
            reset_needed=None,
            remap_failed=None,
            foreign=None,
            unreachable=why,
            health=health,
        )


@dataclass(frozen=True, slots=True)
class Devices:
    """The GPUs of a host. `problems` are plain sentences: what could not be read, and why."""

    gpus: tuple[GpuReading, ...] = ()
    driver_version: str = ""
    cuda_version: str = ""
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Host:
    """A host without its GPUs. `cpus` are the ids this process may use, `cpu_total_milli` what it may use of them.

    `numa_cpus` has each NUMA node with those of `cpus` that are on it. `disk_*` are of the file system that holds
    `folder`.
    """

    name: str
    cpu_total_milli: int
    memory_total_mib: int
    cpus: tuple[int, ...] = ()
    numa_cpus: tuple[tuple[int, tuple[int, ...]], ...] = ()
    memory_available_mib: int | None = None
    folder: str = ""
    disk_total_mib: int | None = None
    disk_free_mib: int | None = None
    labels: tuple[tuple[str, str], ...] = ()
    cached_digests: frozenset[str] = frozenset()
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class HostReading:
    """A host and its GPUs, read at `read_at_s` (seconds since the epoch) in `took_s` seconds."""

    host: Host
    devices: Devices = Devices()
    read_at_s: float = 0.0
    took_s: float = 0.0

    @property
    def problems(self) -> tuple[str, ...]:
        """Of the host, then of the GPUs."""
        return self.host.problems + self.devices.problems


def node_of(reading: HostReading, given: Node | None = None) -> Node:
    """The node as planners see it. A MIG-enabled GPU appears as its slices; one that is unhealthy has nothing to give.

    `given` is the node as it was known before: what of it is given to runs stays given, GPU by GPU of the same uuid,
    and a GPU that holds a run but is no longer there stays as an unhealthy one, so that the run can be taken off it.
    The disk is what is free now, but never less than is given; the label `failure_domain` names the failure domain.
    """
    host, labels = reading.host, dict(reading.host.labels)
    node = Node(
        name=host.name,
        cpu_total_milli=host.cpu_total_milli,
        memory_total_mib=host.memory_total_mib,
        gpus=_ordered(gpu for one in reading.devices.gpus for gpu in _gpus(one)),
        disk_total_mib=host.disk_free_mib or 0,
        labels=host.labels,
        failure_domain=labels.get("failure_domain", ""),
        cached_digests=host.cached_digests,
        advertised_at_s=reading.read_at_s,
    )
    return node if given is None else _with_given(node, given)


def _with_given(node: Node, given: Node) -> Node:
    held = {gpu.uuid: gpu for gpu in given.gpus}
    gpus = [_keep(gpu, held.pop(gpu.uuid, None)) for gpu in node.gpus]
    taken = {gpu.index for gpu in gpus}
    gpus += [replace(g, healthy=False) for g in held.values() if g.share_given_milli and g.index not in taken]
    return replace(
        node,
        gpus=_ordered(gpus),
        disk_total_mib=max(node.disk_total_mib, given.disk_given_mib),
        cpu_given_milli=given.cpu_given_milli,
        memory_given_mib=given.memory_given_mib,
        disk_given_mib=given.disk_given_mib,
    )


def _ordered(gpus: Iterable[Gpu]) -> tuple[Gpu, ...]:
    return tuple(sorted(gpus, key=lambda gpu: gpu.index))


def _keep(gpu: Gpu, before: Gpu | None) -> Gpu:
    if before is None:
        return gpu
    return replace(gpu, share_given_milli=before.share_given_milli, memory_given_mib=before.memory_given_mib)


def _gpus(gpu: GpuReading) -> Iterator[Gpu]:
    """The GPU itself, or its slices; with MIG enabled and no slice made, nothing: such a GPU runs nothing."""
    whole = Gpu(
        uuid=gpu.uuid,
        index=gpu.index,
        model=gpu.model,
        memory_total_mib=gpu.memory_total_mib or 0,
        memory_used_mib=_not_ours_mib(gpu),
        compute_capability=gpu.compute_capability or (0, 0),
        nvlink_peers=gpu.nvlink_peers or frozenset(),
        numa_node=gpu.numa_node,
        healthy=gpu.health.ok,
    )
    if not gpu.mig_enabled:
        yield whole
        return
    for place, part in enumerate(gpu.slices):
        yield replace(
            whole,
            uuid=part.uuid,
            index=_slice_index(gpu.index, part, place),
            memory_total_mib=part.memory_total_mib or 0,
            memory_used_mib=_not_ours_mib(part),
            mig_profile=part.profile,
            nvlink_peers=frozenset(),
            healthy=part.health.ok,
        )


def _slice_index(gpu_index: int, part: MigSlice, place: int) -> int:
    """1000 for each GPU (from 1), 10 for each GPU instance (0..14), 1 for each compute instance (0..7).

    So the index of a slice is that of no other device of the host and does not change when another slice comes or goes.
    """
    instance = place if part.gpu_instance is None else part.gpu_instance
    return 1000 * (gpu_index + 1) + 10 * instance + (part.compute_instance or 0)


def _not_ours_mib(device: GpuReading | MigSlice) -> int:
    """Memory in use by others. When the driver does not tell whose it is, all that is used counts as theirs."""
    known = device.memory_used_mib if device.memory_foreign_mib is None else device.memory_foreign_mib
    return known or 0
