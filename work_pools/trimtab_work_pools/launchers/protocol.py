"""What the launcher, its parent process and the new children say to each other, over one SOCK_SEQPACKET pair.

A message is a small JSON object with file descriptors beside it. An order travels in a memory file: an environment
may be larger than the largest packet.

    launcher -> parent    launch  {id, stdio: [names of the descriptors that follow the order]}
    parent   -> launcher  serving {refused: {module: why}} | unfit {reason} | failed {id, reason} | exit {id, code}
    child    -> launcher  forked  {id, pid} with its pidfd, then ready {id} | refused | failed {id, reason}
"""

from __future__ import annotations

import array
import json
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Message", "Order", "read_order", "receive", "send", "write_order"]

#: Bytes of the longest message, and descriptors beside it (order, stdout, stderr).
_LONGEST, _MOST_FDS = 65_536, 3

#: A reason may quote what a library said; more of it than this helps nobody.
_LONGEST_TEXT = 8_000


@dataclass(frozen=True)
class Message:
    """One message; whoever receives it owns the descriptors."""

    kind: str
    fields: Mapping[str, Any]
    fds: tuple[int, ...] = ()

    def close(self) -> None:
        """Close the descriptors that came with it."""
        for fd in self.fds:
            os.close(fd)


@dataclass(frozen=True)
class Order:
    """What a new process is to be: its whole environment, its working directory, the folder of its control group."""

    flow_run_id: str
    env: dict[str, str]
    cwd: str
    group: str = ""


def send(channel: socket.socket, kind: str, fds: Sequence[int] = (), **fields: Any) -> None:
    """Send one message whole.

    Raises:
        BlockingIOError: the channel does not block, and is full. ConnectionError: nobody listens any more.
    """
    short = {name: value[:_LONGEST_TEXT] if isinstance(value, str) else value for name, value in fields.items()}
    text = json.dumps({"kind": kind, **short}).encode()
    beside = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    channel.sendmsg([text], beside)


def receive(channel: socket.socket) -> Message | None:
    """The next message; None when the other side has gone.

    Raises:
        BlockingIOError: the channel does not block, and is empty.
    """
    room = socket.CMSG_SPACE(_MOST_FDS * array.array("i").itemsize)
    try:
        text, beside, _, _ = channel.recvmsg(_LONGEST, room, socket.MSG_CMSG_CLOEXEC)
    except ConnectionError:
        return None
    if not text:
        return None
    fds = array.array("i")
    for level, what, data in beside:
        if (level, what) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    fields = json.loads(text)
    return Message(fields.pop("kind"), fields, tuple(fds))


def write_order(order: Order) -> int:
    """An order as a memory file; the caller closes the descriptor."""
    fd = os.memfd_create("trimtab-launch", os.MFD_CLOEXEC)
    with open(fd, "wb", closefd=False) as file:
        file.write(json.dumps(asdict(order)).encode())
    return fd


def read_order(fd: int) -> Order:
    """The order in a memory file."""
    with open(fd, "rb", closefd=False) as file:
        file.seek(0)
        return Order(**json.load(file))
