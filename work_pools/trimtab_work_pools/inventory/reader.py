"""Reads a host: the narrow protocols, and the reader that puts host and GPUs together."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from trimtab_work_pools.inventory.health import Limits
from trimtab_work_pools.inventory.host import HostReader
from trimtab_work_pools.inventory.reading import Devices, Host, HostReading
from trimtab_work_pools.inventory.supervised import AGAIN_S, PATIENCE_S, Supervised

__all__ = ["DeviceReader", "NodeReader", "Reader", "open_reader"]


_Answer = TypeVar("_Answer")


class HostFacts(Protocol):
    """Reads this host without its GPUs."""

    def read(self) -> Host: ...

    def close(self) -> None: ...


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

    def __init__(self, host: HostFacts, devices: DeviceReader) -> None:
        self._host = host
        self._devices = devices

    def read(self) -> HostReading:
        """Both, now."""
        began, at = time.perf_counter(), time.time()
        host, devices = self._host.read(), self._devices.read()
        return HostReading(host, devices, read_at_s=at, took_s=time.perf_counter() - began)

    def close(self) -> None:
        """Lets the driver go."""
        self._host.close()
        self._devices.close()


class _Asked(Generic[_Answer]):
    """A supervised source, with what it is told at each reading."""

    def __init__(self, source: Supervised[_Answer], value: Callable[[], object]) -> None:
        self._source, self._value = source, value

    def read(self) -> _Answer:
        return self._source.read(self._value())

    def close(self) -> None:
        self._source.close()


def _none_answers(memory: Any, why: str) -> Devices:
    known = () if memory is None else memory.last.values()
    gpus = sorted((gpu.lost(why) for gpu in known), key=lambda gpu: gpu.index)
    return Devices(tuple(gpus), problems=(f"no GPU can be read: {why}",))


def open_reader(
    folder: Path,
    *,
    name: str = "",
    labels: Mapping[str, str] | None = None,
    limits: Limits | None = None,
    our_pids: Callable[[], Collection[int]] = tuple,
    cached_digests: Callable[[], Iterable[str]] = tuple,
    patience_s: float = PATIENCE_S,
    again_s: float = AGAIN_S,
    xids_folder: Path | None = None,
) -> Reader:
    """A reader of this host.

    `folder` is where runs write (its file system is the disk), `name` the node's name (empty: the host's), `our_pids`
    gives the pids of our runs, `cached_digests` (which can be pickled) the digests of the data that lies on this host.
    XIDs are kept in `xids_folder` until the host is started again.
    Read in helper processes: what does not answer within `patience_s` is named in the reading, and its like goes on.
    """
    settings = {"folder": folder, "name": name, "labels": dict(labels or {}), "cached_digests": cached_digests}

    def alone(_: object, why: str) -> Host:
        return HostReader(folder, name=name, labels=labels or {}).read({"disk": why, "digests": why})

    host: Supervised[Host] = Supervised("host", settings, alone, patience_s, again_s)
    devices: Supervised[Devices] = Supervised("devices", (limits, xids_folder), _none_answers, patience_s, again_s)
    return NodeReader(_Asked(host, lambda: None), _Asked(devices, lambda: frozenset(our_pids())))
