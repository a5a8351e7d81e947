"""Tell a fresh Prefect server what the stack consists of. Run as a process of its own, inside the stack's environment.

It makes the work pool, saves the blocks, and gives runs that an earlier stop interrupted their next state.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

from trimtab_blocks.mlflow import MlflowTracking
from trimtab_blocks.stores import DirectoryStore
from trimtab_infra.stack.recover import recover
from trimtab_infra.stack.services import GOES_ON
from trimtab_work_pools.worker import GpuProcessWorker

__all__ = ["configure", "make_pool"]


def configure(client: SyncPrefectClient, pool: str, store: str, tracking_uri: str) -> list[str]:
    """Make the pool and the blocks, recover interrupted runs; returns what a person may want to know."""
    make_pool(client, pool)
    DirectoryStore(path=Path(store)).save("default", overwrite=True)
    MlflowTracking(tracking_uri=tracking_uri).save("default", overwrite=True)
    recovered = recover(client)
    return [f"{GOES_ON}{name}" for name in recovered.rescheduled]


def make_pool(client: SyncPrefectClient, pool: str) -> None:
    """A work pool for our workers, if there is none; one of another type gives way."""
    with suppress(ObjectNotFound):
        if client.read_work_pool(pool).type != GpuProcessWorker.type:  # made by an earlier version
            client.delete_work_pool(pool)
    template = GpuProcessWorker.get_default_base_job_template()
    with suppress(ObjectAlreadyExists):
        client.create_work_pool(WorkPoolCreate(name=pool, type=GpuProcessWorker.type, base_job_template=template))


if __name__ == "__main__":
    with get_client(sync_client=True) as client:
        sys.stdout.write("\n".join(configure(client, *sys.argv[1:])))
