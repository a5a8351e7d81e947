"""The stand-in NVIDIA driver of these tests: `nvml.c` built with the C compiler, and the state it answers from.

A reader of it runs in a process of its own: pynvml loads the library once for each process, and others that use NVML
(MLflow's system metrics) are not to meet GPUs that are not there.
"""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from trimtab_work_pools.inventory import Devices, Limits

SOURCE = Path(__file__).parent / "nvml.c"
SERVER = Path(__file__).parent / "nvml_server.py"


class NoCompiler(RuntimeError):
    """There is no C compiler here."""


def build(folder: Path) -> Path:
    """Compiles the library into `folder` and returns that. Raises NoCompiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise NoCompiler("no C compiler (cc, gcc or clang) is on the path")
    strict = ["-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-fvisibility=hidden"]
    target = folder / "libnvidia-ml.so.1"
    subprocess.run([compiler, *strict, "-Wl,-soname,libnvidia-ml.so.1", "-o", str(target), str(SOURCE)], check=True)
    return folder


def gpu(number: int, **values: object) -> str:
    """The line of an H100 that is well and idle, but for `values` (None: the driver does not tell)."""
    usual: dict[str, object] = {
        "uuid": f"GPU-{number}",
        "model": "NVIDIA_H100_80GB_HBM3",
        "memory": 81559,
        "used": 9,
        "reserved": 550,
        "capability": "9.0",
        "bus": f"00000000:{0x1A + number:02X}:00.0",
        "numa": 0,
        "power": 71,
        "limit": 700,
        "temperature": 33,
        "slowdown": 87,
        "utilization": 0,
        "ecc": 0,
        "remap_pending": 0,
    }
    return line("gpu", **{**usual, **values})


def line(kind: str, **values: object) -> str:
    """One line of the state."""
    return " ".join([kind, *(f"{name}={value}" for name, value in values.items() if value is not None)])


class Driver:
    """The state of a host's driver: change it while readers run."""

    def __init__(self, library: Path, folder: Path) -> None:
        self.library = library
        self.state = folder / "nvml.state"
        self._serial = 0
        self.set()

    def set(self, *lines: str, generation: int = 1, state: str = "loaded") -> None:
        """From now on the driver is so: its GPUs (in this order), slices, processes, failing calls, events."""
        first = line("driver", version="575.51.03", cuda=12090, generation=generation, state=state)
        fresh = self.state.with_suffix(".new")
        fresh.write_text("\n".join([first, *lines]) + "\n")
        fresh.replace(self.state)

    def xid(self, number: int, code: int, gi: int | None = None, stray: int | None = None) -> str:
        """An event that was not there before; a `stray` one comes although nobody watches the GPU."""
        self._serial += 1
        return line("xid", serial=self._serial, gpu=number, code=code, gi=gi, stray=stray)

    def environment(self) -> dict[str, str]:
        """For a process that is to meet this driver."""
        return {**os.environ, **self.variables()}

    def variables(self) -> dict[str, str]:
        """Which make a process meet this driver."""
        return {"LD_LIBRARY_PATH": str(self.library), "NVML_FAKE_STATE": str(self.state)}


class ReaderProcess:
    """An NvmlReader in a process of its own; honours DeviceReader."""

    def __init__(self, environment: dict[str, str], limits: Limits | None = None) -> None:
        # "-m" would put the working directory on the path; the packages come from where they come from here.
        path = os.pathsep.join(part for part in sys.path if part)
        self.process = subprocess.Popen(
            [sys.executable, str(SERVER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**environment, "PYTHONPATH": path},
        )
        self._ask("limits", limits)

    def _ask(self, what: str, value: Any = None) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        pickle.dump((what, value), self.process.stdin)
        self.process.stdin.flush()
        return pickle.load(self.process.stdout)

    def read(self) -> Devices:
        """Everything, now."""
        devices = self._ask("read")
        assert isinstance(devices, Devices)
        return devices

    def ours(self, pids: Collection[int]) -> None:
        """From now on these are the pids of our runs."""
        self._ask("ours", frozenset(pids))

    def timed_reads(self, count: int) -> list[float]:
        """Seconds of each of so many reads."""
        return [float(took_s) for took_s in self._ask("time", count)]

    def close_driver(self) -> None:
        """The reader lets the driver go."""
        self._ask("close")

    def close(self) -> None:
        """Ends the process, which must not have failed."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        code = self.process.wait()
        self.process.stdout.close()
        assert code == 0


def all_of(devices: Devices) -> dict[str, Any]:
    """GPUs by uuid."""
    return {one.uuid: one for one in devices.gpus}


def mentions(problems: Iterable[str], *words: str) -> bool:
    """One of the problems has all of the words."""
    return any(all(word in problem for word in words) for problem in problems)
