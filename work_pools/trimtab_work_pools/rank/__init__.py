"""Decides which node suits a demand best: where it leaves the fewest GPUs that no demand to come could use."""

from __future__ import annotations

from trimtab_work_pools.rank.stranding import Ranking, StrandingRank

__all__ = ["Ranking", "StrandingRank"]
