"""What the fence of runs leaves beside the claims of a host, for whoever comes later: the next worker, or the guard.

`CLAIM.frozen`: the run of that claim stands still, since so many seconds by the server's clock.
`worker-DIGEST.heard`: when the server has last heard of that worker.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from trimtab_work_pools.host.process import Process

__all__ = ["Frozen", "Heard", "heard"]


@dataclass(frozen=True, slots=True)
class Heard:
    """When the server has last heard of a worker.

    `pid`, `ticks`: the worker's process, in the start of the host `boot_id`. `heard_s`: when the last renewal that was
    taken was sent, by `Clock.boot_s`; `server_s`: the same by the server's clock, seconds since the epoch.
    `host_lost_s`: after how long peers count its runs as lost.
    """

    worker: str
    pool: str
    server: str
    pid: int
    ticks: int
    boot_id: str
    heard_s: float
    server_s: float
    host_lost_s: float

    @property
    def process(self) -> Process:
        return Process(self.pid, self.ticks)

    def path(self, folder: Path) -> Path:
        """Its file. One worker has one, whatever is written into it."""
        who = f"{self.server} {self.pool} {self.worker} {self.pid} {self.ticks}"
        return folder / f"worker-{hashlib.sha256(who.encode()).hexdigest()[:16]}.heard"

    def write(self, folder: Path) -> None:
        """Raises OSError."""
        _replace(self.path(folder), json.dumps(asdict(self)))


def heard(folder: Path) -> Iterator[Heard]:
    """Of all workers of this host that have left word, living or not. What cannot be read is left out."""
    for path in sorted(folder.glob("worker-*.heard")):
        with contextlib.suppress(OSError, ValueError, TypeError):
            yield Heard(**json.loads(path.read_text()))


class Frozen:
    """The marks of runs that stand still, in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def since_s(self, claim_id: str) -> float | None:
        """Seconds since the epoch by the server's clock; None if the run does not stand still."""
        try:
            return float(self._path(claim_id).read_text())
        except (OSError, ValueError):
            return None

    def mark(self, claim_id: str, at_s: float) -> None:
        """Raises OSError."""
        _replace(self._path(claim_id), repr(at_s))

    def clear(self, claim_id: str) -> None:
        """Raises OSError, unless there is no mark."""
        self._path(claim_id).unlink(missing_ok=True)

    def ids(self) -> set[str]:
        """Of all claims that are marked."""
        return {path.stem for path in self._folder.glob("*.frozen")}

    def _path(self, claim_id: str) -> Path:
        return self._folder / f"{claim_id}.frozen"


def _replace(path: Path, text: str) -> None:
    """Nobody reads half of it."""
    draft = path.with_suffix(f".{os.getpid()}")
    try:
        draft.write_text(text)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
