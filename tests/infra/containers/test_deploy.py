"""The compose stack for a host that others use, started for real: a front with TLS and two names, GPUs of a stand-in
driver, limits, a bucket that is not the stack's own, and recipes in an image of the team's.

Its certificates come from the gateway's own authority, as they do for names that end in .internal. `-s` prints how long
it took to start, and to come back after everything in it was killed at once.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from nvml_driver import gpu

from infra.containers.composed import UP, Composed, Networked, up
from work_pools.worker.conftest import until

ROOT = Path(__file__).parents[3]
FILES = ("compose.yaml", "compose.deploy.yaml")
LISTEN, PREFECT, MLFLOW = "10.77.0.5", "prefect.trimtab.internal", "mlflow.trimtab.internal"
URLS = (f"https://{PREFECT}", f"https://{MLFLOW}")
WORKER_IMAGE = "team-worker:1"
BUCKET = "chrislusf/seaweedfs:4.48"

pytestmark = [pytest.mark.long, pytest.mark.timeout(2400)]


@dataclass(frozen=True)
class Deployed:
    """The stack, and the laptop of somebody who uses it: its names are known there, its authority is trusted."""

    stack: Composed
    laptop: Path

    @property
    def certificates(self) -> dict[str, str]:
        authority = str(self.laptop / "authority.crt")
        return dict.fromkeys(("CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "PREFECT_API_SSL_CERT_FILE"), authority)

    def smoke(self) -> subprocess.CompletedProcess[str]:
        return self.stack.smoke(*URLS, *self.stack.backing(), **self.certificates, **self.stack.login())

    def person(self, *words: str) -> str:
        """What a command prints on the laptop, which must not fail."""
        own = {
            "PREFECT_API_URL": f"{URLS[0]}/api",
            "PREFECT_HOME": str(self.laptop / "prefect"),
            "MLFLOW_TRACKING_URI": URLS[1],
            "TRIMTAB_STACK": "production",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "COLUMNS": "200",
        }
        environment = {**self.stack.engine.environment, **own, **self.certificates, **self.stack.login()}
        done = subprocess.run(
            [*self.stack.engine.inside, *words], cwd=self.laptop, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{words}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout


@pytest.fixture(scope="module")
def bucket(networked: Networked) -> Iterator[str]:
    """Address of an S3 server that is not the stack's own."""
    keys = ("AWS_ACCESS_KEY_ID=id-of-the-bucket", "AWS_SECRET_ACCESS_KEY=key-of-the-bucket", "S3_BUCKET=trimtab")
    told = [word for key in keys for word in ("--env", key)]
    served = ("weed", "mini", "-dir=/data", "-s3.port=8333", "-s3.port.iceberg=0", "-s3.port.lance=0", "-webdav=false")
    off = ("-admin.ui=false", "-master.telemetry=false")
    networked.docker("run", "--detach", "--name=bucket", "--publish=8333:8333", *told, BUCKET, *served, *off)
    asked = ("inspect", "--format", "{{.NetworkSettings.Gateway}}", "bucket")
    url = f"http://{networked.docker(*asked).stdout.strip()}:8333"
    ask = [*networked.inside, "curl", "--silent", "--noproxy", "*", "--output", "/dev/null", f"{url}/status"]
    try:
        until(lambda: subprocess.run(ask).returncode == 0, 60, "an S3 server")
        yield url
    finally:
        networked.docker("rm", "--force", "--volumes", "bucket", check=False)


@pytest.fixture(scope="module")
def prepared(
    networked: Networked, stack_folder: Path, bucket: str, tmp_path_factory: pytest.TempPathFactory
) -> Deployed:
    """The stack, not started: settings are made, the worker's image has the team's recipe, names lead to the host."""
    if networked.driver is None:
        pytest.skip("needs a C compiler, for the stand-in of NVIDIA's driver")
    networked.driver.set(gpu(0), gpu(1))
    team = tmp_path_factory.mktemp("team")
    shutil.copy(ROOT / "tests/toy_recipe.py", team)
    # The variable is for the stand-in of NVIDIA's driver, which every container with GPUs finds.
    (team / "Dockerfile").write_text(
        f"FROM trimtab-worker:{networked.tag}\nCOPY toy_recipe.py /work/\nENV NVML_FAKE_STATE=/run/nvml.state\n"
    )
    networked.docker("build", "--quiet", "--tag", WORKER_IMAGE, str(team))
    settings = {
        "TRIMTAB_VERSION": networked.tag,
        "S3_BUCKET": "trimtab",
        "S3_REGION": "us-east-1",
        "S3_ENDPOINT_URL": bucket,
        "PREFECT_HOST": PREFECT,
        "MLFLOW_HOST": MLFLOW,
        "LISTEN": LISTEN,
        "WORKER_MEMORY": "4g",
        "WORKER_IMAGE": WORKER_IMAGE,
    }
    subprocess.run([*networked.inside, "ip", "address", "replace", f"{LISTEN}/32", "dev", "lo"], check=True)
    laptop = tmp_path_factory.mktemp("laptop")
    shutil.copy(ROOT / "tests/toy_recipe.py", laptop)
    (hosts := laptop / "hosts").write_text(f"127.0.0.1 localhost\n{LISTEN} {PREFECT} {MLFLOW}\n")
    known = ["unshare", "--mount", "sh", "-c", 'mount --bind "$0" /etc/hosts && exec "$@"', str(hosts)]
    there = replace(networked, inside=[*networked.inside, *known])
    return Deployed(Composed(there, stack_folder, FILES, settings), laptop)


def test_a_secret_that_is_missing_stops_it_and_is_named(prepared: Deployed) -> None:
    secret = prepared.stack.folder / "secrets" / "mlflow_session_key"
    away = secret.rename(prepared.stack.folder / "away")
    try:
        done = prepared.stack.run(*UP)
        assert done.returncode != 0
        assert "secrets/mlflow_session_key" in done.stderr
    finally:
        away.rename(secret)
        prepared.stack.run("down", "--volumes")


@pytest.fixture(scope="module")
def deployed(prepared: Deployed) -> Iterator[Deployed]:
    with up(prepared.stack) as stack:
        root = "gateway:/data/caddy/pki/authorities/local/root.crt"
        stack.compose("cp", root, str(prepared.laptop / "authority.crt"))
        yield prepared


def test_smoke_finds_every_part_sound_by_its_public_name(deployed: Deployed) -> None:
    done = deployed.smoke()
    assert done.returncode == 0, done.stdout
    assert [line.split()[:2] for line in done.stdout.splitlines()] == [
        ["ok", part] for part in ("prefect", "mlflow", "redis", "postgresql")
    ]
    stranger = deployed.stack.smoke(*URLS, **deployed.stack.login())
    assert stranger.returncode == 1
    assert [line.split()[0] + line.partition("SSL certificate")[1] for line in stranger.stdout.splitlines()] == [
        "BADSSL certificate",
        "BADSSL certificate",
    ]
    curl = [
        *deployed.stack.engine.inside,
        "curl",
        "--silent",
        "--noproxy",
        "*",
        "--write-out",
        "%{http_code} %{redirect_url}",
    ]
    moved = subprocess.run([*curl, f"http://{PREFECT}/api/health"], capture_output=True, text=True).stdout
    assert moved == f"308 {URLS[0]}/api/health"
    listening = subprocess.run([*deployed.stack.engine.inside, "ss", "-Htln"], capture_output=True, text=True).stdout
    addresses = {line.split()[3] for line in listening.splitlines()}
    assert {one for one in addresses if not one.endswith(":8333")} == {f"{LISTEN}:80", f"{LISTEN}:443"}, (
        "all it publishes"
    )


def test_pages_are_served_and_lead_nowhere_without_tls(deployed: Deployed) -> None:
    login = deployed.stack.login()
    user = f"{login['MLFLOW_TRACKING_USERNAME']}:{login['MLFLOW_TRACKING_PASSWORD']}"
    for url in (f"{URLS[0]}/", f"{URLS[1]}/"):
        page = deployed.person("curl", "-sS", "--fail", "--location", "--proto-redir", "=https", "--user", user, url)
        assert "<!doctype html>" in page.lower(), url


@pytest.mark.parametrize(("origin", "answer"), [(URLS[1], "200"), ("https://elsewhere.test", "403")])
def test_pages_of_mlflow_may_ask_it_and_others_may_not(deployed: Deployed, origin: str, answer: str) -> None:
    url = f"{URLS[1]}/ajax-api/2.0/mlflow/runs/search"
    login = deployed.stack.login()
    user = f"{login['MLFLOW_TRACKING_USERNAME']}:{login['MLFLOW_TRACKING_PASSWORD']}"
    told = ("-H", f"Origin: {origin}", "-H", "Content-Type: application/json", "-d", '{"experiment_ids": ["0"]}')
    said = deployed.person("curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "--user", user, *told, url)
    assert said == answer


def test_a_flow_trains_on_a_gpu_of_its_worker(deployed: Deployed) -> None:
    """Deployed from a laptop, through TLS; its data and the model are in the bucket, the model in MLflow."""
    deployed.person("trimtab", "init", "toy_recipe:toy")
    project = deployed.laptop / "prefect.yaml"
    here = '"{{ $PWD }}"'
    assert here in project.read_text()
    project.write_text(project.read_text().replace(here, "/work"))  # where the recipe is in the worker's image
    deployed.person("prefect", "--no-prompt", "deploy", "--all")
    run = ("prefect", "deployment", "run", "--watch", "--watch-timeout", "300")
    assert "Completed" in deployed.person(*run, "ingest/toy", "--param", "window=2024-01")
    demand = json.dumps({"gpus": 1, "gpu_memory_mib": 16000, "cpus": 0.5, "memory_mib": 512})
    trained = deployed.person(*run, "train/toy", "--param", "windows=2024-01", "--job-variable", f"resources={demand}")
    assert "Completed" in trained
    asked = "import mlflow; print(mlflow.artifacts.list_artifacts('models:/toy/1'))"
    assert "MLmodel" in deployed.person("python", "-c", asked)


def test_limits_and_restarts_are_what_the_engine_was_told(deployed: Deployed) -> None:
    told = {
        one["Config"]["Labels"]["com.docker.compose.service"]: one["HostConfig"] for one in deployed.stack.containers()
    }
    once = {"prefect-migrate", "mlflow-migrate", "setup"}
    assert {name for name, host in told.items() if host["Memory"] == 0} == once
    assert {name for name, host in told.items() if host["RestartPolicy"]["Name"] != "unless-stopped"} == once
    assert {name for name, host in told.items() if not host["ReadonlyRootfs"]} == {"postgres", "redis"}
    assert told["worker"]["Memory"] == 4 << 30


def test_it_comes_back_when_everything_is_killed_at_once(deployed: Deployed) -> None:
    """As after a power cut: nobody keeps to the order of the start."""
    processes = {one["Id"]: one["State"]["Pid"] for one in deployed.stack.containers() if one["State"]["Running"]}
    assert len(processes) == 9
    for process in processes.values():
        os.kill(process, signal.SIGKILL)
    began_s = time.monotonic()

    def sound() -> bool:
        with contextlib.suppress(AssertionError, StopIteration):
            return deployed.smoke().returncode == 0
        return False

    until(sound, 180, "a sound stack")
    print(f"\nsound {time.monotonic() - began_s:.0f} s after everything was killed")
    run = ("prefect", "deployment", "run", "--watch", "--watch-timeout", "300")
    assert "Completed" in deployed.person(*run, "ingest/toy", "--param", "window=2024-02")
    print(f"\na run completed {time.monotonic() - began_s:.0f} s after everything was killed")
    again = {one["Id"]: one["State"]["Pid"] for one in deployed.stack.containers() if one["State"]["Running"]}
    assert again.keys() == processes.keys()


def test_no_secret_is_in_a_container_s_configuration_or_in_a_log(deployed: Deployed) -> None:
    assert deployed.stack.leaked() == []
