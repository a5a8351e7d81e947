"""What a container is given, and what a claim on a container counts; no engine is needed."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prefect_docker.worker import DockerWorkerJobConfiguration

from trimtab_work_pools.diagnosis import Cause, Ended, Largest, diagnose
from trimtab_work_pools.host.clock import SYSTEM
from trimtab_work_pools.host.process import find
from trimtab_work_pools.ledger import Holding
from trimtab_work_pools.resources import Demand, Grant, Placement
from trimtab_work_pools.worker.container_settings import confine
from trimtab_work_pools.worker.containers import exit_code
from trimtab_work_pools.worker.host_claims import HostClaim, HostClaims, claim_from_text, claim_to_text


def claim(*devices: str, share: int = 1000, memory_mib: int = 0, cpu_milli: int = 0, run_id: str = "r1") -> HostClaim:
    placement = Placement("a", tuple(Grant(i, share) for i in range(len(devices))), cpu_milli, memory_mib)
    holding = Holding(run_id, Demand(memory_mib=memory_mib), placement, 0.0, 0.0, "c1")
    held = tuple((uuid, share) for uuid in devices)
    return HostClaim("c1", "w", os.getpid(), 1, "p", holding, held, SYSTEM.boot_id, in_container=True)


def confined(
    claim: HostClaim, cpus: tuple[int, ...] = (), in_gang: bool = False, **wished: Any
) -> tuple[Any, list[str]]:
    configuration = DockerWorkerJobConfiguration(image="i:1", **wished)
    return configuration, confine(configuration, claim, cpus, in_gang)


def test_a_container_gets_its_devices_cpus_and_memory() -> None:
    made, said = confined(claim("GPU-a", "MIG-b", memory_mib=1000, cpu_milli=1500), (2, 5))
    assert said == []
    assert made.container_create_kwargs == {
        "device_requests": [{"driver": "nvidia", "device_ids": ["GPU-a", "MIG-b"], "capabilities": [["gpu"]]}],
        "cpu_period": 100_000,
        "cpu_quota": 150_000,
        "cpuset_cpus": "2,5",
        "shm_size": "500m",
    }
    assert (made.mem_limit, made.memswap_limit) == ("1000m", "1000m")
    assert made.env["PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR"] == "relinquish"


def test_nothing_asked_nothing_limited() -> None:
    made, said = confined(claim(), mem_limit="2g", container_create_kwargs={"shm_size": "1g", "nano_cpus": 10**9})
    assert (said, made.mem_limit) == ([], "2g")
    assert made.container_create_kwargs == {"shm_size": "1g", "nano_cpus": 10**9}


def test_what_a_deployment_may_not_say_itself_is_named() -> None:
    wished = {"device_requests": [{"count": -1}], "restart_policy": {"Name": "always"}, "cpu_quota": 1, "tty": True}
    made, said = confined(
        claim(cpu_milli=1000, memory_mib=64), container_create_kwargs=wished, mem_limit="9g", privileged=True
    )
    assert made.container_create_kwargs.keys() == {"cpu_period", "cpu_quota", "shm_size", "tty"}
    assert made.mem_limit == "64m"
    assert [text.split()[0] for text in said] == [
        "container_create_kwargs.cpu_quota",
        "container_create_kwargs.device_requests",
        "container_create_kwargs.restart_policy",
        "mem_limit",
        "a",
    ]


@pytest.mark.parametrize(
    ("wished", "network"), [({}, "host"), ({"network_mode": "bridge"}, "bridge"), ({"networks": ["overlay"]}, None)]
)
def test_a_gang_uses_the_network_of_its_hosts(wished: dict[str, Any], network: str | None) -> None:
    assert confined(claim(), in_gang=True, **wished)[0].network_mode == network
    assert confined(claim(), in_gang=False)[0].network_mode is None


@pytest.mark.parametrize(("status", "code"), [(0, 0), (1, 1), (137, -9), (143, -15), (255, 255)])
def test_exit_codes_are_as_in_subprocess(status: int, code: int) -> None:
    assert exit_code(status) == code


def test_a_claim_on_a_container_counts_until_somebody_knows_that_it_has_gone(tmp_path: Path) -> None:
    claims = HostClaims(tmp_path)
    assert claims.acquire(claim("GPU-0"))
    fresh = claims.all()[0]
    assert fresh.counts, "its worker has died; the engine may have started it"
    assert not fresh.running
    fresh = replace(fresh, container="0123abcd")
    claims.started(fresh)
    unseen = claims.all()[0]
    assert unseen.running, "no process of it can be seen from here"
    assert not claims.acquire(claim("GPU-0", run_id="r2"))
    claims.started(replace(fresh, pid=os.getpid(), pid_ticks=find(os.getpid()).ticks))
    assert claims.all()[0].running
    claims.started(replace(fresh, pid=2**22 - 1, pid_ticks=1))
    assert not claims.all()[0].counts, "its first process has gone, and all others with it"
    assert claims.acquire(claim("GPU-0", run_id="r2"))


def test_a_claim_is_carried_by_a_label() -> None:
    held = claim("GPU-a", memory_mib=7)
    assert claim_from_text(claim_to_text(held)) == held
    assert claim_from_text("{}") is None


def ended(code: int | None, message: str = "", oom_kills: int = 0) -> Ended:
    return Ended(
        code, "Crashed", message, True, Demand(memory_mib=100), Placement("a"), oom_kills=oom_kills, in_container=True
    )


def test_the_supervisor_s_own_exit_code_says_nothing() -> None:
    largest, said = Largest(1000, 0), "Process exited with status code: -11. Segmentation fault."
    killed = diagnose(ended(0, "Process exited with status code: -9.", oom_kills=1), largest)
    assert killed is not None
    assert (killed.cause, dict(killed.wishes)) == (Cause.HOST_MEMORY, {"memory_mib": 200})
    crashed = diagnose(ended(0, said), largest)
    assert crashed is not None
    assert (crashed.cause, signal.SIGSEGV.name in crashed.text) == (Cause.BAD_EXIT, True)
    assert diagnose(ended(0, "Flow run was ended by SystemExit(3)"), largest) is None
