"""A run in a forked process: its pid, its signals, its end, whether or not its parent is there to tell."""

from __future__ import annotations

import array
import asyncio
import fcntl
import logging
import os
import select
import signal
import struct

__all__ = ["EXIT_UNKNOWN", "ForkedRun"]

_logger = logging.getLogger(__name__)

#: Return code where a run ended unseen; asyncio's own child watchers give the same.
EXIT_UNKNOWN = 255

#: ioctl PIDFD_GET_INFO of Linux 6.15 and struct pidfd_info in its first version (include/uapi/linux/pidfd.h):
#: _IOWR(0xFF, 11, 64 bytes); a mask of what is asked for and given, and the exit status at the end.
_PIDFD_GET_INFO = 3 << 30 | 64 << 16 | 0xFF << 8 | 11
_PIDFD_INFO_EXIT = 1 << 3
_INFO = struct.Struct("=Q52xi")

#: Seconds between looks at a process that has ended and was not reaped yet, and how many of them.
_LOOK_S, _LOOKS = 0.01, 300


class ForkedRun:
    """A handle to one run's process.

    Made by the launcher. The process is held by a pidfd, so a signal never reaches another process of the same pid.

    Attributes:
        pid: of the process, which leads a session and a process group of its own.
    """

    def __init__(self, pid: int, pidfd: int) -> None:
        self.pid = pid
        self._pidfd: int | None = pidfd
        self._loop = asyncio.get_running_loop()
        self._code: asyncio.Future[int] = self._loop.create_future()

    @property
    def returncode(self) -> int | None:
        """The return code, None while the run's end is not known."""
        return self._code.result() if self._code.done() else None

    async def wait(self) -> int:
        """Wait for the end; may be called by several, and again.

        Returns:
            The exit code, negative for a signal, as in subprocess. `EXIT_UNKNOWN` if the parent was killed, and the
            kernel (before Linux 6.15) does not say either.
        """
        return await asyncio.shield(self._code)

    def send_signal(self, sig: int) -> None:
        """Signal the process; does nothing if it has ended, as in subprocess."""
        if self._pidfd is not None:
            try:
                signal.pidfd_send_signal(self._pidfd, sig)
            except ProcessLookupError:
                return

    def ended(self, code: int) -> None:
        """For the launcher: the parent has reaped it."""
        if self._code.done():
            return
        self._code.set_result(code)
        if self._pidfd is not None:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None

    def watch(self) -> None:
        """For the launcher: nobody will tell its end, so see to it by ourselves."""
        if self._pidfd is not None:
            self._loop.add_reader(self._pidfd, self._look, self._pidfd, _LOOKS)

    def _look(self, pidfd: int, left: int) -> None:
        """It has ended; its exit status is there as soon as somebody (init) has reaped it."""
        if self._code.done():
            return  # and the descriptor is closed, its number perhaps another's
        self._loop.remove_reader(pidfd)
        if (code := _exit_code(pidfd)) is not None:
            self.ended(code)
        elif left and not _reaped(pidfd):
            self._loop.call_later(_LOOK_S, self._look, pidfd, left - 1)
        else:
            _logger.warning("run of process %s ended after its parent; its exit status is not known", self.pid)
            self.ended(EXIT_UNKNOWN)


def _exit_code(pidfd: int) -> int | None:
    info = array.array("B", _INFO.pack(_PIDFD_INFO_EXIT, 0))
    try:
        fcntl.ioctl(pidfd, _PIDFD_GET_INFO, info)
    except OSError:
        return None
    mask, status = _INFO.unpack(info)
    return os.waitstatus_to_exitcode(status) if mask & _PIDFD_INFO_EXIT else None


def _reaped(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return any(event & select.POLLHUP for _, event in poll.poll(0))
