"""A reader that gives what it was told, for tests of planners and workers, and for a dry run without GPUs."""

from __future__ import annotations

from dataclasses import replace

from trimtab_work_pools.inventory.reading import Devices, GpuReading, Host, HostReading

__all__ = ["FakeReader"]


class FakeReader:
    """Honours Reader, from plain data. `change` puts another GPU in the place of the one with its uuid (or adds it)."""

    def __init__(self, host: Host, gpus: tuple[GpuReading, ...] = (), read_at_s: float = 0.0) -> None:
        self._reading = HostReading(host, Devices(gpus), read_at_s)
        self.closed = False

    @classmethod
    def of_gpus(
        cls, count: int, *, name: str = "fake", memory_mib: int = 81920, model: str = "NVIDIA A100-SXM4-80GB"
    ) -> FakeReader:
        """Idle GPUs, alike and all NVLinked, on a host with 16 CPUs and 64 GiB for each (none: as for one)."""
        indices = frozenset(range(count))
        gpus = tuple(
            GpuReading(
                uuid=f"GPU-{name}-{index}",
                index=index,
                model=model,
                memory_total_mib=memory_mib,
                memory_used_mib=0,
                memory_foreign_mib=0,
                compute_capability=(8, 0),
                nvlink_peers=indices - {index},
                numa_node=0,
            )
            for index in range(count)
        )
        size = max(1, count)
        cpus = tuple(range(16 * size))
        host = Host(name, 1000 * len(cpus), 65536 * size, cpus, ((0, cpus),), disk_free_mib=1024 * 1024)
        return cls(host, gpus)

    def read(self) -> HostReading:
        """What it was told last."""
        return self._reading

    def close(self) -> None:
        self.closed = True

    def change(self, gpu: GpuReading) -> None:
        """From now on this GPU is so."""
        gpus = {one.uuid: one for one in self._reading.devices.gpus} | {gpu.uuid: gpu}
        ordered = tuple(sorted(gpus.values(), key=lambda one: one.index))
        self._reading = replace(self._reading, devices=replace(self._reading.devices, gpus=ordered))

    def lose(self, uuid: str, why: str = "it has fallen off the bus") -> None:
        """From now on this GPU does not answer. Raises KeyError for a uuid that it does not have."""
        gpu = {one.uuid: one for one in self._reading.devices.gpus}[uuid]
        self.change(gpu.lost(why))
