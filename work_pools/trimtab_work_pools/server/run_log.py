"""Writes lines into the log of a flow run from outside of it: the log is what the Prefect UI shows first of a run."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from typing import cast
from uuid import UUID

import httpx
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import LogCreate
from prefect.logging import get_logger
from prefect.types._datetime import DateTime, now

__all__ = ["NewReasons", "write_run_logs"]

_AGAIN_S = 600.0


async def write_run_logs(client: PrefectClient, lines: Iterable[tuple[UUID, str]]) -> None:
    """All of them in one call. What cannot be written is left out: it is said in the state of the run too."""
    logs = [
        LogCreate(
            name="trimtab.worker",
            level=logging.INFO,
            message=line,
            timestamp=cast(DateTime, now("UTC")),
            flow_run_id=run_id,
        )
        for run_id, line in lines
    ]
    if not logs:
        return
    try:
        await client.create_logs(logs)
    except httpx.HTTPError as error:
        get_logger("trimtab.worker").debug("%d lines for logs of runs are lost: %s", len(logs), error)


class NewReasons:
    """Which reasons are new to the log of a run: figures and times in them change all the time, and are no news."""

    def __init__(self) -> None:
        self._written: dict[UUID, dict[str, float]] = {}

    def new(self, run_id: UUID, reason: str, now_s: float) -> bool:
        """Whether such a reason was not given for this run in the last ten minutes. It is from here on."""
        kind = re.sub(r"[\d.:]+", "#", reason)
        given = self._written.setdefault(run_id, {})
        before_s = given.get(kind)
        if before_s is not None and now_s - before_s < _AGAIN_S:
            return False
        given[kind] = now_s
        return True

    def keep(self, run_ids: set[UUID]) -> None:
        """Forgets the other runs."""
        self._written = {run_id: given for run_id, given in self._written.items() if run_id in run_ids}
