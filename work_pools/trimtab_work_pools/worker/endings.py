"""Tells a run that crashed from one that had completed and was ended while its process was on its way out."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.types._datetime import now

__all__ = ["completed_after_all"]


async def completed_after_all(client: PrefectClient, run: FlowRun) -> bool:
    """Whether `run` had completed before it was reported as crashed; if so it is Completed again.

    Prefect's engine (3.8) takes a signal that comes between its report and its exit for the end of the run, and writes
    Crashed over Completed. Such a run would be run twice.
    """
    if run.state is None or not run.state.is_crashed():
        return False
    states = sorted(await client.read_flow_run_states(run.id), key=lambda state: state.timestamp)
    before = next((state for state in reversed(states) if not state.is_crashed()), None)
    if before is None or not before.is_completed():
        return False
    again: Any = before.model_copy(update={"id": uuid4(), "timestamp": now("UTC")})
    await client.set_flow_run_state(run.id, again, force=True)
    return True
