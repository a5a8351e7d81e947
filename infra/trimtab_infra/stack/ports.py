"""Ports on the loopback address: a given one if it is free, otherwise any free one."""

from __future__ import annotations

import socket
from collections.abc import Mapping
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


def choose(usual: Mapping[str, int], asked: Mapping[str, int], kept: Mapping[str, int]) -> dict[str, int]:
    """A port for every part: the one it runs on, or was asked for, or its usual one if that is free, or any free one.

    Args:
        usual: port by part, to be taken where it is free.
        asked: ports that must be these.
        kept: ports of parts that are running.

    Raises:
        PortTaken: a port that was asked for cannot be had.
    """
    chosen = dict(kept)
    for part, port in asked.items():
        if part in kept:
            if kept[part] != port:
                raise PortTaken(f"{part} runs on port {kept[part]}; run `trimtab down` before it can move to {port}")
        elif port in chosen.values() or not is_free(port):
            raise PortTaken(f"port {port} for {part} is in use; leave --{part}-port away and a free one is picked")
        else:
            chosen[part] = port
    for part, port in usual.items():
        if part not in chosen:
            chosen[part] = port if port not in chosen.values() and is_free(port) else _any_free(set(chosen.values()))
    return chosen


def _any_free(taken: set[int]) -> int:
    """A port that nobody listens on and that is not promised to another part."""
    while True:
        with closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as trial:
            trial.bind((HOST, 0))
            port = int(trial.getsockname()[1])
        if port not in taken:
            return port
