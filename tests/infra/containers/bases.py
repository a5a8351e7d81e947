"""Images made on this machine: a Python base from Debian's packages, and ours built on it. No registry is asked.

Python packages come from where this machine's own pip gets them. What says where that is, and whom to trust there, is
given to the build as secrets, which no layer keeps.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from docker_engine import Engine

__all__ = ["PYTHON", "CannotBuild", "build", "builder", "index", "python_base", "stand_ins"]

ROOT = Path(__file__).parents[3]
PYTHON = "trimtab-test-python:3.11-slim"
_DEBIAN = ("mmdebstrap", "--variant=minbase", "--include=python3,python3-venv,ca-certificates", "bookworm", "-")
_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")


class CannotBuild(RuntimeError):
    """This machine lacks something that a build needs; the text says what."""


@functools.cache
def builder() -> str:
    """A docker command that builds with BuildKit. Raises CannotBuild."""
    for folder in [*os.environ.get("PATH", os.defpath).split(os.pathsep), "/usr/bin"]:
        found = shutil.which("docker", path=folder)
        if found is None:
            continue
        with_plugin = subprocess.run([found, "buildx", "version"], capture_output=True).returncode == 0
        version = subprocess.run([found, "--version"], capture_output=True, text=True).stdout
        number = version.partition("version ")[2].partition(".")[0]
        if with_plugin or (number.isdigit() and int(number) < 23):  # later ones need the plugin
            return found
    raise CannotBuild("no docker command that builds with BuildKit is on the path (apt-get install docker.io)")


@functools.cache
def index() -> tuple[str, Path | None]:
    """What a pip.conf has to say for packages to be found as this machine's pip finds them, and whom to trust.

    Raises CannotBuild if none are found.
    """
    pip = [sys.executable, "-m", "pip"]
    with tempfile.TemporaryDirectory() as folder:
        asked = [*pip, "download", "--quiet", "--no-deps", "--no-cache-dir", "--dest", folder, "pip"]
        if subprocess.run(asked, capture_output=True, timeout=60).returncode:
            raise CannotBuild("pip finds no packages here")
    said = subprocess.run([*pip, "config", "list"], capture_output=True, text=True, check=True).stdout
    named = dict(line.split(".", 1)[1].partition("=")[::2] for line in said.splitlines() if "." in line)
    kept = {key: named[key].strip("'") for key in ("index-url", "extra-index-url", "trusted-host") if key in named}
    reached = {key: value for key, value in kept.items() if "file:" not in value}  # files of this machine: not there
    lines = ["[global]", *(f"{key} = {value}" for key, value in reached.items())]
    return "\n".join(lines) + "\n", _CERTIFICATES if _CERTIFICATES.exists() else None


def python_base(engine: Engine) -> str:
    """The name of an image like python:3.11-slim-bookworm, made where the engine has none. Raises CannotBuild."""
    with contextlib.closing(engine.client()) as client:
        if client.images.list(name=PYTHON):
            return PYTHON
        if shutil.which(_DEBIAN[0]) is None or os.geteuid() != 0:
            raise CannotBuild("a base image is made by mmdebstrap (apt-get install mmdebstrap), and by root only")
        name, _, tag = PYTHON.partition(":")
        with tempfile.TemporaryFile("w+") as log, subprocess.Popen(_DEBIAN, stdout=subprocess.PIPE, stderr=log) as made:
            assert made.stdout is not None
            client.api.import_image_from_stream(made.stdout, repository=name, tag=tag, changes=["ENV LANG=C.UTF-8"])
            if made.wait():
                log.seek(0)
                raise CannotBuild(f"mmdebstrap makes no base image: {log.read()[-500:]}")
    return PYTHON


def build(
    engine: Engine, image: str, tag: str, context: Path, planted: str, variables: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    """Builds one of infra/images as its README says, where these variables are set. `planted` is a comment in the
    pip.conf that the build is given as a secret."""
    conf, certificates = index()
    with tempfile.TemporaryDirectory() as folder:
        (secret := Path(folder, "pip.conf")).write_text(f"{conf}# {planted}\n")
        command = [builder(), "build", "--network=host", "--progress=plain", "--tag", tag]
        command += ["--file", f"infra/images/{image}/Dockerfile"]
        command += ["--build-arg", f"PYTHON_IMAGE={python_base(engine)}", "--secret", f"id=pip_conf,src={secret}"]
        if certificates is not None:
            command += ["--secret", f"id=ca,src={certificates}"]
        environment = {**os.environ, **variables, **engine.environment(), "DOCKER_BUILDKIT": "1"}
        return subprocess.run([*command, "."], cwd=context, env=environment, capture_output=True, text=True)


def stand_ins(engine: Engine) -> list[str]:
    """Images under the names of the public ones that compose uses; of an engine of our own only. Raises CannotBuild."""
    text = "".join((ROOT / "infra" / name).read_text() for name in ("compose.yaml", "compose.override.yaml"))
    names = re.findall(r"^    image: ((?:\w+/)?(postgres|redis|caddy|seaweedfs):\S+)$", text, re.MULTILINE)
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(Path(__file__).parent / "stand_ins", folder, dirs_exist_ok=True)
        (programs := Path(folder, "programs")).mkdir()
        for program in ("caddy", "weed"):
            found = Path(sys.executable).parent / program
            if not found.exists():
                raise CannotBuild(f"{program} is not installed (make check-infra installs the extra infra)")
            shutil.copy(found, programs)
        for name, target in names:
            command = [builder(), "build", "--network=host", "--tag", name, "--target", target]
            command += ["--build-arg", f"PYTHON_IMAGE={python_base(engine)}", "."]
            environment = {**os.environ, **engine.environment(), "DOCKER_BUILDKIT": "1"}
            done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
            if done.returncode:
                raise CannotBuild(f"no stand-in for {name}: {done.stderr[-800:]}")
    assert len(names) == 4, names
    return [name for name, _ in names]
