"""A flow whose ranks meet at MASTER_ADDR:MASTER_PORT, as those of torch.distributed do, and add their numbers."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from pathlib import Path

from prefect import flow


@flow
def gang(folder: str, seconds: float, fail_rank: int = -1, lose_rank: int = -1) -> None:
    """Every rank writes a line when it starts; rank 0 writes the sum of all ranks when all have met. `lose_rank` is
    killed the first time, while rank 0 waits for its number.
    """
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    where = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
    with (Path(folder) / "gang.jsonl").open("a") as file:
        file.write(json.dumps({"rank": rank, "pid": os.getpid(), "node": os.environ["TRIMTAB_NODE"]}) + "\n")
    if rank == fail_rank:
        raise ValueError("this rank has no data")
    lost = Path(folder) / "lost"
    if rank == lose_rank and not lost.exists():
        lost.touch()
        rank = -1
    total = _listen(where, size) if rank == 0 else _call(where, rank)
    time.sleep(seconds)
    if rank == 0:
        (Path(folder) / "sum").write_text(str(total))


def _listen(where: tuple[str, int], size: int) -> int:
    with socket.create_server(("", where[1])) as server:
        calls = [server.accept()[0] for _ in range(size - 1)]
        total = sum(int(call.recv(16)) for call in calls)
        for call in calls:
            call.sendall(str(total).encode())
            call.close()
    return total


def _call(where: tuple[str, int], rank: int) -> int:
    end = time.monotonic() + 60
    while True:
        try:
            with socket.create_connection(where, timeout=60) as call:
                if rank < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                call.sendall(str(rank).encode())
                return int(call.recv(16))
        except ConnectionRefusedError:  # rank 0 does not listen yet
            if time.monotonic() > end:
                raise
            time.sleep(0.1)
