"""Workers that advertise what their host has, and pick the runs that fit it best."""

from __future__ import annotations

from trimtab_work_pools.worker.gpu_docker import GpuDockerWorker
from trimtab_work_pools.worker.gpu_process import GpuProcessWorker

__all__ = ["GpuDockerWorker", "GpuProcessWorker"]
