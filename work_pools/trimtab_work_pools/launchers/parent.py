"""The process that forks: it has imported Prefect, has one thread, and does nothing but fork and reap.

Started by the launcher as `python -P -m trimtab_work_pools.launchers.parent CONFIG`, CONFIG being JSON: `fd` of the
channel, modules to `preload`, those `refused` with the reason, the `cafile` of Prefect's clients. It ends when the
launcher's end of the channel closes; its children go on. A child leaves `main` like a caller of `prefect.engine`, so
that the interpreter ends as ever: exit handlers run, threads are joined, buffers flushed.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import traceback
from typing import Any, NoReturn

from trimtab_work_pools.launchers import footprint, prefect_hooks
from trimtab_work_pools.launchers.child import SetUpFailed, set_up
from trimtab_work_pools.launchers.protocol import Message, Order, read_order, receive, send
from trimtab_work_pools.launchers.ready_tls import ReadyContexts

__all__ = ["main"]

#: Exit code of a child that never became a run.
_NOT_SET_UP = 1

#: So many clients are created until a run has ended (prefect 3.8); each child has as many contexts of its own.
_CLIENTS = 10


class _Forker:
    """Forks on request, and says how each child ended."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._poll = select.poll()
        self._poll.register(channel, select.POLLIN)
        #: pidfd to (id of the launch, pid)
        self._children: dict[int, tuple[int, int]] = {}

    def serve(self) -> tuple[Message, Order] | None:
        """Returns what to become in a child, and None in the parent, when the launcher has gone."""
        while True:
            for fd, _ in self._poll.poll():
                if fd != self._channel.fileno():
                    self._reap(fd)
                    continue
                if (message := receive(self._channel)) is None:
                    return None
                if (order := self._launch(message)) is not None:
                    return message, order

    def _launch(self, message: Message) -> Order | None:
        number = int(message.fields["id"])
        try:
            order = read_order(message.fds[0])
            if found := footprint.faults(*footprint.look(), own=[self._channel.fileno(), *message.fds]):
                raise OSError(f"the parent process {' and '.join(found)}")
            pid = _fork()
        except OSError as wrong:
            send(self._channel, "failed", id=number, reason=str(wrong))
            message.close()
            return None
        if pid == 0:
            for fd in self._children:
                os.close(fd)
            return order
        message.close()
        pidfd = os.pidfd_open(pid)
        self._children[pidfd] = (number, pid)
        self._poll.register(pidfd, select.POLLIN)
        return None

    def _reap(self, pidfd: int) -> None:
        number, pid = self._children.pop(pidfd)
        self._poll.unregister(pidfd)
        os.close(pidfd)
        _, status = os.waitpid(pid, 0)
        send(self._channel, "exit", id=number, code=os.waitstatus_to_exitcode(status))


def _fork() -> int:
    """As os.fork; all signals stay blocked in the child, which has the parent's handlers as yet."""
    sys.stdout.flush()
    sys.stderr.flush()
    before = signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
    pid = os.fork()
    if pid:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return pid


def _become(channel: socket.socket, message: Message, order: Order) -> None:
    """In a child: say who it is, be set up, say so, and let go of the channel."""
    number = message.fields["id"]
    try:
        pidfd = os.pidfd_open(os.getpid())
        send(channel, "forked", (pidfd,), id=number, pid=os.getpid())
        os.close(pidfd)
        set_up(order, dict(zip(message.fields["stdio"], message.fds[1:], strict=True)))
        send(channel, "ready", id=number)
    except ConnectionError:
        _give_up()  # nobody is there to own the run
    except SetUpFailed as wrong:
        send(channel, "refused", id=number, reason=str(wrong))
        _give_up()
    except BaseException:  # noqa: BLE001 - nothing may go back into the parent's loop, in a copy of it
        send(channel, "failed", id=number, reason=traceback.format_exc())
        _give_up()
    message.close()
    channel.close()


def _give_up() -> NoReturn:
    os._exit(_NOT_SET_UP)


def _import(config: dict[str, Any], channel: socket.socket) -> str | None:
    """Import Prefect and what is to be preloaded; why this process cannot fork, or None.

    A module that starts threads cannot be unloaded, so the process starts anew without it.
    """
    prefect_hooks.import_all()
    own = [channel.fileno()]
    if found := footprint.faults(*footprint.look(), own=own):
        return f"the process that has imported Prefect {' and '.join(found)}"
    for name in [name for name in config["preload"] if name not in config["refused"]]:
        try:
            importlib.import_module(name)
        except Exception as wrong:  # noqa: BLE001 - what a module raises when it is imported is its own affair
            config["refused"][name] = f"cannot be imported: {type(wrong).__name__}: {wrong}"
        if found := footprint.faults(*footprint.look(), own=own):
            config["refused"].setdefault(name, f"a process that imports it {' and '.join(found)}")
            os.execv(sys.executable, [*sys.orig_argv[:-1], json.dumps(config)])
    return None


def main() -> None:
    """Serve until the launcher goes; in a child, run the engine."""
    config = json.loads(sys.argv[1])
    channel = socket.socket(fileno=config["fd"])
    if reason := _import(config, channel):
        send(channel, "unfit", reason=reason)
        return
    os.set_inheritable(channel.fileno(), False)
    ReadyContexts(config["cafile"], _CLIENTS).install()
    # Objects of the parent are not touched by the children's collections, and their pages stay shared.
    gc.collect()
    gc.freeze()
    send(channel, "serving", refused=config["refused"])
    try:
        to_become = _Forker(channel).serve()
    except ConnectionError:
        return
    if to_become is not None:
        _become(channel, *to_become)
        prefect_hooks.run_engine(to_become[1].flow_run_id)


if __name__ == "__main__":
    main()
