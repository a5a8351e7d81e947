"""The engine of the tests: its base image runs this machine's Python; a container sees the GPUs it was given."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import Any

import docker.errors
import nvml_driver
import pytest

from docker_engine import STATE_IN_CONTAINER, Engine
from trimtab_work_pools.host import engine_socket
from trimtab_work_pools.host.clock import SYSTEM
from trimtab_work_pools.ledger import Holding
from trimtab_work_pools.resources import Demand, Placement
from trimtab_work_pools.worker.containers import Containers
from trimtab_work_pools.worker.host_claims import HostClaim

SEEN = """
import pynvml as nvml
nvml.nvmlInit()
count = nvml.nvmlDeviceGetCount()
print(*(nvml.nvmlDeviceGetUUID(nvml.nvmlDeviceGetHandleByIndex(index)) for index in range(count)))
"""


def ran(engine: Engine, *command: str, **more: Any) -> str:
    """What a command prints in a container of the base image that has the virtual environment."""
    env = {"PATH": engine.path, "NVML_FAKE_STATE": STATE_IN_CONTAINER}
    with contextlib.closing(engine.client()) as client:
        out = client.containers.run(
            engine.image,
            list(command),
            remove=True,
            network_mode="host",
            volumes=engine.volumes,
            environment=env,
            **more,
        )
    return str(out.decode()).strip()


def test_the_base_image_runs_python_and_what_is_mounted(engine: Engine) -> None:
    assert ran(engine, "python", "-c", "import prefect, ssl, sqlite3; print(prefect.__version__)").startswith("3.")
    assert ran(engine, "sh", "-c", "echo $0 $((6 * 7))") == "sh 42"


def test_a_container_sees_the_gpus_it_was_given(engine: Engine) -> None:
    if engine.driver is None:
        pytest.skip("the engine has no stand-in NVIDIA driver: it was not started here, or there is no C compiler")
    engine.driver.set(*(nvml_driver.gpu(number) for number in range(3)))

    def given(*uuids: str) -> list[dict[str, Any]]:
        return [{"driver": "nvidia", "device_ids": list(uuids), "capabilities": [["gpu"]]}]

    assert ran(engine, "python", "-c", SEEN, device_requests=given("GPU-2", "GPU-0")) == "GPU-0 GPU-2"
    with pytest.raises(docker.errors.APIError, match="GPU-7: unknown device"):
        ran(engine, "python", "-c", SEEN, device_requests=given("GPU-7"))


def test_a_container_stands_still_goes_on_and_is_ended_where_it_stands(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the fence has it: all of it, not only its first process."""
    for name, value in engine.environment().items():
        monkeypatch.setenv(name, value)
    holding = Holding("r1", Demand(), Placement("a"), 0.0, 0.0, "c-fence")
    claim = HostClaim("c-fence", "w", os.getpid(), 1, "p", holding, (), SYSTEM.boot_id, in_container=True)
    containers = Containers()
    with contextlib.closing(engine.client()) as client, contextlib.closing(containers):
        made = client.containers.run(
            engine.image, ["sh", "-c", "sleep 60 & sleep 60"], detach=True, labels=containers.labels(claim),
            network_mode="host", volumes=engine.volumes, environment={"PATH": engine.path},
        )  # fmt: skip
        try:
            send = containers.sender(claim)
            for number, status in (
                (signal.SIGSTOP, "paused"),
                (signal.SIGSTOP, "paused"),
                (signal.SIGCONT, "running"),
                (signal.SIGSTOP, "paused"),
                (signal.SIGKILL, "exited"),
            ):
                send(number)
                end = time.monotonic() + 20
                while made.status != status:
                    assert time.monotonic() < end, f"{number.name}: {made.status}"
                    time.sleep(0.1)
                    made.reload()
        finally:
            made.remove(force=True)


def test_the_guard_of_a_host_has_a_container_stand_still(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over the engine's socket, without its library."""
    for name, value in engine.environment().items():
        monkeypatch.setenv(name, value)
    assert engine_socket.state("c-guard") == ""
    engine_socket.pause("c-guard")
    with contextlib.closing(engine.client()) as client:
        made = client.containers.run(
            engine.image, ["sleep", "60"], detach=True, labels={"trimtab.claim-id": "c-guard"},
            network_mode="host", volumes=engine.volumes, environment={"PATH": engine.path},
        )  # fmt: skip
        try:
            assert engine_socket.state("c-guard") == "running"
            for _ in range(2):
                engine_socket.pause("c-guard")
                assert engine_socket.state("c-guard") == "paused"
            made.unpause()
            made.kill()
            made.wait()
            engine_socket.pause("c-guard")
            assert engine_socket.state("c-guard") == "exited"
        finally:
            made.remove(force=True)
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent/docker.sock")
    with pytest.raises(OSError, match="No such file"):
        engine_socket.state("c-guard")
