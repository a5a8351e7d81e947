"""Ports on the loopback address: a given one if it is free, otherwise any free one."""

from __future__ import annotations

import socket
from contextlib import closing

from trimtab_infra.errors import PortTaken

__all__ = ["HOST", "choose", "is_free"]

#: The stack is for this machine only.
HOST = "127.0.0.1"


def is_free(port: int) -> bool:
    """True if a server could listen on this port now."""
    with closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as trial:
        # As servers do: a port in TIME_WAIT is free for them.
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((HOST, port))
        except OSError:
            return False
    return True


def choose(part: str, asked: int | None, usual: int, taken: set[int]) -> int:
    """The port that was asked for, or the usual one if it is free, or any free one.

    Raises:
        PortTaken: the port that was asked for is in use.
    """
    if asked is not None:
        if not is_free(asked):
            raise PortTaken(f"port {asked} for {part} is in use; leave --{part}-port away and a free one is picked")
        return asked
    if usual not in taken and is_free(usual):
        return usual
    with closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as trial:
        trial.bind((HOST, 0))
        return int(trial.getsockname()[1])
