"""The end of a worker: on SIGTERM or Ctrl-C it picks nothing more, gives back what it may, waits, and leaves."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import anyio

from trimtab_blocks.settings import read as read_settings
from trimtab_work_pools.worker.dispatcher import Dispatcher

__all__ = ["Drain"]

_Handler = Callable[[int, FrameType | None], Any] | int | None


class Drain:
    """Set off by the first signal; a second one ends the worker as Prefect would."""

    def __init__(self, dispatcher: Dispatcher, logger: logging.Logger | logging.LoggerAdapter[Any]) -> None:
        self.draining = self.forced = False
        self._dispatcher, self._logger = dispatcher, logger
        self._before: dict[signal.Signals, _Handler] = {}
        self._worker: asyncio.Task[Any] | None = None
        self._tasks: list[asyncio.Task[None]] = []  # a task that nobody holds may be collected while it runs
        given = read_settings()
        self._wait_s = given.drain_seconds
        self._grace_s = given.stop_grace_seconds

    def watch_signals(self) -> None:
        """Takes over SIGTERM and SIGINT from Prefect; only the main thread can."""
        loop = asyncio.get_running_loop()
        self._worker = asyncio.current_task()

        def on_signal(number: int, frame: FrameType | None) -> None:
            loop.call_soon_threadsafe(self._set_off)

        try:
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, on_signal)
        except ValueError:
            self._logger.debug("Not in the main thread: signals are Prefect's to handle")

    def stop_watching(self) -> None:
        """Prefect's handlers again."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _set_off(self) -> None:
        self._tasks.append(asyncio.ensure_future(self._run()))

    async def _run(self) -> None:
        if self.draining:
            self.forced = True
            self._leave()
            return
        self.draining = True
        running = self._dispatcher.running()
        self._logger.info("Draining: nothing new is picked; %s runs here. Once more to leave at once.", len(running))
        try:
            await self._dispatcher.drain()
        except Exception as error:  # noqa: BLE001 - draining goes on, whatever the server says
            self._logger.warning("Peers could not be told (%s); the advertisement expires by itself", error)
        await self._empty()
        self._leave()

    async def _empty(self) -> None:
        """What is preemptible is stopped at once, the rest when its time is over; each goes back when it has gone."""
        until_s = time.monotonic() + self._wait_s
        while running := self._dispatcher.running():
            late = time.monotonic() >= until_s
            for run_id in running:
                if late or self._dispatcher.preemptible(run_id):
                    why = "its worker is being stopped"
                    self._dispatcher.stop(run_id, "Preempted", why, self._grace_s)
            self._dispatcher.stopping.press()
            with anyio.move_on_after(0.5):
                await self._dispatcher.gone()

    def _leave(self) -> None:
        """Ends the worker as Ctrl-C would; not by a signal, which a shell's background job may have to ignore."""
        if self._worker is not None:
            self._worker.cancel()
