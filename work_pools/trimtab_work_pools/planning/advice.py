"""What would change a refusal that does not pass by waiting: what the fleet has instead, and what to do. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches

from trimtab_work_pools.fit import Dimension, Refused, fit_idle
from trimtab_work_pools.resources import WHOLE, Demand, Node

__all__ = ["advise", "nearest"]


def advise(nodes: Sequence[Node], demand: Demand) -> str:
    """A sentence on the dimension by which the nearest of `nodes` refuses `demand`, even idle; if some can hold it, on
    how many a gang lacks; for no nodes, what to start. Names of nodes do not matter.
    """
    if not nodes:
        return "start a worker on a node that has it"
    refusals = [found for node in nodes if isinstance(found := fit_idle(node, demand), Refused)]
    enough = len(nodes) - len(refusals)
    if enough:
        are = "is 1" if enough == 1 else f"are {enough}"
        return f"it needs {demand.nodes} such nodes at once, and there {are}: ask for fewer nodes, or add some"
    order = list(Dimension)
    nearest_miss = max(refusals, key=lambda one: (order.index(one.dimension), -one.short))
    return _ADVICE[nearest_miss.dimension](nodes, demand)


def nearest(asked: Iterable[str], there: Sequence[str]) -> str:
    """Of what is `there`, what was most likely meant; "" if nothing is like it. Case does not matter."""
    lower = {one.lower(): one for one in there}
    for one in sorted(asked):
        within = sorted(name for name in lower if one.lower() in name or name in one.lower())
        close = get_close_matches(one.lower(), list(lower), n=1, cutoff=0.4)
        for name in (*within, *close):
            return lower[name]
    return ""


def _labels(nodes: Sequence[Node], demand: Demand) -> str:
    labels = [dict(node.labels) for node in nodes]
    for key, allowed in demand.node_labels:
        there = sorted({one[key] for one in labels if key in one})
        if not allowed & set(there):
            has = f"nodes here have {key}={' or '.join(there)}" if there else f"no node here has a label {key}"
            start = f"start a worker with TRIMTAB_NODE_LABELS={key}={sorted(allowed)[0]}"
            return f"{has}{_meant(allowed, there)}: {'name one of these, or ' if there else ''}{start}"
    return "no node here has all these labels together: name fewer, or start a worker that has them"


def _models(nodes: Sequence[Node], demand: Demand) -> str:
    there = sorted({gpu.model for node in nodes for gpu in node.gpus if gpu.model})
    return f"GPU models here: {', '.join(there)}{_meant(demand.gpu_models, there)}: name one of these, or add a node"


def _profiles(nodes: Sequence[Node], demand: Demand) -> str:
    there = sorted({gpu.mig_profile for node in nodes for gpu in node.gpus if gpu.mig_profile})
    if not demand.gpu_mig_profile:
        return f"GPUs here are cut into MIG slices: name one by gpu_mig_profile ({', '.join(there)}), or add a node"
    if not there:
        return "no GPU here is cut into MIG slices: leave gpu_mig_profile out, or cut one (nvidia-smi mig -cgi)"
    meant = _meant({demand.gpu_mig_profile}, there)
    return f"MIG profiles here: {', '.join(there)}{meant}: name one of these, ask for fewer, or cut others"


def _capability(nodes: Sequence[Node], demand: Demand) -> str:
    major, minor = max((gpu.compute_capability for node in nodes for gpu in node.gpus), default=(0, 0))
    return f"the highest compute capability here is {major}.{minor}: ask for that, or add a node with newer GPUs"


def _health(nodes: Sequence[Node], _: Demand) -> str:
    return "the log of its worker says what the GPU that is not healthy needs: mend it, or add a node"


def _count(nodes: Sequence[Node], demand: Demand) -> str:
    most = max((len([gpu for gpu in node.gpus if gpu.healthy]) for node in nodes), default=0)
    if not most:
        return "no node here has a GPU that its worker can see: add one, or leave gpus out"
    gang = f", for several nodes (nodes: N, gpus: {most})" if demand.gpus > most and demand.nodes == 1 else ""
    return f"the most on one node is {most}: ask for at most that{gang}, or add a larger node"


def _gpu_memory(nodes: Sequence[Node], _: Demand) -> str:
    most_mib = max((gpu.memory_for_runs_mib for node in nodes for gpu in node.gpus if gpu.healthy), default=0)
    return f"the most on one GPU is {most_mib} MiB: ask for gpu_memory_mib of at most that, or add a larger GPU"


def _share(nodes: Sequence[Node], demand: Demand) -> str:
    return f"no GPU here can give a share of {demand.gpu_share_milli / WHOLE:g}: ask for less of one, or add a node"


def _nvlink(nodes: Sequence[Node], demand: Demand) -> str:
    return (
        f"no node here has {demand.gpus} GPUs that are all linked: ask for fewer, leave gpu_nvlink out, or add a node"
    )


def _most(what: str, key: str, unit: str, of: Callable[[Node], float]) -> Callable[[Sequence[Node], Demand], str]:
    def advice(nodes: Sequence[Node], _: Demand) -> str:
        most = f"{max(map(of, nodes)):g}{unit}"
        return f"the most {what} on one node is {most}: ask for {key} of at most that, or add a larger node"

    return advice


def _meant(asked: Iterable[str], there: Sequence[str]) -> str:
    name = nearest(asked, there)
    return f" (did you mean {name}?)" if name else ""


_ADVICE: dict[Dimension, Callable[[Sequence[Node], Demand], str]] = {
    Dimension.LABELS: _labels,
    Dimension.GPU_MODEL: _models,
    Dimension.GPU_MIG_PROFILE: _profiles,
    Dimension.GPU_COMPUTE_CAPABILITY: _capability,
    Dimension.GPU_HEALTH: _health,
    Dimension.GPU_COUNT: _count,
    Dimension.GPU_MEMORY: _gpu_memory,
    Dimension.GPU_SHARE: _share,
    Dimension.GPU_NVLINK: _nvlink,
    Dimension.CPUS: _most("CPUs", "cpus", "", lambda node: node.cpu_total_milli / 1000),
    Dimension.MEMORY: _most("host memory", "memory_mib", " MiB", lambda node: node.memory_total_mib),
    Dimension.DISK: _most("disk", "disk_mib", " MiB", lambda node: node.disk_total_mib),
}
