"""Pinned versions against what is installed, and against what is known to break. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from trimtab_infra.doctor.findings import Finding, fault, fine
from trimtab_infra.doctor.packages import BREAKS, Breaks

__all__ = ["BY_ITSELF", "NotPinned", "breaking", "installed_as_pinned", "pins_of"]

#: What Python's own tools put into an environment, whatever is pinned; and Trimtab itself.
BY_ITSELF = frozenset({"pip", "setuptools", "wheel", "trimtab"})


class NotPinned(ValueError):
    """A line of the pins that names no single version."""


def pins_of(text: str) -> dict[str, str]:
    """Version by canonical name, of a constraints file.

    Raises:
        NotPinned: a line says anything but ``name==version``; the message has the line.
    """
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        stated = line.partition("#")[0].strip()
        if not stated:
            continue
        try:
            one = Requirement(stated)
            (only,) = one.specifier
        except ValueError:
            raise NotPinned(f"line {number}, {stated!r}, pins no version; it must be name==version") from None
        if only.operator != "==" or "*" in only.version:
            raise NotPinned(f"line {number}, {stated!r}, pins no version; it must be name==version")
        found[str(canonicalize_name(one.name))] = only.version
    return found


def breaking(pins: Mapping[str, str], breaks: Iterable[Breaks] = BREAKS) -> Iterator[Finding]:
    """Pins to versions that are known not to work."""
    wrong = [
        fault(known.package, f"{pins[known.package]} is pinned: {known.why}", f"pin one that is not {known.versions}")
        for known in breaks
        if known.package in pins and SpecifierSet(known.versions).contains(pins[known.package], prereleases=True)
    ]
    yield from wrong or [fine("known to break", "no pinned version is")]


def installed_as_pinned(pins: Mapping[str, str], installed: Mapping[str, str]) -> Iterator[Finding]:
    """What is installed against the pins, both by canonical name."""
    free = sorted(set(installed) - set(pins) - BY_ITSELF)
    for name in free:
        yield fault(name, f"{installed[name]} is installed and not pinned", "make constraints, or uninstall it")
    other = sorted(name for name in set(installed) & set(pins) if installed[name] != pins[name])
    for name in other:
        yield fault(
            name, f"{installed[name]} is installed, and {pins[name]} is pinned", f"pip install {name}=={pins[name]}"
        )
    if not free and not other:
        yield fine("pinned", f"all of {len(set(installed) & set(pins))} installed packages, of {len(pins)} pins")
