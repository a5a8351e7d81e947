"""Decides what a run is told of the devices it was given: environment variables, and the CPUs it is bound to.

Where each variable's meaning is written down:

| variable | source |
|---|---|
| CUDA_VISIBLE_DEVICES | CUDA C++ Programming Guide, "CUDA Environment Variables": UUIDs (MIG too), numbers |
| CUDA_DEVICE_ORDER | the same: PCI_BUS_ID numbers GPUs as the driver and nvidia-smi do |
| NVIDIA_VISIBLE_DEVICES | NVIDIA Container Toolkit, "Specialized Configurations with Docker"; `void`: none |
| CUDA_MPS_ACTIVE_THREAD_PERCENTAGE, CUDA_MPS_PINNED_DEVICE_MEM_LIMIT | NVIDIA Multi-Process Service guide, appendix |
| XLA_PYTHON_CLIENT_MEM_FRACTION (new name: XLA_CLIENT_MEM_FRACTION) | JAX, "GPU memory allocation" |
| TF_FORCE_GPU_ALLOW_GROWTH | TensorFlow guide, "Use a GPU", limiting GPU memory growth |
| CUPY_GPU_MEMORY_LIMIT | CuPy reference, "Environment variables" |
| FLAGS_fraction_of_gpu_memory_to_use | PaddlePaddle, "FLAGS", memory management |
| OMP_NUM_THREADS | OpenMP 5.2, section 21.1.2 |
| MKL_, OPENBLAS_, NUMEXPR_NUM_THREADS, POLARS_MAX_THREADS, LOKY_MAX_CPU_COUNT | the manual of each library |
| MASTER_ADDR, MASTER_PORT, WORLD_SIZE, RANK | PyTorch, torch.distributed, "Environment variable initialization" |
| LOCAL_RANK, LOCAL_WORLD_SIZE | PyTorch, torchrun, "Environment Variables" |
| NODE_RANK | PyTorch Lightning, "Run on an on-prem cluster" |
| PET_* | torchrun takes its options from them (torch/distributed/argparse_util.py) |

PyTorch has no variable for a share of memory that all its versions accept (an option that PYTORCH_CUDA_ALLOC_CONF does
not know stops the program), so TRIMTAB_GPU_MEMORY_FRACTION is there for `torch.cuda.set_per_process_memory_fraction`.
None of these is a fence: a program can take more than its share, except under MPS or on a MIG slice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import floor

from trimtab_work_pools.resources import WHOLE, Gpu, Grant, Node, Placement

__all__ = [
    "INDEX",
    "UUID",
    "VISIBLE",
    "DeviceError",
    "GangMember",
    "choose_cpus",
    "gang_environment",
    "port_environment",
    "run_environment",
]

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "POLARS_MAX_THREADS",
    "LOKY_MAX_CPU_COUNT",
)


VISIBLE = "CUDA_VISIBLE_DEVICES"
UUID, INDEX = "uuid", "index"
"""What `device_ids` may be."""


class DeviceError(LookupError):
    """A placement names a device that the node does not have; the text names both."""


@dataclass(frozen=True, slots=True)
class GangMember:
    """The place of one node in a gang: `rank` from 0, of `nodes`. The member of rank 0 listens on `master_port`."""

    rank: int
    nodes: int
    master_address: str
    master_port: int

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.nodes:
            raise ValueError(f"rank {self.rank} of a gang must be from 0 to {self.nodes - 1}")
        if not 0 < self.master_port < 65536:
            raise ValueError(f"master_port {self.master_port} must be from 1 to 65535")


def run_environment(
    placement: Placement,
    node: Node,
    gang: GangMember | None = None,
    own: Mapping[str, str] | None = None,
    device_ids: str = UUID,
    in_container: bool = False,
) -> dict[str, str]:
    """The variables to set for a run on `node`, over its `own` ones.

    Which devices it sees and its place in a gang are always ours to say; thread counts and memory fractions that the
    run sets itself stay. The GPUs are numbered in the run as in the placement, by ascending index. CUDA shows a process
    one MIG slice only, the first: give a run several slices only if it starts a process for each.

    `device_ids` "index": numbers instead of UUIDs, for tools that take nothing else; they are the driver's, or, in a
    container, count what is in it. A CUDA_VISIBLE_DEVICES of the run's own stays if it names nothing but what it was
    given.

    Raises DeviceError if the placement is for another node or names a GPU that the node does not have, if numbers
    cannot be had, and for a CUDA_VISIBLE_DEVICES that names other devices.
    """
    gpus = _granted(placement, node)
    uuids = ",".join(gpu.uuid for gpu, _ in gpus)
    explicit = (own or {}).get(VISIBLE)
    if explicit is not None:
        _check_explicit(explicit, [gpu for gpu, _ in gpus], node, in_container)
        visible = explicit
    elif device_ids == INDEX:
        visible = ",".join(str(number) for number in _numbers([gpu for gpu, _ in gpus], node, in_container))
    else:
        visible = uuids
    found = {VISIBLE: visible, "NVIDIA_VISIBLE_DEVICES": uuids or "void"}
    found |= _without(own or {}, _memory(gpus, own or {}) | _threads(placement))
    return found | (gang_environment(gang, len(gpus)) if gang else {})


def _numbers(gpus: Sequence[Gpu], node: Node, in_container: bool) -> list[int]:
    """What CUDA calls them with CUDA_DEVICE_ORDER=PCI_BUS_ID."""
    if parts := [gpu.uuid for gpu in gpus if gpu.mig_profile]:
        raise DeviceError(f"device_ids: index is not possible for MIG slice {parts[0]}: it has no number; use uuid")
    if in_container:
        return list(range(len(gpus)))
    last = max((gpu.index for gpu in gpus), default=0)
    unsure = [gpu.index for gpu in node.gpus if not gpu.mig_profile and not gpu.healthy and gpu.index < last]
    if unsure:
        raise DeviceError(
            f"device_ids: index is not possible while GPU {unsure[0]} of node {node.name!r} is not well, for the driver"
            " may number the others anew; use uuid"
        )
    return [gpu.index for gpu in gpus]


def _check_explicit(explicit: str, gpus: Sequence[Gpu], node: Node, in_container: bool) -> None:
    named = [part.strip() for part in explicit.split(",") if part.strip()]
    if named in ([], ["-1"], ["NoDevFiles"]):
        return
    numbered = any(part.isdecimal() for part in named)
    numbers = [str(number) for number in _numbers(gpus, node, in_container)] if numbered else []
    for part in named:
        by_uuid = part.startswith(("GPU-", "MIG-")) and sum(gpu.uuid.startswith(part) for gpu in gpus) == 1
        if not by_uuid and part not in numbers:
            has = ", ".join(f"GPU {gpu.index} ({gpu.uuid})" for gpu in gpus) or "no GPU"
            raise DeviceError(
                f"{VISIBLE}={explicit} in env names {part}, which the run was not given; it has {has}. Leave the"
                " variable out: the worker sets it, and device_ids: index makes it numbers"
            )


def choose_cpus(
    placement: Placement,
    node: Node,
    numa_cpus: Iterable[tuple[int, Iterable[int]]],
    load: Mapping[int, int] | None = None,
) -> tuple[int, ...]:
    """Ids of the CPUs to bind the run to, ascending: one for each CPU asked, a part of one counts as one.

    `numa_cpus` has each NUMA node with its usable CPUs, `load` how many runs are bound to a CPU already. CPUs that
    nobody is bound to come first, among them those on the NUMA nodes of the run's GPUs (without GPUs: of the fullest
    node that has room for all). Empty if no CPUs were asked for: then the run is bound to none. Raises DeviceError as
    run_environment.
    """
    load = load or {}
    wanted = -(-placement.cpu_milli // 1000)
    by_numa = {numa: tuple(cpus) for numa, cpus in numa_cpus}
    near = {gpu.numa_node for gpu, _ in _granted(placement, node)} - {None} or _roomy(by_numa, load, wanted)
    ordered = sorted((load.get(cpu, 0), numa not in near, cpu) for numa, cpus in by_numa.items() for cpu in cpus)
    return tuple(sorted(cpu for _, _, cpu in ordered[:wanted]))


def _roomy(by_numa: Mapping[int, tuple[int, ...]], load: Mapping[int, int], wanted: int) -> set[int | None]:
    """The NUMA node with the fewest free CPUs that are enough."""
    free = {numa: sum(not load.get(cpu) for cpu in cpus) for numa, cpus in by_numa.items()}
    enough = [(count, numa) for numa, count in free.items() if count >= wanted]
    return {min(enough)[1]} if enough else set()


def _granted(placement: Placement, node: Node) -> list[tuple[Gpu, Grant]]:
    if placement.node != node.name:
        raise DeviceError(f"a placement on node {placement.node!r} cannot be started on node {node.name!r}")
    gpus = {gpu.index: gpu for gpu in node.gpus}
    if unknown := [grant.index for grant in placement.grants if grant.index not in gpus]:
        has = ", ".join(str(index) for index in sorted(gpus)) or "none"
        raise DeviceError(f"node {node.name!r} has no GPU with index {unknown[0]}; it has {has}")
    return [(gpus[grant.index], grant) for grant in placement.grants]


def _memory(gpus: list[tuple[Gpu, Grant]], own: Mapping[str, str]) -> dict[str, str]:
    """Of several GPUs the least counts: frameworks take one figure for all."""
    if not gpus:
        return {}
    found = {}
    known = [(gpu, grant) for gpu, grant in gpus if gpu.memory_total_mib and grant.memory_mib]
    if len(known) == len(gpus):
        found["TRIMTAB_GPU_MEMORY_MIB"] = str(min(grant.memory_mib for _, grant in known))
        found["TRIMTAB_GPU_MEMORY_FRACTION"] = _fraction(known)
    if any(grant.share_milli < WHOLE for _, grant in gpus):
        found |= _share(gpus[0][1], found.get("TRIMTAB_GPU_MEMORY_FRACTION"), own)
    return found


def _share(grant: Grant, fraction: str | None, own: Mapping[str, str]) -> dict[str, str]:
    """What keeps frameworks, which by default take most of a GPU, to a share of it."""
    found = {
        "TRIMTAB_GPU_SHARE": f"{grant.share_milli / WHOLE:g}",
        "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": f"{max(1, grant.share_milli * 100 // WHOLE)}",
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    }
    if fraction is None:
        return found
    if "XLA_CLIENT_MEM_FRACTION" not in own:  # JAX stops when both names are set; older versions know the old one only
        found["XLA_PYTHON_CLIENT_MEM_FRACTION"] = fraction
    return found | {
        "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": f"0={grant.memory_mib}M",
        "CUPY_GPU_MEMORY_LIMIT": str(grant.memory_mib * 1024 * 1024),
        "FLAGS_fraction_of_gpu_memory_to_use": fraction,
    }


def _fraction(gpus: list[tuple[Gpu, Grant]]) -> str:
    """Rounded down, so that the shares of a GPU never add up to more than it has."""
    least = min(grant.memory_mib / gpu.memory_total_mib for gpu, grant in gpus)
    return f"{floor(least * 10_000) / 10_000:g}"


def _threads(placement: Placement) -> dict[str, str]:
    """Nothing for a run that asked for no CPUs: it may use what is idle."""
    count = max(1, placement.cpu_milli // 1000)
    return dict.fromkeys(THREAD_VARIABLES, str(count)) if placement.cpu_milli else {}


def _without(own: Mapping[str, str], found: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in found.items() if name not in own or name.startswith("TRIMTAB_")}


def port_environment(port: int, own: Mapping[str, str]) -> dict[str, str]:
    """Where the processes of one run on one node meet, each run at a port of its own: two torchruns beside each other
    would both take 29500. What the run sets itself stays.
    """
    if own.keys() & {"MASTER_PORT", "MASTER_ADDR", "PET_MASTER_PORT"}:
        return {}
    here, text = "127.0.0.1", str(port)
    return {"MASTER_ADDR": here, "MASTER_PORT": text, "PET_MASTER_ADDR": here, "PET_MASTER_PORT": text}


def gang_environment(gang: GangMember, gpus: int) -> dict[str, str]:
    """How a member with `gpus` GPUs finds the others, by the names that torch.distributed and torchrun read.

    One process on each node, which may start torchrun: that then numbers one process for each GPU itself.
    """
    address, port, rank, nodes = gang.master_address, str(gang.master_port), str(gang.rank), str(gang.nodes)
    return {
        "MASTER_ADDR": address,
        "MASTER_PORT": port,
        "WORLD_SIZE": nodes,
        "RANK": rank,
        "NODE_RANK": rank,
        "LOCAL_RANK": "0",
        "LOCAL_WORLD_SIZE": "1",
        "PET_NNODES": nodes,
        "PET_NODE_RANK": rank,
        "PET_NPROC_PER_NODE": str(max(1, gpus)),
        "PET_MASTER_ADDR": address,
        "PET_MASTER_PORT": port,
    }
