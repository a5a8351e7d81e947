"""The other end of ReaderProcess: reads GPUs when told to, over its standard input and output."""

from __future__ import annotations

import pickle
import sys
import time
from typing import Any

from trimtab_work_pools.inventory.gpus import NvmlReader
from trimtab_work_pools.inventory.processes import Ours


class Server:
    """Answers one request after the other."""

    def __init__(self) -> None:
        self._ours: frozenset[int] = frozenset()
        self._reader = NvmlReader()

    def answer(self, what: str, value: Any) -> Any:
        if what == "limits":
            self._reader = NvmlReader(value, Ours(lambda: self._ours))
        elif what == "ours":
            self._ours = value
        elif what == "read":
            return self._reader.read()
        elif what == "time":
            return [_timed(self._reader) for _ in range(value)]
        elif what == "close":
            self._reader.close()
        return None


def main() -> None:
    server = Server()
    while True:
        try:
            what, value = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        pickle.dump(server.answer(what, value), sys.stdout.buffer)
        sys.stdout.buffer.flush()


def _timed(reader: NvmlReader) -> float:
    began = time.perf_counter()
    reader.read()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
