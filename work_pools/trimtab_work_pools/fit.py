"""Decides whether a demand can run on a node, on which exact devices, or which dimension refuses it and by how much."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from trimtab_work_pools.resources import WHOLE, Demand, Gpu, Grant, Node, Placement

__all__ = ["Dimension", "Fit", "Refused", "fit", "fit_idle", "least_share_memory_mib", "options"]

_Mib = TypeVar("_Mib", int, NDArray[np.int64])


class Dimension(StrEnum):
    """What refuses a demand. The values are API; the order is the order in which they are looked at."""

    LABELS = "labels"
    GPU_MODEL = "gpu_model"
    GPU_MIG_PROFILE = "gpu_mig_profile"
    GPU_COMPUTE_CAPABILITY = "gpu_compute_capability"
    GPU_HEALTH = "gpu_health"
    GPU_COUNT = "gpu_count"
    GPU_MEMORY = "gpu_memory"
    GPU_SHARE = "gpu_share"
    GPU_NVLINK = "gpu_nvlink"
    CPUS = "cpus"
    MEMORY = "memory"
    DISK = "disk"


_Tightness = tuple[int, int, int, int, int]


@dataclass(frozen=True, slots=True)
class Fit:
    """It fits, on these devices."""

    placement: Placement


@dataclass(frozen=True, slots=True)
class Refused:
    """It does not fit: on `dimension` it needs `needed`; the most there is is `available` (the unit is in `text`)."""

    node: str
    dimension: Dimension
    needed: float
    available: float
    text: str

    @property
    def short(self) -> float:
        """By how much it does not fit."""
        return self.needed - self.available


def fit(node: Node, demand: Demand) -> Fit | Refused:
    """The tightest devices of `node` for one node's part of `demand`, or the first dimension that refuses it.

    Of a gang this looks at one node only. Tightest: the GPU with the least left, then the least memory, then the fewest
    NVLink peers, then the lowest index.
    """
    found = options(node, demand)
    return found if isinstance(found, Refused) else Fit(found[0])


def fit_idle(node: Node, demand: Demand) -> Fit | Refused:
    """The same if nothing were given to runs: a refusal here does not pass by waiting."""
    gpus = tuple(replace(gpu, share_given_milli=0, memory_given_mib=0) for gpu in node.gpus)
    return fit(replace(node, gpus=gpus, cpu_given_milli=0, memory_given_mib=0, disk_given_mib=0), demand)


def options(node: Node, demand: Demand) -> tuple[Placement, ...] | Refused:
    """Every choice of devices that differs in what it leaves, tightest first; or the refusal."""
    refused = _labels(node, demand) or _host(node, demand)
    sets = _device_sets(node, demand) if refused is None or refused.dimension is not Dimension.LABELS else refused
    if isinstance(sets, Refused):  # GPUs are scarcer than CPUs: name them first
        return sets
    if refused is not None:
        return refused
    return tuple(Placement(node.name, grants, demand.cpu_milli, demand.memory_mib, demand.disk_mib) for grants in sets)


def _labels(node: Node, demand: Demand) -> Refused | None:
    has = dict(node.labels)
    for key, allowed in demand.node_labels:
        if has.get(key) not in allowed:
            wanted = " or ".join(sorted(allowed))
            text = f"needs {key}={wanted}; the node has {f'{key}={has[key]}' if key in has else f'no label {key}'}"
            return Refused(node.name, Dimension.LABELS, 1, 0, text)
    return None


def _host(node: Node, demand: Demand) -> Refused | None:
    if demand.cpu_milli > node.cpu_free_milli:
        left = f"{node.cpu_free_milli / 1000:g} of {node.cpu_total_milli / 1000:g} free"
        asked = "1 CPU" if demand.cpu_milli == 1000 else f"{demand.cpu_milli / 1000:g} CPUs"
        text = f"needs {asked}; {left}"
        return Refused(node.name, Dimension.CPUS, demand.cpu_milli, node.cpu_free_milli, text)
    for dimension, what, needed, free in (
        (Dimension.MEMORY, "host memory", demand.memory_mib, node.memory_free_mib),
        (Dimension.DISK, "disk", demand.disk_mib, node.disk_free_mib),
    ):
        if needed > free:
            text = f"needs {_size(needed)} of {what}; {_size(free)} free"
            return Refused(node.name, dimension, needed, free, text)
    return None


def _device_sets(node: Node, demand: Demand) -> tuple[tuple[Grant, ...], ...] | Refused:
    """What of which GPUs could be given, tightest first."""
    if demand.gpus == 0:
        return ((),)
    suited = _suited(node, demand)
    if isinstance(suited, Refused):
        return suited
    if demand.shared:
        return _shares(node, suited, demand)
    idle = [gpu for gpu in suited if gpu.idle]
    if len(idle) < demand.gpus:
        free = f"{len(idle)} of {_gpus(len(suited))} that would do {_are(len(idle))} free"
        text = f"needs {_gpus(demand.gpus)} whole; {free}"
        return Refused(node.name, Dimension.GPU_COUNT, demand.gpus, len(idle), text)
    roomy = [gpu for gpu in idle if gpu.memory_free_mib >= demand.gpu_memory_mib]
    if len(roomy) < demand.gpus:
        last_mib = sorted((gpu.memory_free_mib for gpu in idle), reverse=True)[demand.gpus - 1]
        return _memory_refused(node, demand, last_mib, idle)
    chosen = _linked(roomy, demand.gpus) if demand.gpu_nvlink else _unlinked(roomy, demand.gpus)
    if chosen is None:
        most = next(n for n in range(demand.gpus - 1, 0, -1) if _linked(roomy, n))
        text = (
            f"needs {demand.gpus} NVLinked GPUs; at most {most} of {_gpus(len(roomy))} free are linked with each other"
        )
        return Refused(node.name, Dimension.GPU_NVLINK, demand.gpus, most, text)
    return (tuple(Grant(gpu.index, WHOLE, gpu.memory_free_mib) for gpu in sorted(chosen, key=lambda gpu: gpu.index)),)


def _suited(node: Node, demand: Demand) -> list[Gpu] | Refused:
    """The healthy GPUs of the right kind, free or not; or what rules them out."""
    models, profile, capability = demand.gpu_models, demand.gpu_mig_profile, demand.gpu_compute_capability
    suited = [
        gpu
        for gpu in node.gpus
        if gpu.healthy
        and gpu.mig_profile == profile
        and gpu.compute_capability >= capability
        and (not models or gpu.model in models)
    ]
    return suited if len(suited) >= demand.gpus else _unsuited(node, demand)


def _unsuited(node: Node, demand: Demand) -> Refused:
    """The refusal by the first sieve that leaves too few."""
    gpus, wanted = node.gpus, _gpus(demand.gpus)
    major, minor = demand.gpu_compute_capability
    models, profile = " or ".join(sorted(demand.gpu_models)), demand.gpu_mig_profile
    # Without a profile whole GPUs are meant: a slice is smaller than what its model's name promises.
    whole = "that is no MIG slice" if demand.gpus == 1 else "that are no MIG slices"
    healthy = "that is healthy" if demand.gpus == 1 else "that are healthy"
    sieves = (
        (Dimension.GPU_COUNT, _kind(demand), [True] * len(gpus)),
        (Dimension.GPU_MODEL, f"of model {models}", [not models or g.model in demand.gpu_models for g in gpus]),
        (
            Dimension.GPU_MIG_PROFILE,
            f"with MIG profile {profile}" if profile else whole,
            [g.mig_profile == profile for g in gpus],
        ),
        (
            Dimension.GPU_COMPUTE_CAPABILITY,
            f"of compute capability {major}.{minor} or more",
            [g.compute_capability >= (major, minor) for g in gpus],
        ),
        (Dimension.GPU_HEALTH, healthy, [g.healthy for g in gpus]),
    )
    keep = [True] * len(gpus)
    for dimension, kind, passes in sieves:
        before, keep = keep, [one and two for one, two in zip(keep, passes, strict=True)]
        if sum(keep) < demand.gpus:
            some = str(len(gpus)) if dimension is Dimension.GPU_COUNT else f"{sum(keep)} of {_gpus(len(gpus))}"
            has = some if gpus else "none"
            instead = _instead(dimension, [gpu for gpu, kept in zip(gpus, before, strict=True) if kept])
            text = f"needs {wanted} {kind}".rstrip() + f"; the node has {has}{instead}"
            return Refused(node.name, dimension, demand.gpus, sum(keep), text)
    raise AssertionError("the sieves together are what _suited asks")


def _kind(demand: Demand) -> str:
    """What kind of GPU was asked for, in short."""
    models, (major, minor) = " or ".join(sorted(demand.gpu_models)), demand.gpu_compute_capability
    profile = demand.gpu_mig_profile
    asked = (
        f"of model {models}" * bool(models),
        f"with MIG profile {profile}" * bool(profile),
        f"of compute capability {major}.{minor} or more" * bool(major),
    )
    return " ".join(filter(None, asked))


def _instead(dimension: Dimension, gpus: Sequence[Gpu]) -> str:
    """What the GPUs that came to a sieve are, by what it looks at."""
    if dimension is Dimension.GPU_MODEL:
        there = Counter(gpu.model or "no name" for gpu in gpus)
    elif dimension is Dimension.GPU_MIG_PROFILE:
        there = Counter(f"MIG slices {gpu.mig_profile}" if gpu.mig_profile else "not cut into slices" for gpu in gpus)
    elif dimension is Dimension.GPU_COMPUTE_CAPABILITY:
        there = Counter("{}.{}".format(*gpu.compute_capability) for gpu in gpus)
    elif dimension is Dimension.GPU_HEALTH:
        ill = ", ".join(map(str, sorted(gpu.index for gpu in gpus if not gpu.healthy)))
        return f" (not healthy: gpu {ill})"
    else:
        return ""
    return f" ({', '.join(f'{count} {what}' for what, count in sorted(there.items()))})" if there else ""


def _shares(node: Node, suited: Sequence[Gpu], demand: Demand) -> tuple[tuple[Grant, ...], ...] | Refused:
    """One choice for each distinct GPU that has the share and the memory."""
    share = demand.gpu_share_milli
    enough = [gpu for gpu in suited if gpu.share_free_milli >= share]
    if not enough:
        best = max(suited, key=lambda gpu: (gpu.share_free_milli, -gpu.index))
        free = f"the most free is {best.share_free_milli / WHOLE:g} on gpu {best.index}"
        text = f"needs a share of {share / WHOLE:g} of one GPU; {free}"
        return Refused(node.name, Dimension.GPU_SHARE, share, best.share_free_milli, text)
    roomy = [gpu for gpu in enough if gpu.memory_free_mib >= _share_memory_mib(gpu, demand)]
    if not roomy:
        best = max(enough, key=lambda gpu: (gpu.memory_free_mib, -gpu.index))
        return _memory_refused(
            node, replace(demand, gpu_memory_mib=_share_memory_mib(best, demand)), best.memory_free_mib, enough
        )
    distinct = {_tightness(gpu)[:-1]: gpu for gpu in sorted(roomy, key=_tightness, reverse=True)}
    chosen = sorted(distinct.values(), key=_tightness)
    return tuple((Grant(gpu.index, share, _share_memory_mib(gpu, demand)),) for gpu in chosen)


def _share_memory_mib(gpu: Gpu, demand: Demand) -> int:
    """Memory promised with a share: what it says it will use, or as large a part of the GPU's memory as of its time.

    Of the memory that others leave, and up to 1/32 less where that is all there is: a driver keeps some for each
    process, and two halves must fit a GPU all the same.
    """
    if demand.gpu_memory_mib:
        return demand.gpu_memory_mib
    part_mib = gpu.memory_for_runs_mib * demand.gpu_share_milli // WHOLE
    least_mib = least_share_memory_mib(gpu.memory_for_runs_mib, demand.gpu_share_milli)
    return gpu.memory_free_mib if least_mib <= gpu.memory_free_mib < part_mib else part_mib


def least_share_memory_mib(usable_mib: _Mib, share_milli: int) -> _Mib:
    """The least free memory with which a share that names none is given, of GPUs with `usable_mib` for runs in all."""
    part_mib = usable_mib * share_milli // WHOLE
    return part_mib - part_mib // 32


def _memory_refused(node: Node, demand: Demand, free_mib: int, among: Sequence[Gpu]) -> Refused:
    best = max(among, key=lambda gpu: (gpu.memory_free_mib, -gpu.index))
    each = "one GPU" if demand.gpus == 1 else f"each of {demand.gpus} GPUs"
    needed_mib, most_mib = demand.gpu_memory_mib, best.memory_free_mib
    alike = _size(needed_mib) in (_size(most_mib), _size(free_mib))  # rounded, they would say that it fits
    size = "{} MiB".format if alike else _size
    text = f"needs {size(needed_mib)} on {each}; the most free is {size(most_mib)} on gpu {best.index}"
    if demand.gpus > 1:
        text += f", and {size(free_mib)} on the last of {demand.gpus}"
    return Refused(node.name, Dimension.GPU_MEMORY, demand.gpu_memory_mib, free_mib, text)


def _tightness(gpu: Gpu) -> _Tightness:
    """Least first: what would be wasted by giving this GPU. Only the index tells equal GPUs apart."""
    numa = -1 if gpu.numa_node is None else gpu.numa_node
    return (gpu.share_free_milli, gpu.memory_free_mib, len(gpu.nvlink_peers), numa, gpu.index)


def _unlinked(gpus: Sequence[Gpu], count: int) -> Sequence[Gpu] | None:
    """The `count` GPUs to part with: of one NUMA node if it can be (the fullest), then linked, then the tightest."""
    by_numa: dict[int | None, list[Gpu]] = {}
    for gpu in gpus:
        by_numa.setdefault(gpu.numa_node, []).append(gpu)
    groups = [group for group in by_numa.values() if len(group) >= count]
    group = min(groups, key=lambda g: (len(g), min(_tightness(gpu) for gpu in g))) if groups else gpus
    if count > 1 and (linked := _linked(group, count)):
        return linked
    return sorted(group, key=_tightness)[:count]


def _linked(gpus: Sequence[Gpu], count: int) -> tuple[Gpu, ...] | None:
    """`count` GPUs that are all linked with each other, from the smallest NVLink island that has as many."""
    free = {gpu.index for gpu in gpus}
    if all(len(gpu.nvlink_peers & free) == len(free) - 1 for gpu in gpus):  # one island: every set is linked
        return tuple(sorted(gpus, key=_tightness)[:count]) if len(gpus) >= count else None

    def broken(clique: tuple[Gpu, ...]) -> tuple[int, list[_Tightness]]:
        """Links to GPUs that stay behind."""
        taken = {gpu.index for gpu in clique}
        links = sum(len((gpu.nvlink_peers & free) - taken) for gpu in clique)
        return links, sorted(_tightness(gpu) for gpu in clique)

    return min(_cliques(gpus, count), key=broken, default=None)


def _cliques(gpus: Iterable[Gpu], count: int) -> Iterator[tuple[Gpu, ...]]:
    """Sets of `count` mutually linked GPUs; at most 2,000 are looked at (all of C(12, 6))."""
    ordered = sorted(gpus, key=_tightness)
    left = [2000]

    def grow(chosen: tuple[Gpu, ...], rest: Sequence[Gpu]) -> Iterator[tuple[Gpu, ...]]:
        if len(chosen) == count:
            left[0] -= 1
            yield chosen
            return
        for place, gpu in enumerate(rest):
            if left[0] <= 0 or len(chosen) + len(rest) - place < count:
                return
            after = [other for other in rest[place + 1 :] if other.index in gpu.nvlink_peers]
            yield from grow((*chosen, gpu), after)

    return grow((), ordered)


def _gpus(count: int) -> str:
    return "1 GPU" if count == 1 else f"{count} GPUs"


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _size(mib: int) -> str:
    return f"{mib / 1024:.1f} GiB" if mib >= 1024 else f"{mib} MiB"
