"""Claims that versions of Trimtab before 2026-12 left on a host: they named processes by the time they were made."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from trimtab_work_pools.host.clock import SYSTEM
from trimtab_work_pools.host.process import find, read_row
from trimtab_work_pools.host.process_tree import MARK

__all__ = ["brought_up"]

_SAME_S = 1.5


def brought_up(text: str | bytes) -> str | bytes:
    """The claim as it is written now; what is none, or is up to date, stays as it is."""
    try:
        said = json.loads(text)
    except ValueError:
        return text
    if not isinstance(said, dict) or "worker_created_s" not in said:
        return text
    try:
        worker, pid = int(said["worker_pid"]), int(said.get("pid") or 0)
        said["boot_id"] = SYSTEM.boot_id
        said["worker_ticks"] = _ticks(worker, float(said["worker_created_s"]), _is_worker(worker))
        said["pid_ticks"] = _ticks(pid, float(said.get("pid_created_s") or 0), _is_run(pid, said))
    except (TypeError, ValueError, KeyError):
        return text
    return json.dumps(said)


def _ticks(pid: int, created_s: float, known: bool) -> int:
    """Of the process that has this id, if it is the one that was meant: it is `known` by what it is called, or was made
    at that time, by a wall clock that may have been stepped since.
    """
    process = find(pid)
    since_s = process.ticks / os.sysconf("SC_CLK_TCK")
    made_s = time.time() - SYSTEM.boot_s() + since_s
    return process.ticks if known or abs(made_s - created_s) < _SAME_S else 0


def _is_worker(pid: int) -> bool:
    words = _read(pid, "cmdline").split(b"\0")
    return b"worker" in words and b"start" in words


def _is_run(pid: int, said: dict[str, Any]) -> bool:
    """One that was forked has the run's name; a new program has the claim in its environment."""
    row = read_row(pid) if pid else None
    if row is None:
        return False
    marked = f"{MARK}={said['claim_id']}".encode() in _read(pid, "environ").split(b"\0")
    return marked or row.name == f"run {said['holding']['run_id'][:8]}"


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""
