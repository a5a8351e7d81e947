"""Our images, built here: what is in them, what is not, and flows in the worker's, by Prefect's Docker worker and ours.

The first build makes a base image too: minutes. `-s` prints the sizes.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.states import Scheduled

from docker_engine import Engine
from infra.containers.bases import builder, index, python_base
from infra.containers.conftest import MARK
from infra.security.planted import Find, Planted
from work_pools.worker.conftest import until

HERE = Path(__file__).parent
pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]


@pytest.fixture
def client(engine: Engine) -> Iterator[docker.DockerClient]:
    with contextlib.closing(engine.client()) as made:
        yield made


def said(client: docker.DockerClient, image: str, *command: str) -> str:
    """What a command prints in an image whose root is read-only and which may do nothing, as in compose."""
    out = client.containers.run(
        image,
        list(command),
        remove=True,
        read_only=True,
        cap_drop=["ALL"],
        security_opt=["no-new-privileges:true"],
        tmpfs={"/tmp": "mode=1777", "/home/trimtab": "uid=10001,gid=10001"},
        network_mode="none",
    )
    return str(out.decode()).strip()


@pytest.mark.parametrize("name", ["prefect", "mlflow", "worker"])
def test_an_image_runs_as_nobody_in_particular_without_what_only_builds_need(
    images: dict[str, str], client: docker.DockerClient, name: str
) -> None:
    image = client.images.get(images[name])
    print(f"\n{name}: {image.attrs['Size'] / 1e6:.0f} MB")
    assert image.attrs["Config"]["User"] == "10001:10001"
    assert said(client, images[name], "id", "-u") == "10001"
    command = "prefect version" if name != "mlflow" else "mlflow --version"
    assert "3." in said(client, images[name], *command.split())
    absent = "import importlib.util as u; print([n for n in ('pip', 'setuptools', 'pytest') if u.find_spec(n)])"
    assert said(client, images[name], "python", "-c", absent) == "[]"
    changeable = said(client, images[name], "find", "/opt", "/usr/local", "-xdev", "!", "-type", "l", "-writable")
    assert changeable == "", "what it runs, it cannot change"


def everywhere(client: docker.DockerClient, image: str, looked_for: Planted) -> list[Find]:
    """Where it is in the image: its layers, files that later ones take away too, its history, its configuration."""
    known = client.images.get(image)
    told = repr([known.attrs, known.history()]).encode()
    with tempfile.TemporaryFile() as saved:
        for chunk in known.save(named=True):
            saved.write(chunk)
        saved.seek(0)
        return [*looked_for.in_bytes(told, "configuration and history"), *looked_for.in_tar(saved, image)]


@pytest.mark.parametrize("name", ["prefect", "mlflow", "worker"])
def test_no_layer_holds_a_secret(images: dict[str, str], client: docker.DockerClient, name: str) -> None:
    """Nor the address of an index, which may have a password in it, nor a file that is there while it is built only."""
    addresses = [line.partition("=")[2].strip() for line in index()[0].splitlines() if "=" in line]
    looked_for = Planted({"a planted secret": MARK, **{f"an index {n}": one for n, one in enumerate(addresses)}})
    found = everywhere(client, images[name], looked_for)
    assert found == []


def test_the_search_finds_what_a_careless_build_leaves(
    engine: Engine, client: docker.DockerClient, tmp_path: Path
) -> None:
    """Else the test above would prove nothing."""
    careless = f"""
        FROM {python_base(engine)}
        ARG TOKEN
        RUN test -n "$TOKEN"
        ENV KEY={MARK}-in-env
        COPY key.txt /
        RUN rm /key.txt
        COPY key.txt /kept
        RUN gzip /kept && tar -czf /kept.tgz /kept.gz && rm /kept.gz
    """
    (tmp_path / "Dockerfile").write_text(careless)
    (tmp_path / "key.txt").write_text(f"key={MARK}")
    command = [builder(), "build", "--tag", "trimtab-test-careless", "--build-arg", f"TOKEN={MARK}-in-arg", "."]
    environment = {**os.environ, **engine.environment(), "DOCKER_BUILDKIT": "0"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    try:
        found = everywhere(client, "trimtab-test-careless", Planted({"it": MARK}))
    finally:
        client.images.remove("trimtab-test-careless", force=True)
    places = {find.place.rpartition("/")[2] for find in found}
    assert places >= {"configuration and history", "key.txt", "kept", "kept.gz.gunzip"}, places


@pytest.mark.parametrize("kind", ["docker", "gpu-docker"])
def test_a_flow_runs_in_the_worker_s_image(
    environment: dict[str, str], engine: Engine, images: dict[str, str], tmp_path: Path, kind: str
) -> None:
    """By Prefect's own Docker worker, and by ours."""
    from prefect_docker.worker import DockerWorker

    from trimtab_work_pools.worker import GpuDockerWorker

    tmp_path.chmod(0o777)  # for user 10001
    (folder := tmp_path / "work").mkdir()
    shutil.copy(HERE / "seen_flow.py", folder)
    pool = f"{kind}-{uuid.uuid4().hex[:8]}"
    worker_class = {"docker": DockerWorker, "gpu-docker": GpuDockerWorker}[kind]
    variables = {
        "image": images["worker"],
        "image_pull_policy": "Never",
        "network_mode": "host",
        "volumes": [f"{folder}:/work:ro", f"{tmp_path}:{tmp_path}"],
        **({"resources": {"cpus": 1, "memory_mib": 1000}} if kind == "gpu-docker" else {}),
    }
    command = [str(Path(sys.executable).parent / "prefect"), "worker", "start", "--pool", pool, "--type", kind]
    env = {key: value for key, value in environment.items() if not key.startswith("PREFECT__")}
    env |= {"TRIMTAB_HOST_DIR": str(tmp_path / "host"), "TRIMTAB_NODE_NAME": "only", **engine.environment()}
    with get_client(sync_client=True) as server, (tmp_path / "log").open("w") as log:
        template = worker_class.get_default_base_job_template()
        server.create_work_pool(WorkPoolCreate(name=pool, type=kind, base_job_template=template))
        deployment = server.create_deployment(
            flow_id=server.create_flow_from_name("seen"),
            name=pool,
            work_pool_name=pool,
            entrypoint="seen_flow.seen",
            pull_steps=[{"prefect.deployments.steps.set_working_directory": {"directory": "/work"}}],
            job_variables=variables,
        )
        run = server.create_flow_run_from_deployment(
            deployment, parameters={"folder": str(tmp_path)}, state=Scheduled()
        )
        worker = subprocess.Popen(command, env=env, cwd=tmp_path, stdout=log, stderr=subprocess.STDOUT)
        try:

            def ended() -> str | None:
                state = server.read_flow_run(run.id).state
                return state.name if state and state.is_final() else None

            assert until(ended, 150, f"an end; {(tmp_path / 'log').read_text()[-2000:]}") == "Completed"
        finally:
            worker.send_signal(signal.SIGTERM)
            try:
                worker.wait(60)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()
            server.delete_work_pool(pool)
    found = json.loads((tmp_path / f"{run.id}.json").read_text())
    assert (found["uid"], Path(found["python"]).parent) == (10001, Path("/opt/trimtab/bin"))
    assert found["accuracy"] > 0.9
    assert found["modules"] == []
    assert found["writable"] == ["/tmp"], "/work is mounted read-only here"
    assert (found["gpus"], found["claim"]) == (("", True) if kind == "gpu-docker" else (None, False))
