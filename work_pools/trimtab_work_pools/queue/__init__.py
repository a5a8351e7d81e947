"""Decides, for a whole fleet and queue, which run starts where now, what is stopped for it, and why the rest wait."""

from __future__ import annotations

from trimtab_work_pools.queue.explain import explain
from trimtab_work_pools.queue.planner import decide, plan

__all__ = ["decide", "explain", "plan"]
