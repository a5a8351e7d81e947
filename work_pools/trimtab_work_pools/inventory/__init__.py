"""Reads what a host has: CPUs, memory, disk, labels, and its GPUs through NVML."""

from __future__ import annotations

from trimtab_work_pools.inventory.host import HostError, host_node
from trimtab_work_pools.inventory.nvml import Nvml

__all__ = ["HostError", "Nvml", "host_node"]
