"""Terraform's own word on the GPU host, with a provider that lies on the disk: nothing is downloaded."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from infra.iac.tools import INFRA

FOLDERS = ("/opt/tf-plugins", "/usr/local/share/terraform/plugins", "/usr/share/terraform/plugins")


@pytest.mark.long
def test_terraform_takes_the_gpu_host(tmp_path: Path) -> None:
    program = shutil.which("terraform")
    mirrors = [os.environ.get("TERRAFORM_MIRROR", ""), *FOLDERS]
    mirror = next((name for name in mirrors if name and Path(name, "registry.terraform.io/hashicorp/aws").exists()), "")
    if program is None or not mirror:
        pytest.skip("not checked: terraform, or no aws provider on the disk (TERRAFORM_MIRROR names its folder)")
    (tmp_path / "rc").touch()
    work = tmp_path / "host"
    shutil.copytree(INFRA / "terraform/aws-gpu-host", work, ignore=shutil.ignore_patterns(".terraform*"))
    for command in (
        ["fmt", "-check"],
        ["init", "-backend=false", "-input=false", "-no-color", f"-plugin-dir={mirror}"],
        ["validate", "-no-color"],
    ):
        environment = {**os.environ, "TF_CLI_CONFIG_FILE": str(tmp_path / "rc")}
        done = subprocess.run([program, *command], cwd=work, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
