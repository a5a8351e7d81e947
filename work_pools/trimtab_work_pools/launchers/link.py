"""The launcher's side of one parent process: start it, send orders, hear of its children, notice its death."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from trimtab_work_pools.launchers import prefect_hooks
from trimtab_work_pools.launchers.child import read_only_at_start
from trimtab_work_pools.launchers.errors import LaunchFailed, LaunchRefused, NeedsFreshInterpreter, ParentUnfit
from trimtab_work_pools.launchers.forked_run import ForkedRun
from trimtab_work_pools.launchers.mark import with_room
from trimtab_work_pools.launchers.protocol import Message, Order, receive, send, write_order

__all__ = ["ParentLink", "ParentLost", "parent_environment"]

_logger = logging.getLogger(__name__)

#: Seconds in which a parent has imported Prefect, on a machine that is busy; and in which it goes when told to.
_STARTS_WITHIN_S, _ENDS_WITHIN_S = 120, 10

#: Seconds in which a child is set up; 0.1 is usual. Plugins of Prefect, and slow disks, are what may take longer.
_SET_UP_WITHIN_S = 60

#: Seconds until the next try, where the parent is some hundred orders behind.
_FULL_S = 0.01

_PARENT = "trimtab_work_pools.launchers.parent"


class ParentLost(Exception):
    """The parent died; the run that was ordered has not begun, and will not."""


@dataclass
class _Launch:
    ready: asyncio.Future[ForkedRun]
    run: ForkedRun | None = None


@dataclass
class ParentLink:
    """One parent process, from its start to its end. `start` makes one.

    Attributes:
        env: what it was started with.
        refused: modules that were not preloaded, with the reason.
        lost: set when the parent has gone, for whatever reason.
    """

    process: asyncio.subprocess.Process
    channel: socket.socket
    env: Mapping[str, str]
    refused: dict[str, str] = field(default_factory=dict)
    lost: asyncio.Event = field(default_factory=asyncio.Event)
    _serving: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    _launches: dict[int, _Launch] = field(default_factory=dict)
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    @classmethod
    async def start(cls, env: Mapping[str, str], preload: Sequence[str], refused: Mapping[str, str]) -> ParentLink:
        """Start a parent, and wait until it can fork.

        Raises:
            ParentUnfit: it cannot fork safely, or did not start.
        """
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with its:
            config = json.dumps(
                {
                    "fd": its.fileno(),
                    "preload": list(preload),
                    "refused": dict(refused),
                    "cafile": prefect_hooks.cafile(),
                }
            )
            try:
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-P", "-m", _PARENT, config),
                    env=env,
                    stdin=subprocess.DEVNULL,
                    pass_fds=[its.fileno()],
                    # A Ctrl-C in the terminal of the worker is the worker's; it says what becomes of its runs.
                    start_new_session=True,
                )
            except BaseException:
                ours.close()
                raise
        ours.setblocking(False)
        link = cls(process, ours, env)
        asyncio.get_running_loop().add_reader(ours, link._hear)
        try:
            await asyncio.wait_for(link._serving, _STARTS_WITHIN_S)
        except BaseException as wrong:
            await link.close()
            if isinstance(wrong, TimeoutError):
                raise ParentUnfit(f"the parent process was not ready within {_STARTS_WITHIN_S} s") from wrong
            raise
        return link

    @property
    def runs(self) -> list[ForkedRun]:
        """Runs that were launched here and have not ended."""
        return [launch.run for launch in self._launches.values() if launch.run is not None]

    async def launch(self, order: Order, stdio: Mapping[str, int]) -> ForkedRun:
        """Have a process made, and wait until it is about to run the engine.

        Raises:
            ParentLost, LaunchRefused, LaunchFailed: no flow code has run.
        """
        if names := read_only_at_start(order.env, self.env):
            raise NeedsFreshInterpreter(names)
        number = next(self._numbers)
        launch = self._launches[number] = _Launch(asyncio.get_running_loop().create_future())
        try:
            await self._order(number, order, stdio)
            return await asyncio.wait_for(asyncio.shield(launch.ready), _SET_UP_WITHIN_S)
        except BaseException as wrong:
            self._abandon(launch)  # also of a cancelled caller, who will never have the run to end it
            if isinstance(wrong, TimeoutError):
                raise LaunchFailed(f"the process was not set up within {_SET_UP_WITHIN_S} s; it was killed") from wrong
            raise

    async def close(self) -> None:
        """Let the parent go; its children go on, and their ends are still noticed."""
        if not self.lost.is_set():
            # From here on a child that is being set up cannot say that it is ready, and gives up; those that said
            # so are heard. So a launch has either a run or none.
            self.channel.shutdown(socket.SHUT_RD)
            self._hear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.process.wait(), _ENDS_WITHIN_S)
            return
        self.process.kill()
        await self.process.wait()

    async def _order(self, number: int, order: Order, stdio: Mapping[str, int]) -> None:
        file = write_order(order)
        try:
            while not self.lost.is_set():
                with contextlib.suppress(BlockingIOError):
                    return send(self.channel, "launch", (file, *stdio.values()), id=number, stdio=list(stdio))
                await asyncio.sleep(_FULL_S)
            raise ParentLost
        except ConnectionError as gone:
            self._hear()  # what it and its children said before it died
            raise ParentLost from gone
        finally:
            os.close(file)

    def _abandon(self, launch: _Launch) -> None:
        """Nobody waits for it any more: it must not run. If it is not there yet, it is killed when it is."""
        if not launch.ready.cancel() and not launch.ready.cancelled():
            launch.ready.exception()  # is seen with this, or asyncio would report it as missed
        if launch.run is not None:
            launch.run.send_signal(signal.SIGKILL)

    def _hear(self) -> None:
        while True:
            try:
                message = receive(self.channel)
            except BlockingIOError:
                return
            if message is None:
                self._lose()
                return
            self._take(message)

    def _take(self, message: Message) -> None:
        match message.kind:
            case "serving":
                self.refused = dict(message.fields["refused"])
                self._serving.set_result(None)
            case "unfit":
                self._serving.set_exception(ParentUnfit(message.fields["reason"]))
            case kind:
                self._take_of_child(kind, message)

    def _take_of_child(self, kind: str, message: Message) -> None:
        number = int(message.fields["id"])
        launch = self._launches[number]
        match kind:
            case "forked":
                launch.run = ForkedRun(int(message.fields["pid"]), message.fds[0])
                if launch.ready.cancelled():
                    launch.run.send_signal(signal.SIGKILL)
            case "ready" if not launch.ready.done() and launch.run is not None:
                launch.ready.set_result(launch.run)
            case "refused":
                _fail(launch, LaunchRefused(message.fields["reason"]))
            case "failed":
                _fail(launch, LaunchFailed(message.fields["reason"]))
                if launch.run is None:
                    del self._launches[number]
            case "exit":
                del self._launches[number]
                code = int(message.fields["code"])
                _fail(launch, LaunchFailed(f"the process ended with {code} before it was set up"))
                if launch.run is not None:
                    launch.run.ended(code)

    def _lose(self) -> None:
        """The parent has gone, or is let go: no message will come."""
        if self.lost.is_set():
            return
        self.lost.set()
        asyncio.get_running_loop().remove_reader(self.channel)
        self.channel.close()
        if not self._serving.done():
            self._serving.set_exception(ParentUnfit("the parent process ended while it started; see its stderr"))
        for launch in self._launches.values():
            _fail(launch, ParentLost())
            if launch.run is not None:
                launch.run.watch()


def _fail(launch: _Launch, why: Exception) -> None:
    if not launch.ready.done():
        launch.ready.set_exception(why)


def parent_environment(home: Path) -> dict[str, str]:
    """What a parent process runs with; its Prefect has its own home."""
    env = prefect_hooks.own_environment(os.environ, str(home))
    # Without byte code Prefect is imported in 4.5 s instead of 1.1 s.
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    return with_room(env)
