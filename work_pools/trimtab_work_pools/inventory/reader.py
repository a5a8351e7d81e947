"""Reads a host: the narrow protocols, and the reader that puts host and GPUs together."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Protocol

from trimtab_work_pools.inventory.health import Limits
from trimtab_work_pools.inventory.host import HostReader
from trimtab_work_pools.inventory.reading import Devices, HostReading

__all__ = ["DeviceReader", "NodeReader", "Reader", "open_reader"]


class DeviceReader(Protocol):
    """Reads the GPUs of this host. `read` raises nothing for what GPUs and drivers do, and blocks while they do."""

    def read(self) -> Devices: ...

    def close(self) -> None: ...


class Reader(Protocol):
    """Reads this host."""

    def read(self) -> HostReading: ...

    def close(self) -> None: ...


class NodeReader:
    """Honours Reader: the host, and its GPUs."""

    def __init__(self, host: HostReader, devices: DeviceReader) -> None:
        self._host = host
        self._devices = devices

    def read(self) -> HostReading:
        """Both, now."""
        began, at = time.perf_counter(), time.time()
        host, devices = self._host.read(), self._devices.read()
        return HostReading(host, devices, read_at_s=at, took_s=time.perf_counter() - began)

    def close(self) -> None:
        """Lets the driver go."""
        self._devices.close()


def open_reader(
    folder: Path,
    *,
    name: str = "",
    labels: Mapping[str, str] | None = None,
    limits: Limits | None = None,
    our_pids: Callable[[], Collection[int]] = tuple,
    cached_digests: Callable[[], Iterable[str]] = tuple,
) -> Reader:
    """A reader of this host.

    `folder` is where runs write (its file system is the disk), `name` the node's name (empty: the host's), `our_pids`
    gives the pids of our runs, `cached_digests` the digests of the data that lies on this host.
    """
    from trimtab_work_pools.inventory.gpus import (
        NvmlReader,
    )  # pynvml only where GPUs are read, not where they are planned
    from trimtab_work_pools.inventory.processes import Ours

    host = HostReader(folder, name=name, labels=labels or {}, cached_digests=cached_digests)
    return NodeReader(host, NvmlReader(limits, Ours(our_pids)))
