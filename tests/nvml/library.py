"""Builds the library and says how to use it; tests are skipped, with the reason, where there is no C compiler."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("nvml.c")


@dataclass
class FakeNvml:
    """The library, and the file that says what machine it shows."""

    folder: Path

    @property
    def file(self) -> Path:
        return self.folder / "machine.txt"

    @property
    def env(self) -> dict[str, str]:
        """For processes that are to see the machine."""
        return {"LD_LIBRARY_PATH": str(self.folder), "TRIMTAB_FAKE_NVML": str(self.file)}

    def show(self, *lines: str) -> None:
        """The machine is this one from now on; it changes in one step."""
        draft = self.folder / "machine.new"
        draft.write_text("\n".join(lines) + "\n")
        draft.replace(self.file)


def build(folder: Path) -> FakeNvml:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler (cc or gcc) to build the fake NVML library with")
    command = [compiler, "-std=c11", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    command += ["-Wl,-soname,libnvidia-ml.so.1", "-o", str(folder / "libnvidia-ml.so.1"), str(SOURCE)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return FakeNvml(folder)
