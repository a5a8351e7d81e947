"""What earlier runs of a deployment were seen to use, beside what the next one asks for. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from trimtab_work_pools.diagnosis import Peak
from trimtab_work_pools.resources import Demand

__all__ = ["suggestion"]

_ROOM = 1.2
"""A suggestion leaves this much above the highest peak: the next run may see other data."""
_WORTH = 1.5
"""Nothing is said where what is asked is below this times the suggestion."""
_LEAST_RUNS = 3
_STEP_MIB = 256


def suggestion(demand: Demand, peaks: Sequence[Peak]) -> str:
    """A sentence such as "asked 40960 MiB of GPU memory, its last 5 runs used at most 9100: 11008 would do"; "" if what
    is asked is near what is used, or fewer than three runs were seen.
    """
    said = (
        _said("memory", demand.memory_mib, [peak.memory_mib for peak in peaks]),
        _said("GPU memory", demand.gpu_memory_mib, [peak.gpu_memory_mib for peak in peaks]),
    )
    return "; ".join(one for one in said if one)


def _said(what: str, asked_mib: int, peaks: Sequence[int | None]) -> str:
    seen = [peak for peak in peaks if peak]
    if not asked_mib or len(seen) < _LEAST_RUNS:
        return ""
    enough_mib = -(-round(max(seen) * _ROOM) // _STEP_MIB) * _STEP_MIB
    if asked_mib < _WORTH * enough_mib:
        return ""
    used = f"its last {len(seen)} runs used at most {max(seen)}"
    return f"asked {asked_mib} MiB of {what}, {used}: {enough_mib} would do"
