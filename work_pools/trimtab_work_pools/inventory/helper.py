"""The process that reads what may not answer: `python -m trimtab_work_pools.inventory.helper`, started by `Supervised`.

Over standard input come pickled messages of our own worker: first which source to read and how, then one for each
reading; each is answered over standard output. It ends when its worker does, even in the middle of a call.
"""

from __future__ import annotations

import os
import pickle
import select
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from trimtab_work_pools.inventory.marks import Mark, Marks

__all__ = ["main"]


Make = Callable[[Any, Any, Mark], "_Source"]
"""From (settings, memory, mark)."""


class _Source(Protocol):
    """`left_out`: what is not to be asked, by key, and why."""

    def read(self, value: Any, left_out: Mapping[str, str], /) -> Any: ...

    def memory(self) -> Any:
        """What the next helper is to know."""
        ...


class _Devices:
    """The GPUs. `value` is the pids of our runs; keys are the driver's numbers of the GPUs."""

    def __init__(self, settings: Any, memory: Any, mark: Mark) -> None:
        from trimtab_work_pools.inventory.gpus import NvmlReader
        from trimtab_work_pools.inventory.kept_xids import KeptXids
        from trimtab_work_pools.inventory.processes import Ours

        limits, folder = settings
        kept = KeptXids(folder) if folder else None
        self._pids: frozenset[int] = frozenset()
        self._reader = NvmlReader(limits, Ours(lambda: self._pids), mark, memory, kept=kept)

    def read(self, value: Any, left_out: Mapping[str, str]) -> Any:
        self._pids = value
        return self._reader.read(left_out)

    def memory(self) -> Any:
        return self._reader.memory()


class _Host:
    """CPUs, memory, disk, cached data. Keys: "disk", "digests". It remembers nothing, and needs to be told nothing."""

    def __init__(self, settings: Any, _: Any, mark: Mark) -> None:
        from trimtab_work_pools.inventory.host import HostReader

        self._reader = HostReader(settings.pop("folder"), **settings, mark=mark)

    def read(self, _: Any, left_out: Mapping[str, str]) -> Any:
        return self._reader.read(left_out)

    def memory(self) -> Any:
        return None


SOURCES: dict[str, Make] = {"devices": _Devices, "host": _Host}


def main() -> None:
    """Answers until its input ends."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # its worker says when it ends
    mark = Marks(int(sys.argv[1]))
    threading.Thread(target=_end_with_input, daemon=True).start()
    given = sys.stdin.buffer
    name, settings, memory = pickle.load(given)
    source = SOURCES[name](settings, memory, mark)
    while True:
        try:
            value, left_out = pickle.load(given)
        except EOFError:
            return
        mark("", "the driver" if name == "devices" else "the host")
        sys.stdout.buffer.write(pickle.dumps((source.read(value, left_out), source.memory())))
        sys.stdout.buffer.flush()


def _end_with_input() -> None:
    """A call that never returns does not keep it when its worker has gone."""
    poll = select.poll()
    poll.register(sys.stdin.fileno(), select.POLLRDHUP | select.POLLHUP)
    while not any(event & (select.POLLHUP | select.POLLERR) for _, event in poll.poll()):
        pass
    os._exit(0)


if __name__ == "__main__":
    main()
