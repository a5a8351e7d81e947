"""`prefect worker start`, that raises at its next poll once a file is there: an error nobody foresaw.

python failing_worker.py MARK ARGS...
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from prefect.cli import app

from trimtab_work_pools.worker import GpuProcessWorker

if __name__ == "__main__":
    mark = Path(sys.argv[1])
    poll = GpuProcessWorker.get_and_submit_flow_runs

    async def get_and_submit_flow_runs(self: GpuProcessWorker) -> list[Any]:
        if mark.exists() and self._joined:
            raise RuntimeError("nobody foresaw this")
        return await poll(self)

    GpuProcessWorker.get_and_submit_flow_runs = get_and_submit_flow_runs  # type: ignore[method-assign]
    sys.argv = ["prefect", *sys.argv[2:]]
    app()
