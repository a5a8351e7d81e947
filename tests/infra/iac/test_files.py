"""Each file of infra/ is read by its own tool, as far as that goes without a network, an engine or a cluster."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from infra.iac.tools import INFRA, run

IMAGES = ("prefect", "mlflow", "worker")
SCRIPTS = [
    str(path.relative_to(INFRA))
    for path in sorted(INFRA.rglob("*"))
    if path.is_file() and path.read_bytes().startswith((b"#!/bin/sh", b"#!/usr/bin/env bash"))
]
NAMED = [
    ("trimtab", "prefect-secrets"),
    ("trimtab", "mlflow-secrets"),
    ("trimtab", "client-secrets"),
    ("trimtab-workers", "client-secrets"),
]
SET = {
    "PATH": os.environ.get("PATH", os.defpath),
    "HOME": os.environ.get("HOME", "/"),
    "TRIMTAB_VERSION": "0.1.0",
    "S3_BUCKET": "models",
    "S3_REGION": "eu-central-1",
}
DEPLOYED = SET | {"PREFECT_HOST": "p.test", "MLFLOW_HOST": "m.test", "LISTEN": "10.0.0.5", "WORKER_MEMORY": "4g"}
DEPLOY = ("-f", "compose.yaml", "-f", "compose.deploy.yaml")


@pytest.mark.parametrize("image", IMAGES)
def test_hadolint_finds_nothing(image: str) -> None:
    done = run("hadolint", f"images/{image}/Dockerfile")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("image", IMAGES)
def test_images_have_two_stages_a_user_and_a_readme(image: str) -> None:
    text = (INFRA / "images" / image / "Dockerfile").read_text()
    assert text.count("\nFROM ") == 2
    assert "\nUSER 10001:10001\n" in text
    assert "--constraint constraints.txt" in text
    assert (INFRA / "images" / image / "README.md").exists()


def test_shellcheck_finds_nothing() -> None:
    assert {"smoke.sh", "images/with-secrets", "kubernetes/secrets.sh"} <= set(SCRIPTS)
    done = run("shellcheck", *SCRIPTS)
    assert done.returncode == 0, done.stdout


def test_compose_says_which_variables_it_needs() -> None:
    bare = {name: SET[name] for name in ("PATH", "HOME")}
    done = run("docker-compose", *DEPLOY, "config", "-q", environment=bare)
    assert done.returncode != 0
    for name in ("TRIMTAB_VERSION", "S3_BUCKET", "S3_REGION"):
        assert f"set {name}" in done.stderr


@pytest.mark.parametrize("state", ["missing", "empty"])
@pytest.mark.parametrize("name", sorted(DEPLOYED.keys() - {"PATH", "HOME"}))
def test_compose_of_a_deployment_stops_at_the_variable_that_is(name: str, state: str) -> None:
    environment = {one: value for one, value in DEPLOYED.items() if one != name} | (
        {name: ""} if state == "empty" else {}
    )
    done = run("docker-compose", *DEPLOY, "config", "-q", environment=environment)
    assert done.returncode != 0
    assert f"set {name} to" in done.stderr


def test_compose_of_a_deployment_publishes_nothing_but_the_gateway() -> None:
    done = run("docker-compose", *DEPLOY, "config", "--format", "json", environment=DEPLOYED)
    assert done.returncode == 0, done.stderr
    services = json.loads(done.stdout)["services"]
    published = {name: service["ports"] for name, service in services.items() if service.get("ports")}
    assert set(published) == {"gateway"}
    assert {port["host_ip"] for port in published["gateway"]} == {"10.0.0.5"}
    for name in ("postgres", "redis", "prefect-api-a", "prefect-api-b", "prefect-services"):
        assert set(services[name]["networks"]) == {"inside"}, name


def test_compose_for_development_listens_on_loopback_only() -> None:
    done = run("docker-compose", "config", "--format", "json", environment=SET)
    assert done.returncode == 0, done.stderr
    services = json.loads(done.stdout)["services"]
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert ports
    assert {port["host_ip"] for port in ports} == {"127.0.0.1"}


def test_kubernetes_manifests_are_valid(tmp_path: Path) -> None:
    built = run("kubectl", "kustomize", "kubernetes/overlays/example")
    assert built.returncode == 0, built.stderr
    assert "set-in-the-overlay" not in built.stdout
    file = tmp_path / "all.yaml"
    file.write_text(built.stdout)
    done = run("kubernetes-validate", "--strict", "--quiet", str(file))
    assert done.returncode == 0, done.stdout + done.stderr


def demanded(build: str) -> dict[str, set[str]]:
    """The keys without which pods do not start, by their Secret."""
    found: dict[str, set[str]] = {}
    for document in yaml.safe_load_all(build):
        pod = document.get("spec", {}).get("template", {}).get("spec", {}) if document else {}
        for volume in pod.get("volumes", []):
            own = volume.get("secret")
            parts = [one["secret"] for one in volume.get("projected", {}).get("sources", []) if "secret" in one]
            for part in [*([own | {"name": own["secretName"]}] if own else []), *parts]:
                if not part.get("optional"):
                    items = part.get("items", [])
                    assert all(one["key"] == one["path"] for one in items)
                    found.setdefault(part["name"], set()).update(one["key"] for one in items)
    return found


def test_kubernetes_starts_no_server_without_its_secrets(tmp_path: Path) -> None:
    """As compose: without the key Prefect keeps one beside what it encrypts, without a password there is no lock."""
    built = run("kubectl", "kustomize", "kubernetes/overlays/example")
    assert built.returncode == 0, built.stderr
    keys = demanded(built.stdout)
    compose = yaml.safe_load((INFRA / "compose.yaml").read_text())
    assert keys["prefect-secrets"] == {one["target"] for one in compose["x-prefect"]["secrets"]}
    assert "PREFECT_SERVER_ENCRYPTION_KEY" in keys["prefect-secrets"]
    own_bucket = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
    assert keys["mlflow-secrets"] | own_bucket == {one["target"] for one in compose["x-mlflow"]["secrets"]}

    folder, lacking = tmp_path / "secrets", tmp_path / "lacking"
    given = {"S3_ACCESS_KEY_ID": "id", "S3_SECRET_ACCESS_KEY": "key", "REDIS": "r.test:6379"}
    for made in (folder, lacking):
        script = [str(INFRA / "make-secrets.sh"), str(made)]
        subprocess.run(script, env={"PATH": os.defpath, **given}, check=True, capture_output=True)
    printed = run("sh", "kubernetes/secrets.sh", str(folder), environment=with_kubectl())
    assert printed.returncode == 0, printed.stderr
    secrets = [one for one in yaml.safe_load_all(printed.stdout) if one]
    for one in secrets:
        assert set(one["data"]) >= keys[one["metadata"]["name"]], one["metadata"]["name"]
        assert all(one["data"].values())
    places = [(one["metadata"]["namespace"], one["metadata"]["name"]) for one in secrets]
    assert places == NAMED
    assert (folder / "redis_url").read_text().endswith("@r.test:6379/0")
    file = tmp_path / "secrets.yaml"
    file.write_text(printed.stdout)
    done = run("kubernetes-validate", "--strict", "--quiet", str(file))
    assert done.returncode == 0, done.stdout + done.stderr

    (lacking / "prefect_encryption_key").unlink()
    refused = run("sh", "kubernetes/secrets.sh", str(lacking), environment=with_kubectl())
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "PREFECT_SERVER_ENCRYPTION_KEY" in refused.stderr


def with_kubectl() -> dict[str, str]:
    """For a script that calls kubectl by its name."""
    return SET | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{SET['PATH']}"}


def test_caddy_takes_the_gateway() -> None:
    done = run("caddy", "validate", "--config", "gateway/Caddyfile", "--adapter", "caddyfile")
    assert done.returncode == 0, done.stderr


def test_secrets_become_variables(tmp_path: Path) -> None:
    (tmp_path / "A_SECRET").write_text("x y")
    (tmp_path / "not-a-name").write_text("z")
    environment = {"PATH": os.defpath, "SECRETS_FOLDER": str(tmp_path)}
    script = [str(INFRA / "images/with-secrets")]
    done = subprocess.run([*script, "env"], env=environment, capture_output=True, text=True)
    assert "A_SECRET=x y" in done.stdout.splitlines()
    (tmp_path / "A_SECRET").write_text("")
    done = subprocess.run([*script, "env"], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert "A_SECRET is empty" in done.stderr


def test_without_an_address_of_s3_mlflow_is_told_none() -> None:
    """Amazon's: compose sets the variable to nothing then, which MLflow would refuse as an address."""
    done = run("docker-compose", *DEPLOY, "config", "--format", "json", environment=DEPLOYED)
    told = json.loads(done.stdout)["services"]["mlflow"]["environment"]["MLFLOW_S3_ENDPOINT_URL"]
    asked = [str(INFRA / "images/with-secrets"), "env"]
    environment = {"PATH": os.defpath, "SECRETS_FOLDER": "/nowhere", "MLFLOW_S3_ENDPOINT_URL": told}
    assert "MLFLOW_S3" not in subprocess.run(asked, env=environment, capture_output=True, text=True, check=True).stdout
    environment["MLFLOW_S3_ENDPOINT_URL"] = "https://s3.test"
    assert (
        "https://s3.test" in subprocess.run(asked, env=environment, capture_output=True, text=True, check=True).stdout
    )


def test_made_secrets_are_kept_and_shut_in(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    environment = {"PATH": os.defpath, "S3_ACCESS_KEY_ID": "id", "S3_SECRET_ACCESS_KEY": "key"}
    script = [str(INFRA / "make-secrets.sh"), str(folder)]
    refused = subprocess.run(script, env={"PATH": os.defpath}, capture_output=True, text=True)
    assert refused.returncode == 2
    assert "S3_ACCESS_KEY_ID" in refused.stderr
    subprocess.run(script, env=environment, check=True, capture_output=True)
    made = {path.name: path.read_text() for path in folder.iterdir()}
    subprocess.run(script, env=environment, check=True, capture_output=True)
    assert made == {path.name: path.read_text() for path in folder.iterdir()}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    named = re.findall(r"/secrets\}/(\w+)\"", (INFRA / "compose.yaml").read_text())
    assert set(named) == set(made)
