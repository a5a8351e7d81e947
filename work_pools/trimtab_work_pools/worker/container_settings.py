"""What a container is given of its host: the devices, CPUs and memory of the run's claim, and no more. Pure but for the
configuration that it changes.

Options are docker-py's (`containers.create`): device_requests, cpu_quota and cpu_period (time), cpuset_cpus (which),
mem_limit and memswap_limit, shm_size.
"""

from __future__ import annotations

from prefect_docker.worker import DockerWorkerJobConfiguration

from trimtab_work_pools.worker.host_claims import HostClaim

__all__ = ["confine"]

_PERIOD_US = 100_000
_LEAVE_STATE = "PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR"


def confine(
    configuration: DockerWorkerJobConfiguration, claim: HostClaim, cpus: tuple[int, ...], in_gang: bool
) -> list[str]:
    """Changes the configuration; returns a sentence for each wish of the deployment that is not followed, or that
    breaks what the run was promised.
    """
    wished = dict(configuration.container_create_kwargs or {})
    ours, said = _ours(claim, cpus), []
    for name in sorted(wished.keys() & {"device_requests", "restart_policy", "cpuset_cpus", "nano_cpus", *ours}):
        if name in ours or name in ("device_requests", "restart_policy"):
            said.append(f"container_create_kwargs.{name} is not followed: what a run gets is said in resources")
            wished.pop(name)
        elif name == "nano_cpus" and "cpu_quota" in ours:
            wished.pop(name)
    memory_mib = claim.holding.demand.memory_mib
    if memory_mib:
        if configuration.mem_limit:
            said.append("mem_limit is not followed: resources.memory_mib says how much memory the run has")
        configuration.mem_limit = f"{memory_mib}m"
        configuration.memswap_limit = configuration.memswap_limit or configuration.mem_limit
        # 64 MB, Docker's own, is too little for the data loaders of a training.
        wished.setdefault("shm_size", f"{max(64, memory_mib // 2)}m")
    if configuration.privileged:
        said.append("a privileged container can use all devices of the host, those of other runs too")
    if in_gang and not configuration.network_mode and not configuration.networks:
        configuration.network_mode = "host"  # the ranks of a gang reach each other by the addresses of their hosts
    # Prefect's supervisor in the container tells the flow to stop, waits for it, and leaves the next state to us.
    configuration.env.setdefault(_LEAVE_STATE, "relinquish")
    configuration.container_create_kwargs = wished | ours
    return said


def _ours(claim: HostClaim, cpus: tuple[int, ...]) -> dict[str, object]:
    found: dict[str, object] = {}
    if claim.devices:
        uuids = [uuid for uuid, _ in claim.devices]
        found["device_requests"] = [{"driver": "nvidia", "device_ids": uuids, "capabilities": [["gpu"]]}]
    if claim.holding.placement.cpu_milli:
        found |= {"cpu_period": _PERIOD_US, "cpu_quota": claim.holding.placement.cpu_milli * _PERIOD_US // 1000}
    if cpus:
        found["cpuset_cpus"] = ",".join(map(str, cpus))
    return found
