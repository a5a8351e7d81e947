"""XIDs on disk: a GPU that reported one that needs a reset is not well because a worker was started again.

One small file for all workers of a host, with the id of the boot: what a host that was restarted finds there is of
hardware that was reset. A GPU that was reset meanwhile is struck out by the reader that sees it come back.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path

from trimtab_work_pools.inventory.health import Xid

__all__ = ["KeptXids"]

_BOOT = Path("/proc/sys/kernel/random/boot_id")


class KeptXids:
    """In the folder of the host's claims. Never raises for what the disk does: then nothing is kept."""

    def __init__(self, folder: Path, boot_id: Path = _BOOT) -> None:
        self._file = folder / "xids"
        try:
            self._boot = boot_id.read_text().strip()
        except OSError:
            self._boot = ""

    def read(self) -> dict[str, tuple[Xid, ...]]:
        """By uuid, of this boot."""
        try:
            found = json.loads(self._file.read_bytes())
            if not self._boot or found["boot"] != self._boot:
                return {}
            xids = {str(uuid): [Xid(int(code), gi) for code, gi in pairs] for uuid, pairs in found["xids"].items()}
            return {uuid: tuple(pairs) for uuid, pairs in xids.items()}
        except (OSError, ValueError, TypeError, KeyError, AttributeError):  # half written, or by another version
            return {}

    def write(self, xids: Mapping[str, Collection[Xid]], reset: Collection[str] = ()) -> None:
        """Adds what is new, and strikes out those that were `reset`."""
        known = {uuid: pairs for uuid, pairs in self.read().items() if uuid not in reset}
        merged = {uuid: tuple(dict.fromkeys((*known.get(uuid, ()), *found))) for uuid, found in xids.items()}
        pairs = {uuid: [[xid.code, xid.gpu_instance] for xid in found] for uuid, found in {**known, **merged}.items()}
        draft = self._file.with_suffix(f".{os.getpid()}")
        with contextlib.suppress(OSError):
            draft.write_text(json.dumps({"boot": self._boot, "xids": {u: p for u, p in pairs.items() if p}}))
            draft.replace(self._file)
