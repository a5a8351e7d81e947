"""Starts a run as a new program, in a session of its own, with the output of this process.

Prefect's own way (`prefect.utilities.processutils.run_process`) ties the program to the worker: its output goes through
a pipe of the worker, so it fails at its next line when the worker has gone, and is ended when the worker is cancelled.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from trimtab_work_pools.host.run_groups import RunGroup
from trimtab_work_pools.launchers.forked_run import ForkedRun

__all__ = ["launch_fresh"]


def launch_fresh(
    command: Sequence[str], env: Mapping[str, str], cwd: Path, group: RunGroup | None = None, *, output: bool = True
) -> ForkedRun:
    """Start `command` in the running event loop; a handle to it, as of a forked run.

    Args:
        env: its whole environment. cwd: its working directory.
        group: the control group that it is put into; it goes without if that cannot be.
        output: whether what it prints is shown; else it is thrown away.

    Raises:
        OSError: the program or the directory is not there, or cannot be used.
    """
    where = None if output else subprocess.DEVNULL
    program = subprocess.Popen(
        list(command),
        env=dict(env),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=where,
        stderr=where,
        start_new_session=True,
    )
    if group is not None:
        group.enter(program.pid)
    pidfd = os.pidfd_open(program.pid)
    run = ForkedRun(program.pid, pidfd)
    # The program is held by this callback, and so not reaped before it has ended.
    asyncio.get_running_loop().add_reader(pidfd, lambda: run.ended(program.wait()))
    return run
