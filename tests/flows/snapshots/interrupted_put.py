"""A process that puts a snapshot and stops at one step, to be killed there: ``interrupted_put.py DIRECTORY STEP``.

Says ``stopped`` and waits on its standard input, for ever if need be. Says ``done`` if it gets to the end.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import ClassVar

import polars as pl

from trimtab_blocks.stores import DirectoryStore
from trimtab_flows.snapshots.library import SnapshotLibrary

#: Steps, in the order they come in a put.
STEPS = (
    *("file begun", "file half written", "file written", "file published"),
    *("descriptor begun", "descriptor half written", "descriptor written", "descriptor published"),
)
#: From here on the snapshot is there, even if its writer dies.
COMMITTED = "descriptor published"


def table() -> pl.DataFrame:
    return pl.DataFrame({"a": range(1000), "b": [f"row {row}" for row in range(1000)]})


class StoppingStore(DirectoryStore):
    """A directory store that stops the process at one step of writing."""

    _block_type_slug = "trimtab-test-stopping-store"
    step: ClassVar[str] = ""

    def _at(self, target: Path, moment: str) -> None:
        kind = "descriptor" if target.suffix == ".json" else "file"
        if self.step == f"{kind} {moment}":
            print("stopped", flush=True)
            sys.stdin.readline()

    def write_once(self, key: str, data: bytes | Path) -> bool:
        self._writing = self.path / key
        self._at(self._writing, "begun")
        return super().write_once(key, data)

    def _fill(self, incoming: Path, data: bytes | Path) -> None:
        content = data.read_bytes() if isinstance(data, Path) else data
        half = incoming.with_name(incoming.name + "-half")
        super()._fill(half, content[: len(content) // 2])
        self._at(self._writing, "half written")
        half.unlink()
        super()._fill(incoming, data)
        self._at(self._writing, "written")

    def _publish(self, incoming: Path, target: Path) -> bool:
        new = super()._publish(incoming, target)
        self._at(target, "published")
        return new


if __name__ == "__main__":
    StoppingStore.step = sys.argv[2]
    SnapshotLibrary(StoppingStore(path=Path(sys.argv[1]))).put(table())
    print("done", flush=True)
