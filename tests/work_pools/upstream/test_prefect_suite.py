"""Prefect's own worker tests pass with our worker classes in place of Prefect's, where they apply.

    TRIMTAB_PREFECT_SOURCE=FOLDER TRIMTAB_PREFECT_DOCKER_SOURCE=FOLDER \\
        pytest -m long tests/work_pools/upstream

The first folder is a checkout of Prefect, as near as there is to the version that is installed; the second has the
tests of prefect-docker, which its source distribution brings along (`pip download --no-deps --no-binary prefect-docker
prefect-docker==VERSION`). What Prefect's tests need beside what is installed is fetched by pip into a folder of the
test. Which tests do not apply, and which fail with Prefect's own classes too, is said in `trimtab_exceptions.py`, each
with why.
With TRIMTAB_IN_PLACE=0 the same runs with Prefect's own classes: those that fail then are not our doing.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
NEEDED = (
    "pytest-asyncio>=1.1,<1.5",
    "pytest-env",
    "pytest-xdist",
    "execnet",
    "respx",
    "time-machine",
    "opentelemetry-test-utils==0.66b1",
)
PREFECT, DOCKER = "TRIMTAB_PREFECT_SOURCE", "TRIMTAB_PREFECT_DOCKER_SOURCE"
SUITES = {
    "process": (PREFECT, "tests/workers/test_process_worker.py"),
    "base": (PREFECT, "tests/workers/test_base_worker.py"),
    "attribution": (PREFECT, "tests/workers/test_worker_attribution.py"),
    "cleanup": (PREFECT, "tests/workers/test_cleanup.py"),
    "cleanup-handlers": (PREFECT, "tests/workers/test_cleanup_handlers.py"),
    "docker": (DOCKER, "tests/test_worker.py"),
}


@pytest.fixture(scope="module")
def needed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What Prefect's tests need and ours do not, beside the environment: pytest-asyncio would change how ours run."""
    folder = tmp_path_factory.mktemp("needed")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), *NEEDED]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"what Prefect's tests need cannot be installed: {done.stderr.strip().splitlines()[-1]}")
    return folder


@pytest.mark.long
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("suite", SUITES)
def test_prefects_own_tests_pass(suite: str, request: pytest.FixtureRequest) -> None:
    variable, path = SUITES[suite]
    source = os.environ.get(variable)
    if not source:
        pytest.skip(f"{variable} names no folder with Prefect's tests")
    needed: Path = request.getfixturevalue("needed")
    own = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "PYTEST_"))}
    own.pop("PYTHONDONTWRITEBYTECODE", None)
    env = own | {
        "TRIMTAB_PREFECT_SOURCE": os.environ.get(PREFECT, source),
        "PYTHONPATH": os.pathsep.join((str(HERE), str(needed))),
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "90",
        "PREFECT_API_DATABASE_TIMEOUT": "60",
    }
    command = [sys.executable, "-m", "pytest", path, "-q", "-p", "trimtab_in_place", "-p", "no:cacheprovider"]
    command += ["-W", "default", "--timeout", "180", "--tb", "short", "-rfEs"]
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=source, check=False)
    print(done.stdout[-4000:])
    assert done.returncode == 0, done.stdout[-4000:]
    assert int((re.search(r"(\d+) passed", done.stdout) or ["", "0"])[1]) > 0
