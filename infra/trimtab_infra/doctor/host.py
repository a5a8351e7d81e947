"""Whether this machine is fit: settings, byte code, disk, GPUs and their driver."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from trimtab_blocks.settings import Settings, unknown
from trimtab_infra.doctor.findings import Finding, fault, fine, note

__all__ = ["bytecode", "disk", "gpus", "settings_known", "space"]

#: Free space below which a training, an ingest or a database is about to fail, or may.
FULL_BYTES, TIGHT_BYTES = 1 << 30, 5 << 30


def settings_known(environment: Mapping[str, str]) -> Iterator[Finding]:
    """Variables that look like settings and are none have no effect."""
    names = unknown(environment)
    if names:
        yield fault("settings", f"no setting is called {', '.join(names)}", "see infra/SETTINGS.md for the names")
    else:
        ours = sum(name.startswith("TRIMTAB_") for name in environment)
        yield fine("settings", f"{ours} in the environment, all known")


def bytecode(environment: Mapping[str, str], embedded: bool) -> Iterator[Finding]:
    """Without byte code every process imports Prefect four times slower."""
    if environment.get("PYTHONDONTWRITEBYTECODE") and not environment.get("PYTHONPYCACHEPREFIX"):
        seen = "PYTHONDONTWRITEBYTECODE is set: every process imports Prefect in 4.5 s instead of 1.1 s"
        # `trimtab up` takes it out of the environment of what it starts.
        tell = note if embedded else fault
        yield tell("byte code", seen, "unset it where workers, servers and your own commands are started")
    else:
        yield fine("byte code", "is written")


def disk(settings: Settings) -> Iterator[Finding]:
    """Free space and the right to write, where this machine's processes write."""
    embedded = settings.stack == "embedded"
    folders = {"disk of state": settings.state} if embedded else {"disk of work": Path()}
    for part, folder in {**folders, "disk of temp": Path(tempfile.gettempdir())}.items():
        there = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
        yield space(part, there, shutil.disk_usage(there).free, os.access(there, os.W_OK))


def space(part: str, folder: Path, free_bytes: int, writable: bool) -> Finding:
    """The verdict on one folder."""
    seen = f"{free_bytes / (1 << 30):.1f} GiB free at {folder}"
    if not writable:
        return fault(part, f"{folder} cannot be written", "give this user the right to, or name another folder")
    if free_bytes < FULL_BYTES:
        return fault(part, seen, "free some space, or name another disk")
    if free_bytes < TIGHT_BYTES:
        return note(part, seen, "a year of flights takes 1 GiB; free some space soon")
    return fine(part, seen)


def gpus() -> Iterator[Finding]:
    """What the workers' own inventory says of this host."""
    from trimtab_work_pools.inventory import open_reader

    reader = open_reader(Path.cwd())
    try:
        reading = reader.read()
    finally:
        reader.close()
    devices = reading.devices
    for gpu in devices.gpus:
        for reason in gpu.health.reasons:
            yield fault("gpu", f"GPU {gpu.index} ({gpu.uuid}): {reason}", "no run gets it until that is mended")
    for problem in reading.problems:
        yield note("gpu", problem, "fine where no run asks for a GPU" if not devices.gpus else "")
    if devices.gpus:
        models = ", ".join(sorted({gpu.model or "unknown model" for gpu in devices.gpus}))
        yield fine("gpu", f"{len(devices.gpus)} ({models}), driver {devices.driver_version or 'unknown'}")
    elif not reading.problems:
        yield note("gpu", "none here; runs that ask for none are fine")
