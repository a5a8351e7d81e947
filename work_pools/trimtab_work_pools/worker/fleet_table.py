"""The fleet as a table among the artifacts in the Prefect UI: one artifact, kept current."""

from __future__ import annotations

import json
import re
from typing import Any

from prefect.client.orchestration import PrefectClient

from trimtab_work_pools.advertise import Advertisement
from trimtab_work_pools.ledger import Ledger
from trimtab_work_pools.resources import WHOLE

__all__ = ["FleetTableArtifact", "fleet_rows"]

_AGAIN_S = 10.0


def fleet_rows(fleet: tuple[Advertisement, ...]) -> list[dict[str, Any]]:
    """One row a node."""
    rows = []
    for one in fleet:
        free = Ledger(one.node, one.holdings).free()
        models = sorted({gpu.model for gpu in free.gpus})
        unwell = [gpu.index for gpu in free.gpus if not gpu.healthy]
        rows.append(
            {
                "node": free.name,
                "worker": one.worker,
                "GPUs": len(free.gpus),
                "models": ", ".join(models),
                "GPU share free": round(sum(gpu.share_free_milli for gpu in free.gpus) / WHOLE, 2),
                "GPU memory free (GiB)": round(sum(gpu.memory_free_mib for gpu in free.gpus) / 1024, 1),
                "CPUs free": f"{free.cpu_free_milli / 1000:g} of {free.cpu_total_milli / 1000:g}",
                "memory free (GiB)": round(free.memory_free_mib / 1024, 1),
                "runs": len(one.holdings),
                "labels": ", ".join(f"{key}={value}" for key, value in free.labels),
                "state": (one.closed or "draining")
                if one.draining
                else f"GPU {unwell} unhealthy"
                if unwell
                else "ready",
            }
        )
    return rows


class FleetTableArtifact:
    """Written by whichever worker comes first by name; changed in place, so that old ones do not pile up."""

    def __init__(self, client: PrefectClient, pool: str) -> None:
        self._client = client
        self._key = "trimtab-fleet-" + re.sub(r"[^a-z0-9]+", "-", pool.lower()).strip("-")
        self._shown: tuple[float, str] = (0.0, "")

    async def show(self, fleet: tuple[Advertisement, ...], now_s: float) -> None:
        """Writes the table if it has changed, at most every 10 s."""
        data = json.dumps(fleet_rows(fleet))
        shown_s, shown = self._shown
        if data == shown or now_s - shown_s < _AGAIN_S:
            return
        client = self._client._client  # the client has no method for these
        body = {"artifacts": {"key": {"any_": [self._key]}}, "limit": 1}
        found = (await client.post("/artifacts/filter", json=body)).json()
        if found:
            await client.patch(f"/artifacts/{found[0]['id']}", json={"data": data})
        else:
            table = {"key": self._key, "type": "table", "data": data, "description": "The fleet, as workers see it."}
            await client.post("/artifacts/", json=table)
        self._shown = (now_s, data)
