"""Whether what is installed is what Trimtab was made for, and none of it is known to break. ``judge`` is pure."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from trimtab_infra.doctor.findings import Finding, fault, fine

__all__ = ["BREAKS", "Breaks", "judge", "look"]


@dataclass(frozen=True)
class Breaks:
    """Versions of a package that do not work, and why."""

    package: str
    versions: str
    why: str


#: Each was met; pip resolves some of them by itself where nothing forbids it.
BREAKS = (
    Breaks("fastapi", ">=0.151", "Prefect 3.8.8's server does not start with it (Body(**extra) is gone)"),
    Breaks("prefect", ">=3.9", "the workers use private hooks of Prefect 3.8"),
    Breaks("mlflow", ">=3.18", "the metric plugin and migration know the tables of MLflow 3.17"),
)


def look() -> Iterator[Finding]:
    """This Python and what is installed in it."""
    version = ".".join(map(str, sys.version_info[:3]))
    yield fine("python", version)  # an older one does not install Trimtab
    found = {str(canonicalize_name(each.name)): each.version for each in metadata.distributions()}
    yield from judge(metadata.requires("trimtab") or [], found)


def judge(
    requires: Iterable[str], installed: Mapping[str, str], breaks: Iterable[Breaks] = BREAKS
) -> Iterator[Finding]:
    """Installed versions (by canonical name) against requirements, and against what is known to break."""
    wrong: dict[str, Finding] = {}
    wanted = [Requirement(text) for text in requires]
    needed = {
        str(canonicalize_name(one.name)): one
        for one in wanted
        if one.marker is None or one.marker.evaluate({"extra": ""})
    }
    for name, one in needed.items():
        if name not in installed:
            wrong[name] = fault(name, "not installed", f"pip install '{one.name}{one.specifier}'")
        elif not one.specifier.contains(installed[name], prereleases=True):
            seen = f"{installed[name]}, and Trimtab needs {one.specifier}"
            wrong[name] = fault(name, seen, f"pip install '{one.name}{one.specifier}'")
    for known in breaks:
        version = installed.get(known.package)
        if version is not None and SpecifierSet(known.versions).contains(version, prereleases=True):
            use = needed[known.package].specifier if known.package in needed else f"!={version}"
            wrong[known.package] = fault(
                known.package, f"{version}: {known.why}", f"pip install '{known.package}{use}'"
            )
    if wrong:
        yield from wrong.values()
    else:
        shown = ", ".join(f"{name} {installed[name]}" for name in ("prefect", "mlflow", "fastapi") if name in installed)
        yield fine("packages", f"{len(needed)} requirements are met ({shown})")
