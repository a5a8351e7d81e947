"""`prefect worker start`, in a process that kills itself (SIGKILL) the first time it comes to a point.

python stopped_worker.py POINT MARK ARGS...: MARK is a file that says that the point was reached once already.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefect.cli import app

from trimtab_work_pools.worker import GpuProcessWorker
from trimtab_work_pools.worker.control_plane import ControlPlane
from trimtab_work_pools.worker.dispatcher import Dispatcher
from trimtab_work_pools.worker.host_claims import HostClaims

#: Point -> (class, method, whether it is after the method rather than before it).
POINTS: dict[str, tuple[type, str, bool]] = {
    "devices claimed": (HostClaims, "acquire", True),
    "run claimed": (GpuProcessWorker, "_propose_pending_state", True),
    "environment made": (Dispatcher, "environment", True),
    "process there": (Dispatcher, "started", False),
    "process entered": (Dispatcher, "started", True),
    "process gone": (Dispatcher, "ended", False),
    "going back": (ControlPlane, "back_to_queue", False),
    "gone back": (ControlPlane, "back_to_queue", True),
}


def stop_at(point: str, mark: Path) -> None:
    owner, name, after = POINTS[point]
    method: Callable[..., Any] = getattr(owner, name)

    def end() -> None:
        if not mark.exists():
            mark.write_text(point)
            os.kill(os.getpid(), signal.SIGKILL)

    def plain(*args: Any, **kwargs: Any) -> Any:
        if not after:
            end()
        found = method(*args, **kwargs)
        if after:
            end()
        return found

    async def awaited(*args: Any, **kwargs: Any) -> Any:
        if not after:
            end()
        found = await method(*args, **kwargs)
        if after:
            end()
        return found

    setattr(owner, name, awaited if method.__code__.co_flags & 0x80 else plain)


if __name__ == "__main__":
    stop_at(sys.argv[1], Path(sys.argv[2]))
    sys.argv = ["prefect", *sys.argv[3:]]
    app()
