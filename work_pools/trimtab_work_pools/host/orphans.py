"""The claims of a host as its guard reads them: only what it needs, without what a worker imports to read them.

The form is that of `worker.host_claims.HostClaim` in JSON.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from trimtab_work_pools.host.clock import SYSTEM
from trimtab_work_pools.host.process import Process
from trimtab_work_pools.host.process_tree import ProcessTree
from trimtab_work_pools.host.run_groups import RunGroup

__all__ = ["GuardedClaim", "claims", "locked"]

_LOCK_S, _LOCK_AGAIN_S = 5.0, 0.02


@dataclass(frozen=True, slots=True)
class GuardedClaim:
    """Fields as in `HostClaim`. `uid`: the user who has written it."""

    claim_id: str
    run_id: str
    server: str
    boot_id: str
    worker: Process
    main: Process
    group: str
    in_container: bool
    uid: int

    @property
    def has_worker(self) -> bool:
        return self.of_this_start and self.worker.alive

    @property
    def of_this_start(self) -> bool:
        """Of the host."""
        return self.boot_id == SYSTEM.boot_id

    def tree(self) -> ProcessTree:
        return ProcessTree(self.claim_id, self.main, RunGroup(Path(self.group)) if self.group else None)


def claims(folder: Path) -> list[GuardedClaim]:
    """All that are on file. What cannot be read is left out."""
    found = []
    for path in sorted(folder.glob("*.json")):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            found.append(_claim(json.loads(path.read_bytes()), path.stat().st_uid))
    return found


def _claim(given: dict[str, object], uid: int) -> GuardedClaim:
    holding = given["holding"]
    if not isinstance(holding, dict):
        raise TypeError("no claim")
    return GuardedClaim(
        str(given["claim_id"]),
        str(holding["run_id"]),
        str(given["server"]),
        str(given["boot_id"]),
        Process(_number(given["worker_pid"]), _number(given["worker_ticks"])),
        Process(_number(given["pid"]), _number(given["pid_ticks"])),
        str(given["group"]),
        bool(given["in_container"]),
        uid,
    )


def _number(value: object) -> int:
    if not isinstance(value, int):
        raise TypeError(f"no number: {value!r}")
    return value


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """The lock of the claims: nobody makes, takes over or gives back one meanwhile. Raises OSError, TimeoutError."""
    with (folder / "lock").open("w") as lock:
        until_s = time.monotonic() + _LOCK_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= until_s:
                    raise TimeoutError(f"the lock of {folder} is not let go") from None
                time.sleep(_LOCK_AGAIN_S)
        yield
