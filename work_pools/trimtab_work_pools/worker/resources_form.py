"""The form in the Prefect UI for what a run needs, and the schema that checks it when a deployment is made."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from trimtab_work_pools.wishes import KEYS

__all__ = ["DEVICE_IDS", "DeviceIds", "Resources", "misplaced_keys"]

DeviceIds = Literal["uuid", "index"]
DEVICE_IDS = (
    "How CUDA_VISIBLE_DEVICES names the GPUs that a run was given: by uuid, or by index for tools that take only"
    " numbers (with CUDA_DEVICE_ORDER=PCI_BUS_ID; not for MIG slices)."
)
"""For the form."""


class Resources(BaseModel):
    """What the run needs of a node. Empty: any node, and as many such runs at a time as the worker's limit allows."""

    model_config = ConfigDict(extra="forbid")

    gpus: int | None = Field(default=None, ge=0, le=64, title="GPUs", description="Whole GPUs.")
    gpu_share: float | None = Field(
        default=None, gt=0, le=1, title="Share of a GPU", description="A part of one GPU instead: 0.25 is a quarter."
    )
    gpu_memory_mib: int | None = Field(
        default=None, ge=0, title="GPU memory (MiB)", description="The least memory of each GPU; of a share, its own."
    )
    gpu_compute_capability: str | None = Field(
        default=None, title="Compute capability", description="The least compute capability, like 8.0."
    )
    gpu_models: list[str] | str | None = Field(
        default=None, title="GPU models", description="Models that will do, by the names the driver gives them."
    )
    gpu_mig_profile: str | None = Field(default=None, title="MIG profile", description="A MIG slice, like 1g.10gb.")
    gpu_nvlink: bool | None = Field(
        default=None, title="NVLink", description="All its GPUs are linked with each other by NVLink."
    )
    cpus: float | None = Field(default=None, ge=0, title="CPUs")
    memory_mib: int | None = Field(default=None, ge=0, title="Host memory (MiB)")
    disk_mib: int | None = Field(default=None, ge=0, title="Disk (MiB)")
    labels: dict[str, str | list[str]] | None = Field(
        default=None, title="Node labels", description="Labels that the node must have, and the values allowed."
    )
    nodes: int | None = Field(default=None, ge=1, title="Nodes", description="Nodes at once, for a gang.")
    reads: list[str] | str | None = Field(
        default=None, title="Data", description="Digests of the snapshots it reads: it goes where they are, if it can."
    )
    team: str | None = Field(default=None, title="Team", description="Whose fair share it counts to.")
    priority: int | None = Field(
        default=None, ge=-1000, le=1000, title="Business priority", description="More is first."
    )
    deadline: str | None = Field(default=None, title="Deadline", description="A time with its zone.")
    preemptible: bool | None = Field(
        default=None, title="Preemptible", description="It may be stopped for a more important run, and goes on later."
    )
    expected_s: float | None = Field(default=None, gt=0, title="Expected run time (s)", description="The median.")
    expected_sigma: float | None = Field(
        default=None, ge=0, title="Uncertainty of the run time", description="The standard deviation of its logarithm."
    )


def misplaced_keys(variables: Collection[str]) -> dict[str, Any]:
    """For `patternProperties` of a JSON schema: keys of a demand that are none of the `variables` have no value that is
    allowed, and the error, which names the one that would be, says where they belong.
    """
    return {f"^{key}$": {"const": f"inside: resources: {{{key}: ...}}"} for key in KEYS if key not in variables}
