"""Launches flow runs by forking a process that has imported Prefect already.

A child runs the module `prefect.engine` as `python -m prefect.engine` does, in a process that looks like a new
interpreter: see `child.py` for what is made new, and `NeedsFreshInterpreter` for what cannot be. Linux only.

From `launch` to the first line of a flow, median of 20 (least, most), in turns, on 2 cores: 0.26 s (0.22, 0.86) forked,
1.47 s (1.36, 1.70) with `python -m prefect.engine`; with other work on the cores (load 5) 0.37 s and 2.00 s. Again with

    pytest tests/work_pools/launchers/test_forking.py -m long -s
"""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self
from uuid import UUID

from trimtab_work_pools.host.run_groups import RunGroup
from trimtab_work_pools.launchers.errors import LaunchFailed, LaunchRefused, ParentUnfit
from trimtab_work_pools.launchers.forked_run import ForkedRun
from trimtab_work_pools.launchers.link import ParentLink, ParentLost, parent_environment
from trimtab_work_pools.launchers.protocol import Order

__all__ = ["ForkLauncher", "ForkedRun"]

#: How many parents are tried for one run, where each dies under it.
_TRIES = 3


class ForkLauncher:
    """Starts runs from a parent process of its own; an async context manager, used in one event loop.

    Niceness, CPU affinity, umask and limits of the runs are those this process has when the parent starts.

    Args:
        state_dir: folder for the parent's own (empty) Prefect home; a temporary one if None.
        preload: modules that the parent imports too, so that runs need not. One that starts threads (numpy and what
            is built on it do), opens a connection or a GPU, or cannot be imported, is left out: see `refused`. What
            a module reads from the environment when it is imported is the parent's; a later edit of it is not seen.
        leave_running: whether runs go on when the launcher is left.
        grace_s: seconds between SIGTERM and SIGKILL for runs that are to end when the launcher is left.
    """

    def __init__(
        self,
        state_dir: Path | None = None,
        preload: Sequence[str] = (),
        *,
        leave_running: bool = False,
        grace_s: float = 10,
    ) -> None:
        self._state_dir = state_dir
        self._preload = tuple(preload)
        self._leave_running = leave_running
        self._grace_s = grace_s
        self._refused: dict[str, str] = {}
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._link: ParentLink | None = None
        self._open = False
        self._starting = asyncio.Lock()
        self._runs: set[ForkedRun] = set()

    @property
    def parent_pid(self) -> int | None:
        """Process id of the parent; None if there is none now. The next launch starts one."""
        return self._link.process.pid if self._link is not None and not self._link.lost.is_set() else None

    @property
    def refused(self) -> Mapping[str, str]:
        """Modules that are not preloaded, with the reason."""
        return dict(self._refused)

    async def __aenter__(self) -> Self:
        """Raises ParentUnfit if runs cannot be forked here; start them as fresh processes then."""
        if not sys.platform.startswith("linux"):
            raise ParentUnfit(f"forking needs Linux, and this is {sys.platform}")
        if self._state_dir is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="trimtab-launcher-")
        self._open = True
        try:
            await self._parent()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop(leave_running=self._leave_running)

    async def launch(
        self,
        flow_run_id: UUID,
        env: Mapping[str, str],
        cwd: Path | None = None,
        stdout: int | None = None,
        stderr: int | None = None,
        group: RunGroup | None = None,
    ) -> ForkedRun:
        """Start the process of a run; returns when it is about to run the engine.

        Args:
            flow_run_id: the run, which the server of `env` knows.
            env: the whole environment of the run; nothing of this process's is added.
            cwd: its working directory; this process's if None.
            group: the control group that it enters before it does anything else; it goes without if it cannot.
            stdout, stderr: descriptors for its output; the caller may close them afterwards. This process's if None.

        Raises:
            LaunchRefused: `env` or `cwd` cannot be used; NeedsFreshInterpreter, if only a fork cannot use them.
            LaunchFailed: the process died before the engine began. ParentUnfit: no parent can be started.
                In all cases no flow code has run.
        """
        order = Order(str(flow_run_id), _checked(env), str(cwd or Path.cwd()), str(group.folder) if group else "")
        stdio = {name: fd for name, fd in (("stdout", stdout), ("stderr", stderr)) if fd is not None}
        for _ in range(_TRIES):
            link = await self._parent()
            try:
                run = await link.launch(order, stdio)
            except ParentLost:
                continue
            self._remember(run)
            return run
        raise LaunchFailed(f"{_TRIES} parent processes died one after the other before the run began")

    async def stop(self, *, leave_running: bool = False) -> None:
        """Let the parent go, and end the runs: SIGTERM, and SIGKILL when the grace is over.

        Args:
            leave_running: runs go on, without anybody who waits for them.
        """
        self._open = False
        if not leave_running:
            await self._end_runs()
        async with self._starting:
            link, self._link = self._link, None
            if link is not None:
                await link.close()
                self._runs |= set(link.runs)
        if not leave_running:
            await self._end_runs()  # those that were on their way
        if self._temporary is not None:
            self._temporary.cleanup()
            self._temporary = None

    async def _end_runs(self) -> None:
        for sig, within_s in ((signal.SIGTERM, self._grace_s), (signal.SIGKILL, None)):
            running = [run for run in self._runs if run.returncode is None]
            if not running:
                return
            for run in running:
                run.send_signal(sig)
            await asyncio.wait([asyncio.ensure_future(run.wait()) for run in running], timeout=within_s)

    def _remember(self, run: ForkedRun) -> None:
        self._runs = {known for known in self._runs if known.returncode is None} | {run}

    async def _parent(self) -> ParentLink:
        """The parent, a new one if it has died."""
        async with self._starting:
            if not self._open:
                raise ParentUnfit("the launcher is not open; use it as `async with ForkLauncher() as launcher`")
            if self._link is not None and self._link.lost.is_set():
                await self._link.close()
                self._link = None
            if self._link is None:
                self._link = await ParentLink.start(parent_environment(self._home()), self._preload, self._refused)
                self._refused = self._link.refused
            return self._link

    def _home(self) -> Path:
        home = (self._state_dir or Path(self._temporary.name if self._temporary else "")) / "launcher"
        home.mkdir(parents=True, exist_ok=True)
        return home


def _checked(env: Mapping[str, str]) -> dict[str, str]:
    """Raises LaunchRefused for what can be no environment."""
    for name, value in env.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise LaunchRefused(f"environment: {name}={value!r} is not text; leave the name out, or give it text")
        if not name or "=" in name or "\0" in name + value:
            raise LaunchRefused(f"environment: {name!r}: a name has no '=' and is not empty, and no text has a NUL")
    return dict(env)
