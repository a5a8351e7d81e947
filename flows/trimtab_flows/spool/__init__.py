"""Metrics that reach MLflow once, in order, whether or not its server is up when they are logged.

with MetricSpool(folder, run_id) as spool:
    spool.log({"loss": 0.31}, step=3)
"""

from __future__ import annotations

from trimtab_flows.spool.names import NameTooLong, escape, unescape
from trimtab_flows.spool.spool import MetricSpool, Replayed, SpoolFull, replay

__all__ = ["MetricSpool", "NameTooLong", "Replayed", "SpoolFull", "escape", "replay", "unescape"]
