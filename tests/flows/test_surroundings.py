"""What a process runs with: git checkouts of every state, the environment, and GPUs through a real NVML library."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

import pytest

from trimtab_flows.surroundings import read_code, read_devices, read_environment


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=t", "-c", "user.email=t@t", "-c", "commit.gpgsign=false")
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with one commit; the recipe lies in a folder of it."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "recipe.py").write_text("x = 1\n")
    (tmp_path / ".gitignore").write_text("ignored.py\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    return tmp_path


def test_a_clean_checkout(checkout: Path) -> None:
    code = read_code(checkout / "models" / "recipe.py")
    assert code.git_sha == git(checkout, "rev-parse", "HEAD")
    assert (code.dirty, code.diff_digest) == (False, None)


def test_uncommitted_changes_have_a_digest_of_their_own(checkout: Path) -> None:
    recipe, other = checkout / "models" / "recipe.py", checkout / "other.py"
    clean = read_code(recipe)
    found = [clean.diff_digest]
    recipe.write_text("x = 2\n")
    found.append(read_code(recipe).diff_digest)
    recipe.write_text("x = 3\n")
    found.append(read_code(recipe).diff_digest)
    git(checkout, "add", "models")
    staged = read_code(recipe)
    assert staged.diff_digest == found[-1]  # staged or not, it is the same code
    other.write_text("y = 1\n")
    found.append(read_code(recipe).diff_digest)
    other.write_text("y = 2\n")
    found.append(read_code(recipe).diff_digest)
    assert len(set(found)) == len(found)
    assert staged.dirty
    assert staged.git_sha == clean.git_sha


def test_files_that_are_no_code_make_nothing_dirty(checkout: Path) -> None:
    (checkout / "data.parquet").write_bytes(b"x" * 1000)
    (checkout / "ignored.py").write_text("z = 1\n")
    assert not read_code(checkout / "models" / "recipe.py").dirty


def test_a_checkout_before_its_first_commit(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    (tmp_path / "recipe.py").write_text("x = 1\n")
    code = read_code(tmp_path / "recipe.py")
    assert code.git_sha is None
    assert code.dirty
    git(tmp_path, "add", ".")
    assert read_code(tmp_path / "recipe.py").diff_digest == code.diff_digest


def test_outside_a_checkout(tmp_path: Path) -> None:
    code = read_code(tmp_path / "recipe.py")
    assert (code.git_sha, code.dirty, code.diff_digest) == (None, False, None)
    assert len(code.package_digest) == 64


def test_the_environment_lists_every_distribution() -> None:
    environment = read_environment()
    assert environment.python_version == f"CPython {platform.python_version()}"
    assert list(environment.packages) == sorted(set(environment.packages))
    listed = {package.partition("==")[2] for package in environment.packages}
    assert {found.version for found in distributions()} == listed
    assert {"polars", "lightgbm", "nvidia-ml-py"} <= {package.partition("==")[0] for package in environment.packages}


def test_the_host_without_a_driver() -> None:
    devices = read_devices()
    assert devices.cpu_model
    assert devices.threads == len(os.sched_getaffinity(0))
    assert devices.cores == os.cpu_count()
    assert read_devices(threads=1).threads == 1


NVML = """
#include <stdio.h>
typedef int R;
static int devices[2] = {0, 1};
R nvmlInit_v2(void) { return 0; }
R nvmlInitWithFlags(unsigned f) { return 0; }
R nvmlShutdown(void) { return 0; }
R nvmlSystemGetDriverVersion(char *out, unsigned size) { snprintf(out, size, "550.90"); return 0; }
R nvmlDeviceGetCount_v2(unsigned *n) { *n = 2; return 0; }
R nvmlDeviceGetHandleByIndex_v2(unsigned i, void **out) {
    if (i == LOST) return 15; /* NVML_ERROR_GPU_IS_LOST */
    *out = &devices[i]; return 0;
}
R nvmlDeviceGetName(void *d, char *out, unsigned size) { snprintf(out, size, "Test GPU"); return 0; }
R nvmlDeviceGetUUID(void *d, char *out, unsigned size) { snprintf(out, size, "GPU-%d", *(int *)d); return 0; }
"""

ASK = """
import dataclasses, json
from trimtab_flows.surroundings import read_devices
print(json.dumps(dataclasses.asdict(read_devices())))
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler to build an NVML library")
@pytest.mark.parametrize(
    ("lost", "visible", "expected"),
    [
        (9, None, [("Test GPU", "GPU-0"), ("Test GPU", "GPU-1")]),
        (9, "GPU-1", [("Test GPU", "GPU-1")]),
        (9, "0", [("Test GPU", "GPU-0"), ("Test GPU", "GPU-1")]),
        (0, None, [("GPU 0, unreadable (GPU is lost)", ""), ("Test GPU", "GPU-1")]),
    ],
    ids=["all", "named by uuid", "named by index", "one lost"],
)
def test_gpus_of_a_driver(tmp_path: Path, lost: int, visible: str | None, expected: list[tuple[str, str]]) -> None:
    (tmp_path / "nvml.c").write_text(NVML)
    library = tmp_path / "libnvidia-ml.so.1"
    subprocess.run(
        ["cc", "-shared", "-fPIC", f"-DLOST={lost}", "-o", str(library), str(tmp_path / "nvml.c")], check=True
    )
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    environment["LD_LIBRARY_PATH"] = str(tmp_path)
    if visible is not None:
        environment["CUDA_VISIBLE_DEVICES"] = visible
    asked = subprocess.run(
        [sys.executable, "-c", ASK], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    devices = json.loads(asked.stdout)
    assert devices["gpu_driver"] == "550.90"
    assert [(gpu["name"], gpu["uuid"]) for gpu in devices["gpus"]] == expected
