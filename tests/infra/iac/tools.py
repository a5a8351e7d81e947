"""The tools that read the files of infra/. Where one is missing, the test is skipped and says so."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

INFRA = Path(__file__).parents[3] / "infra"


def run(name: str, *options: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a tool in infra/; the test is skipped where it is not installed."""
    beside = Path(sys.executable).parent / name
    program = str(beside) if beside.exists() else shutil.which(name)
    if program is None:
        pytest.skip(f"not checked: no {name} (it is in the extra `infra`)")
    return subprocess.run([program, *options], cwd=INFRA, env=environment, capture_output=True, text=True, timeout=60)
