"""The node of this worker: what the inventory reads, narrowed to what the worker may offer.

Set by the environment: TRIMTAB_NODE_NAME, TRIMTAB_NODE_CPUS, TRIMTAB_NODE_MEMORY_MIB, TRIMTAB_NODE_LABELS
(`region=eu-1,tier=gold`), TRIMTAB_NODE_DOMAIN (a rack, or whatever fails together), TRIMTAB_CACHE_DIR (whose data is
advertised, see `trimtab_blocks.host_cache`), TRIMTAB_DEVICE_SECONDS (how long a driver or a disk may keep silent).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from trimtab_blocks.host_cache import DIRECTORY, LIMIT, CachedSnapshots, HostCache
from trimtab_blocks.settings import read as read_settings
from trimtab_work_pools.inventory import Host, HostReading, Reader, node_of, open_reader
from trimtab_work_pools.inventory.host import LABELS_VARIABLE, parse_labels
from trimtab_work_pools.inventory.supervised import PATIENCE_S
from trimtab_work_pools.resources import Gpu, Node
from trimtab_work_pools.worker.host_claims import default_directory

__all__ = ["NodeSettings", "ThisNode", "advertised"]

_GIB_MIB = 1024
_BREATH_MIB = 256
_DIGESTS = 100
"""Snapshots of the cache that are advertised: those that were used last."""


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """What is offered of the host; None: all that there is."""

    name: str = ""
    cpus: float | None = None
    memory_mib: float | None = None
    labels: tuple[tuple[str, str], ...] = ()
    failure_domain: str = ""
    cache: Path | None = None
    device_s: float = PATIENCE_S

    @classmethod
    def from_environment(cls) -> NodeSettings:
        """Raises SettingError, or LabelError or CacheSettingError (all ValueErrors)."""
        given = read_settings()
        labels = tuple(sorted(parse_labels((), {LABELS_VARIABLE: given.node_labels}).items()))
        cache = HostCache.from_environment({DIRECTORY: given.cache_dir, LIMIT: given.cache_gib})
        directory = cache.directory if cache else None
        return cls(
            given.node_name,
            given.node_cpus,
            given.node_memory_mib,
            labels,
            given.node_domain,
            directory,
            given.device_seconds,
        )


def advertised(reading: HostReading, settings: NodeSettings) -> Node:
    """The node that peers plan with. What breathes is rounded: a node that always changes would always be news."""
    node = node_of(reading)
    return replace(
        node,
        cpu_total_milli=node.cpu_total_milli if settings.cpus is None else round(settings.cpus * 1000),
        memory_total_mib=node.memory_total_mib if settings.memory_mib is None else round(settings.memory_mib),
        disk_total_mib=node.disk_total_mib // _GIB_MIB * _GIB_MIB,
        gpus=tuple(_steady(gpu) for gpu in node.gpus),
        failure_domain=settings.failure_domain or node.failure_domain,
        advertised_at_s=0.0,  # the advertisement has its own time
    )


class ThisNode:
    """Reads this host again and again. `problems` are sentences on what is not offered, or could not be read."""

    def __init__(self, settings: NodeSettings, our_pids: Callable[[], Collection[int]], folder: Path) -> None:
        self._settings = settings
        cached = CachedSnapshots(settings.cache, _DIGESTS) if settings.cache else tuple
        self._reader: Reader = open_reader(
            folder,
            name=settings.name,
            labels=dict(settings.labels),
            our_pids=our_pids,
            cached_digests=cached,
            patience_s=settings.device_s,
            xids_folder=default_directory(),
        )
        self._reading: HostReading | None = None

    def read(self) -> Node:
        """This host now. Blocks as long as the driver takes: call it off the event loop."""
        self._reading = self._reader.read()
        return advertised(self._reading, self._settings)

    @property
    def problems(self) -> tuple[str, ...]:
        """Of the last reading."""
        return () if self._reading is None else tuple(_problems(self._reading))

    @property
    def host(self) -> Host:
        """Of the last reading; the first is made if there was none."""
        if self._reading is None:
            self.read()
        assert self._reading is not None
        return self._reading.host

    def gpu_used_mib(self) -> dict[str, int]:
        """By uuid: memory that our runs used at the last reading, of the GPUs that tell."""
        gpus = () if self._reading is None else self._reading.devices.gpus
        parts = (part for gpu in gpus for part in ((gpu,) if not gpu.mig_enabled else gpu.slices))
        return {
            part.uuid: max(0, part.memory_used_mib - part.memory_foreign_mib)
            for part in parts
            if part.memory_used_mib is not None and part.memory_foreign_mib is not None
        }

    def close(self) -> None:
        """Lets the driver go."""
        self._reader.close()

    @classmethod
    def from_environment(cls, our_pids: Callable[[], Collection[int]] = tuple) -> ThisNode:
        """Raises SettingError, or LabelError (a ValueError too)."""
        return cls(NodeSettings.from_environment(), our_pids, Path.cwd())


def _problems(reading: HostReading) -> Iterator[str]:
    yield from reading.problems
    for gpu in reading.devices.gpus:
        if not gpu.unreachable:  # said already
            for uuid, health in ((gpu.uuid, gpu.health), *((part.uuid, part.health) for part in gpu.slices)):
                yield from (f"GPU {gpu.index} ({uuid}) is not given to new runs: {why}" for why in health.reasons)


def _steady(gpu: Gpu) -> Gpu:
    used_mib = -(-gpu.memory_used_mib // _BREATH_MIB) * _BREATH_MIB
    return replace(gpu, memory_used_mib=min(used_mib, gpu.memory_total_mib))
