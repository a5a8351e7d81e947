"""What the runs of a worker use at most: host memory of their processes, memory of the GPUs that are theirs alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import psutil

from trimtab_work_pools.diagnosis import Peak
from trimtab_work_pools.inventory.cgroup import oom_kills
from trimtab_work_pools.resources import WHOLE
from trimtab_work_pools.worker.host_claims import HostClaim

__all__ = ["Usage", "memory_mib"]

_MIB = 1024 * 1024


class Usage:
    """Sampled now and then; the kernel's own high-water mark of a run's first process fills the gaps between."""

    def __init__(self, used_mib: Callable[[HostClaim], int | None]) -> None:
        """`used_mib`: host memory that a run has now, or has had at most; None if that cannot be seen."""
        self._used_mib = used_mib
        self._peaks: dict[str, Peak] = {}
        self._oom_kills: dict[str, int] = {}

    def began(self, run_id: str) -> None:
        """The run's process starts now."""
        self._oom_kills.setdefault(run_id, oom_kills())

    def sample(self, claims: Iterable[HostClaim], gpu_used_mib: Mapping[str, int]) -> None:
        """`gpu_used_mib` by uuid: what our runs use of each GPU. Some ms for a run; call it off the event loop."""
        for claim in claims:
            if claim.running:
                before = self._peaks.get(claim.holding.run_id, Peak())
                alone = (gpu_used_mib.get(uuid) for uuid, share in claim.devices if share == WHOLE)
                self._peaks[claim.holding.run_id] = Peak(
                    _most(before.memory_mib, self._used_mib(claim)), _most(before.gpu_memory_mib, *alone)
                )

    def ended(self, run_id: str) -> tuple[Peak, int]:
        """The run's peak, and how many processes the kernel has ended for want of memory since it began."""
        before = self._oom_kills.pop(run_id, None)
        return self._peaks.pop(run_id, Peak()), 0 if before is None else max(0, oom_kills() - before)


def memory_mib(pid: int) -> int | None:
    """The most that a process has had in memory, and what its children have now; None if it has gone."""
    try:
        children = psutil.Process(pid).children(recursive=True)
        own_kib = next(
            int(line.split()[1])
            for line in Path(f"/proc/{pid}/status").read_text().splitlines()
            if line.startswith("VmHWM:")
        )
    except (psutil.Error, OSError, StopIteration):
        return None
    return own_kib // 1024 + sum(_rss(child) for child in children) // _MIB


def _rss(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


def _most(*known: int | None) -> int | None:
    return max((one for one in known if one is not None), default=None)
