"""What a run is told of the devices it was given, as environment variables. Pure.

- `CUDA_VISIBLE_DEVICES` with UUIDs of GPUs or MIG slices, and `CUDA_DEVICE_ORDER=PCI_BUS_ID`: CUDA C++ Programming
  Guide, "CUDA Environment Variables". A run without GPUs gets it empty, so that it sees none.
- `XLA_PYTHON_CLIENT_MEM_FRACTION`: JAX documentation, "GPU memory allocation". `TRIMTAB_GPU_MEMORY_FRACTION` and
  `TRIMTAB_GPU_MEMORY_MIB` are for `torch.cuda.set_per_process_memory_fraction` and whatever else takes a number:
  PyTorch reads no fraction from the environment.
- `OMP_NUM_THREADS`, `MKL_NUM_THREADS`, `OPENBLAS_NUM_THREADS`, `NUMEXPR_MAX_THREADS`, `POLARS_MAX_THREADS`: the
  documentation of each; as many as CPUs were given, where that was said.
"""

from __future__ import annotations

from trimtab_work_pools.resources import WHOLE, Node, Placement

__all__ = ["run_environment"]

_THREADS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_MAX_THREADS",
    "POLARS_MAX_THREADS",
)


def run_environment(node: Node, placement: Placement, claim_id: str) -> dict[str, str]:
    """The variables for a run that holds `placement` on `node`."""
    by_index = {gpu.index: gpu for gpu in node.gpus}
    env = {
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": ",".join(by_index[index].uuid for index in placement.gpus),
        "TRIMTAB_NODE": node.name,
        "TRIMTAB_CLAIM": claim_id,
    }
    if placement.grants and placement.grants[0].share_milli < WHOLE:
        grant = placement.grants[0]
        total_mib = by_index[grant.index].memory_total_mib
        fraction = grant.memory_mib / total_mib if total_mib and grant.memory_mib else grant.share_milli / WHOLE
        env["TRIMTAB_GPU_SHARE"] = f"{grant.share_milli / WHOLE:g}"
        env["TRIMTAB_GPU_MEMORY_FRACTION"] = env["XLA_PYTHON_CLIENT_MEM_FRACTION"] = f"{fraction:.4g}"
        if grant.memory_mib:
            env["TRIMTAB_GPU_MEMORY_MIB"] = str(grant.memory_mib)
    if placement.cpu_milli:
        env |= dict.fromkeys(_THREADS, str(max(1, placement.cpu_milli // 1000)))
    return env
