"""Reads all GPUs of this host through NVML, and remembers what a single read cannot tell: which GPU was there before,
which index it had, which XIDs it reported, whether it was too hot.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import psutil

from trimtab_work_pools.inventory.cgroup import memory_limit_mib
from trimtab_work_pools.inventory.health import Limits, Process, Signs, Xid, judge
from trimtab_work_pools.inventory.kept_xids import KeptXids
from trimtab_work_pools.inventory.marks import Mark, unmarked
from trimtab_work_pools.inventory.nvml import GpuUnreachable, Nvml, NvmlError
from trimtab_work_pools.inventory.processes import Ours, Uses, foreign_mib, nobody
from trimtab_work_pools.inventory.reading import Devices, GpuReading, MigSlice, Topology
from trimtab_work_pools.inventory.supervised import EVERYTHING

__all__ = ["Memory", "NvmlReader"]


_UNIFIED = (
    "GPU {gpu.index} has no memory of its own: the memory of GPU {gpu.index} is the host's, {gpu.memory_total_mib} MiB"
)
_NOTHING: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class Memory:
    """What a reader knows that one reading cannot tell: the last of each GPU, which number each had, and which were
    not asked, for they were `silent`: they were not reset by that.
    """

    last: Mapping[str, GpuReading] = field(default_factory=dict)
    numbers: Mapping[int, str] = field(default_factory=dict)
    silent: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class _Fixed:
    """What is asked once for each GPU and driver."""

    model: str
    compute_capability: tuple[int, int] | None
    pci_bus_id: str
    numa_node: int | None
    power_limit_w: float | None
    slowdown_c: float | None

    @property
    def complete(self) -> bool:
        return bool(self.model and self.pci_bus_id) and None not in (
            self.compute_capability,
            self.numa_node,
            self.power_limit_w,
            self.slowdown_c,
        )


@dataclass(frozen=True, slots=True)
class _Links:
    peers: frozenset[int] | None
    topology: tuple[tuple[int, Topology], ...]
    complete: bool


def _host_memory_mib() -> int:
    total_mib = int(psutil.virtual_memory().total) // (1024 * 1024)
    return min(total_mib, memory_limit_mib() or total_mib)


class NvmlReader:
    """Honours DeviceReader. Not for several threads at once; NVML calls block, so call it off the event loop.

    `ours` tells which processes belong to our runs. A GPU that was seen once stays in the readings, unreachable if NVML
    no longer tells of it, until `forget`.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        ours: Ours = nobody,
        mark: Mark = unmarked,
        memory: Memory | None = None,
        host_mib: Callable[[], int] = _host_memory_mib,
        kept: KeptXids | None = None,
    ) -> None:
        """`mark` is told before each call of NVML, by the driver's number of the GPU. `memory`: an earlier reader's.
        `kept`: where XIDs outlive readers.
        """
        self._limits = limits or Limits()
        self._ours = ours
        self._mark, self._host_mib = mark, host_mib
        self._nvml: Nvml | None = None
        known = memory or Memory()
        self._last: dict[str, GpuReading] = dict(known.last)
        self._numbers: dict[int, str] = dict(known.numbers)
        self._fixed: dict[str, _Fixed] = {}
        self._links: dict[str, _Links] = {}
        self._linked: frozenset[tuple[str, tuple[Xid, ...]]] = frozenset()
        self._silent: set[str] = set(known.silent)
        self._kept = kept
        self._xids: dict[str, tuple[Xid, ...]] = {} if kept is None else kept.read()
        self._xids |= {gpu.uuid: gpu.xids for gpu in self._last.values() if gpu.xids}

    def memory(self) -> Memory:
        """For the reader that takes its place."""
        return Memory(dict(self._last), dict(self._numbers), frozenset(self._silent))

    def close(self) -> None:
        """Lets the driver go; the next read opens it again."""
        if self._nvml is not None:
            self._nvml.close()
        self._nvml = None
        self._fixed.clear()
        self._linked = frozenset()

    def forget(self, uuid: str) -> None:
        """A GPU that was taken out of the host for good."""
        self._last.pop(uuid, None)
        self._forget_xids((uuid,))

    def read(self, left_out: Mapping[str, str] = _NOTHING) -> Devices:
        """All GPUs now. Never raises for what a driver or a GPU does; `problems` says what could not be read.

        `left_out`: GPUs that are not to be asked, by the driver's number, and why; "": none of them.
        """
        self._silent.update(self._numbers[int(key)] for key in left_out if key and int(key) in self._numbers)
        if EVERYTHING in left_out:
            self._silent.update(self._last)
            return self._nothing(left_out[EVERYTHING])
        try:
            return self._read(left_out)
        except NvmlError:
            self._driver_went()
        try:
            return self._read(left_out)  # if it was loaded anew, it answers now
        except NvmlError as gone:
            self._driver_went()
            return self._nothing(str(gone))

    def _driver_went(self) -> None:
        """XIDs were of the driver that is gone: loading it resets the GPUs."""
        self.close()
        self._forget_xids(tuple(self._xids))

    def _nothing(self, why: str) -> Devices:
        self._last = {uuid: gpu.lost(why) for uuid, gpu in self._last.items()}
        return Devices(gpus=_by_index(self._last.values()), problems=(f"no GPU can be read: {why}",))

    def _read(self, left_out: Mapping[str, str]) -> Devices:
        nvml = self._nvml = self._nvml or Nvml(self._mark)
        nvml.about = ""
        versions = nvml.driver_version(), nvml.cuda_version()
        handles, silent = self._handles(nvml, left_out)
        stray = self._note_xids(nvml)
        numbers = {uuid: number for number, uuid in self._numbers.items()}
        for uuid, handle in handles.items():
            nvml.about = str(numbers[uuid])
            self._read_one(nvml, uuid, handle)
        nvml.about = ""
        problems = self._missing(nvml, handles, silent)
        self._link(nvml, handles)
        gpus = _by_index(self._last.values())
        shared = tuple(_UNIFIED.format(gpu=gpu) for gpu in gpus if gpu.unified and not gpu.unreachable)
        lost = tuple(f"GPU {gpu.index} ({gpu.uuid}): {gpu.unreachable}" for gpu in gpus if gpu.unreachable)
        return Devices(gpus, *versions, problems=lost + shared + problems + stray + nvml.take_problems())

    def _handles(self, nvml: Nvml, left_out: Mapping[str, str]) -> tuple[dict[str, Any], dict[int, str]]:
        """By uuid, for all GPUs that answer; and by NVML's number, why the others do not."""
        found: dict[str, Any] = {}
        silent: dict[int, str] = {}
        for number in range(nvml.count()):
            if str(number) in left_out:
                silent[number] = left_out[str(number)]
                continue
            nvml.about = str(number)
            try:
                handle = nvml.handle(number)
                uuid = nvml.uuid(handle, f"GPU {number}") if handle is not None else ""
            except GpuUnreachable as error:
                silent[number] = str(error)
                continue
            if uuid:
                found[uuid] = handle
                self._numbers[number] = uuid
                if uuid not in self._last:
                    self._last[uuid] = GpuReading(uuid, self._free_index(number))
        nvml.about = ""
        return found, silent

    def _missing(self, nvml: Nvml, handles: Mapping[str, Any], silent: Mapping[int, str]) -> tuple[str, ...]:
        """Marks GPUs that were there before; what is wrong with those that never told who they are is returned."""
        why = {self._numbers.get(number, ""): text for number, text in silent.items()}
        for uuid in self._last.keys() - handles.keys():
            gone = "the driver no longer tells of it; reset it or reboot this host"
            self._lost(nvml, uuid, why.get(uuid) or gone)
        unknown = [
            number for number in silent if self._numbers.get(number, "") not in self._last.keys() - handles.keys()
        ]
        return tuple(f"the driver's GPU number {number} does not answer: {silent[number]}" for number in unknown)

    def _free_index(self, number: int) -> int:
        """NVML's own index, unless another GPU had it: after a reload the driver may number the rest anew."""
        taken = {gpu.index for gpu in self._last.values()}
        return number if number not in taken else max(taken) + 1

    def _note_xids(self, nvml: Nvml) -> tuple[str, ...]:
        """Puts new XIDs to their GPUs; those that name none are returned as problems."""
        stray = []
        for uuid, code, instance in nvml.new_xids():
            if not uuid:
                stray.append(f"the driver reported XID {code} for a GPU that cannot be named")
                continue
            known = self._xids.get(uuid, ())
            self._xids[uuid] = tuple(dict.fromkeys((*known, Xid(code, instance))))
            if self._kept is not None and self._xids[uuid] != known:
                self._kept.write({uuid: self._xids[uuid]})
        return tuple(stray)

    def _forget_xids(self, uuids: Collection[str]) -> None:
        reset = [uuid for uuid in uuids if self._xids.pop(uuid, None)]
        if reset and self._kept is not None:
            self._kept.write({}, reset)

    def _read_one(self, nvml: Nvml, uuid: str, handle: Any) -> None:
        last = self._last[uuid]
        of = f"GPU {last.index}"
        try:
            reading = self._ask(nvml, last.unread(), handle, of)
            if last.unreachable and uuid not in self._silent:
                self._forget_xids((uuid,))  # it is back, so it was reset
            self._silent.discard(uuid)
            nvml.watch(handle, uuid, of)
        except GpuUnreachable as error:
            self._lost(nvml, uuid, str(error))
            return
        self._last[uuid] = self._judged(replace(reading, xids=self._xids.get(uuid, ())))

    def _lost(self, nvml: Nvml, uuid: str, why: str) -> None:
        nvml.unwatch(uuid)
        self._fixed.pop(uuid, None)
        self._last[uuid] = replace(self._last[uuid], xids=self._xids.get(uuid, ())).lost(why)

    def _ask(self, nvml: Nvml, known: GpuReading, handle: Any, of: str) -> GpuReading:
        nvml.take_unknown()  # what it answered to other calls
        fixed = self._fixed.get(known.uuid) or _fixed(nvml, handle, of)
        if fixed.complete:  # else it is asked again, so that each reading names what is not told
            self._fixed[known.uuid] = fixed
        memory = nvml.memory_mib(handle, of)
        mig = nvml.mig_enabled(handle, of)
        processes = nvml.processes(handle, of)
        foreign = self._foreign(processes)
        total_mib, used_mib = (self._host_mib(), _held_mib(processes)) if memory is None else memory
        reset_needed, remap_failed = nvml.remapping(handle, of)
        return replace(
            known,
            model=fixed.model,
            memory_total_mib=total_mib,
            memory_used_mib=used_mib,
            memory_foreign_mib=foreign_mib(used_mib, processes, foreign),
            utilisation_percent=None if mig else nvml.utilisation_percent(handle, of),
            compute_capability=fixed.compute_capability,
            mig_enabled=mig,
            slices=self._slices(nvml, handle, processes, of) if mig else (),
            pci_bus_id=fixed.pci_bus_id,
            numa_node=fixed.numa_node,
            power_w=nvml.power_w(handle, of),
            power_limit_w=fixed.power_limit_w,
            temperature_c=nvml.temperature_c(handle, of),
            slowdown_c=fixed.slowdown_c,
            ecc_uncorrected=nvml.ecc_uncorrected(handle, of),
            reset_needed=reset_needed,
            remap_failed=remap_failed,
            foreign=foreign,
            unified=memory is None,
            unreadable=nvml.take_unknown(),
        )

    def _slices(self, nvml: Nvml, handle: Any, processes: Uses, of: str) -> tuple[MigSlice, ...]:
        found = []
        for place, part in enumerate(nvml.mig_handles(handle, of)):
            named = f"{of} slice {place}"
            total_mib, used_mib = nvml.memory_mib(part, named) or (None, None)
            instance, compute = nvml.mig_instances(part, named)
            own = None if processes is None else [one for one in processes if one[2] == instance]
            foreign = self._foreign(own)
            found.append(
                MigSlice(
                    uuid=nvml.uuid(part, named),
                    profile=nvml.name(part, named).partition(" MIG ")[2],
                    gpu_instance=instance,
                    compute_instance=compute,
                    memory_total_mib=total_mib,
                    memory_used_mib=used_mib,
                    memory_foreign_mib=foreign_mib(used_mib, own, foreign),
                    foreign=foreign,
                )
            )
        return tuple(found)

    def _foreign(self, processes: Uses) -> tuple[Process, ...] | None:
        if processes is None:
            return None
        others = self._ours.others([pid for pid, _, _ in processes])
        return tuple(Process(pid, others[pid], held, part) for pid, held, part in processes if pid in others)

    def _judged(self, gpu: GpuReading) -> GpuReading:
        signs = Signs(
            reset_needed=gpu.reset_needed,
            unreadable=gpu.unreadable,
            remap_failed=gpu.remap_failed,
            ecc_uncorrected=gpu.ecc_uncorrected,
            temperature_c=gpu.temperature_c,
            slowdown_c=gpu.slowdown_c,
            xids=gpu.xids,
            foreign=None if gpu.mig_enabled else gpu.foreign,
        )
        before = self._last[gpu.uuid].health
        slices = []
        for part in gpu.slices:
            xids = [xid for xid in gpu.xids if xid.gpu_instance in (None, part.gpu_instance)]
            health = judge(replace(signs, xids=xids, foreign=part.foreign), self._limits, before)
            slices.append(replace(part, health=health))
        return replace(gpu, slices=tuple(slices), health=judge(signs, self._limits, before))

    def _link(self, nvml: Nvml, handles: Mapping[str, Any]) -> None:
        """NVLink and PCIe neighbours; asked again when a GPU came, went or reported an XID (a link may be down)."""
        reachable = {uuid: handle for uuid, handle in handles.items() if not self._last[uuid].unreachable}
        state = frozenset((uuid, self._xids.get(uuid, ())) for uuid in reachable)
        if state != self._linked or not all(links.complete for links in self._links.values()):
            self._links = self._ask_links(nvml, reachable)
            self._linked = state
        for uuid, links in self._links.items():
            if uuid in self._last:
                self._last[uuid] = replace(self._last[uuid], nvlink_peers=links.peers, topology=links.topology)

    def _ask_links(self, nvml: Nvml, handles: Mapping[str, Any]) -> dict[str, _Links]:
        index = {uuid: self._last[uuid].index for uuid in handles}
        uuids = sorted(handles, key=index.__getitem__)
        pairs: dict[str, list[tuple[int, Topology | None, bool | None]]] = {uuid: [] for uuid in uuids}
        for place, one in enumerate(uuids):
            nvml.about = next((str(number) for number, uuid in self._numbers.items() if uuid == one), "")
            for other in uuids[place + 1 :]:
                level, linked = _pair(nvml, handles[one], handles[other], f"GPU {index[one]}")
                pairs[one].append((index[other], level, linked))
                pairs[other].append((index[one], level, linked))
        return {uuid: _links(sorted(found)) for uuid, found in pairs.items()}


def _links(pairs: Sequence[tuple[int, Topology | None, bool | None]]) -> _Links:
    """Of one GPU: (the other's index, PCIe level, whether NVLinked) for each other."""
    told = all(linked is not None for _, _, linked in pairs)
    topology = tuple((index, level) for index, level, _ in pairs if level is not None)
    peers = frozenset(index for index, _, linked in pairs if linked)
    return _Links(peers if told else None, topology, told and len(topology) == len(pairs))


def _fixed(nvml: Nvml, handle: Any, of: str) -> _Fixed:
    return _Fixed(
        model=nvml.name(handle, of),
        compute_capability=nvml.compute_capability(handle, of),
        pci_bus_id=nvml.pci_bus_id(handle, of),
        numa_node=nvml.numa_node(handle, of),
        power_limit_w=nvml.power_limit_w(handle, of),
        slowdown_c=nvml.slowdown_c(handle, of),
    )


def _held_mib(processes: Uses) -> int | None:
    """All that processes hold of a device without memory of its own; None if one of them does not tell."""
    held = None if processes is None else [mib for _, mib, _ in processes]
    return None if held is None or None in held else sum(mib or 0 for mib in held)


def _pair(nvml: Nvml, one: Any, other: Any, of: str) -> tuple[Topology | None, bool | None]:
    try:
        return nvml.topology(one, other, of), nvml.nvlinked(one, other, of)
    except GpuUnreachable:
        return None, None  # lost between two calls: the next read says which


def _by_index(gpus: Iterable[GpuReading]) -> tuple[GpuReading, ...]:
    return tuple(sorted(gpus, key=lambda gpu: gpu.index))
