"""What only others know: the package index (through uv), licences (pip-licenses), known vulnerabilities (pip-audit).

A tool that is not there, and a server that cannot be reached, is told as ``not checked``: never as all well.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from trimtab_infra.doctor.findings import Finding, fault, fine, note

__all__ = ["VULNERABILITIES_UNKNOWN", "licences", "vulnerabilities", "yanked"]

_YANKED = re.compile(r"`(?P<name>[^=`]+)==(?P<version>[^`]+)` is yanked(?: \(reason: \"(?P<why>.*)\"\))?")
_GONE = re.compile(r"there is no version of (?P<pin>\S+==[^\s,]+)|(?P<name>\S+) was not found in the package registry")
_WITHIN_S = 300

VULNERABILITIES_UNKNOWN = "not checked: known vulnerabilities"


def yanked(pins: Path, options: Sequence[str] = ()) -> Iterator[Finding]:
    """Pinned versions that their makers have withdrawn, or that are gone from the index.

    Args:
        pins: a constraints file.
        options: of ``uv pip compile``, such as another index.
    """
    asked = _run(
        "uv",
        "pip",
        "compile",
        "--no-deps",
        "--no-header",
        "--color",
        "never",
        "--python",
        sys.executable,
        *options,
        str(pins),
    )
    if asked is None:
        yield note("yanked", "not checked: yanked versions (no uv)", "pip install uv")
        return
    wrong = [
        fault(
            found["name"], f"{found['version']} is yanked: {found['why'] or 'no reason given'}", "pin another version"
        )
        for found in _YANKED.finditer(asked.stderr)
    ]
    if asked.returncode:
        said = " ".join(asked.stderr.split())
        gone = _GONE.search(said)
        if gone is None:
            yield note("yanked", f"not checked: yanked versions (the package index does not answer: {said[-200:]})")
        else:
            wrong.append(fault(gone["pin"] or gone["name"], "the package index has it no more", "pin another version"))
    elif not wrong:
        yield fine("yanked", "no pinned version is")
    yield from wrong


def licences() -> list[tuple[str, str]] | None:
    """Name and licence of each package that is installed beside this one; None: no pip-licenses."""
    asked = _run("pip-licenses", "--python", sys.executable, "--from", "mixed", "--with-system", "--format", "json")
    if asked is None or asked.returncode:
        return None
    return [(one["Name"], one["License"]) for one in json.loads(asked.stdout) if one["Name"] != "trimtab"]


def vulnerabilities(pins: Mapping[str, str], folder: Path) -> Iterator[Finding]:
    """Known vulnerabilities of pinned versions, as far as a source knows the packages.

    pip-audit passes over what its source does not know, and ends well: so it is asked for one package first.
    """
    first = next(iter(pins.items()), None)
    probe = _audit([first], folder) if first else None
    if probe is None or not any("vulns" in one for one in probe):
        yield note("vulnerabilities", f"{VULNERABILITIES_UNKNOWN} (no source can be reached)")
        return
    known = _audit(list(pins.items()), folder)
    if known is None:
        yield note("vulnerabilities", f"{VULNERABILITIES_UNKNOWN} (pip-audit did not end well)")
        return
    yield from judge_vulnerabilities(known)


def judge_vulnerabilities(audited: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """Findings of what pip-audit says of each dependency."""
    wrong = [
        fault(
            one["name"],
            f"{one['version']} has {bug['id']}",
            f"pin {' or '.join(bug['fix_versions'])}" if bug.get("fix_versions") else "no version mends it yet",
        )
        for one in audited
        for bug in one.get("vulns", ())
    ]
    skipped = sorted(one["name"] for one in audited if "vulns" not in one)
    if skipped:
        shown = ", ".join(skipped[:5]) + (" ..." if len(skipped) > 5 else "")
        yield note("vulnerabilities", f"{VULNERABILITIES_UNKNOWN} of {len(skipped)} packages ({shown})")
    if not wrong:
        yield fine("vulnerabilities", f"none known of {len(audited) - len(skipped)} packages")
    yield from wrong


def _audit(pins: Sequence[tuple[str, str]], folder: Path) -> list[dict[str, Any]] | None:
    """What pip-audit says of some pins; None where it or its source is not there."""
    file = folder / "pins.txt"
    file.write_text("".join(f"{name}=={version}\n" for name, version in pins))
    options = ("--format", "json", "--no-deps", "--disable-pip", "--progress-spinner", "off", "--timeout", "10")
    asked = _run("pip-audit", *options, "-r", str(file))
    # 1: it found something, or it broke: then it writes no JSON.
    if asked is None or asked.returncode not in (0, 1):
        return None
    try:
        found: list[dict[str, Any]] = json.loads(asked.stdout)["dependencies"]
    except (ValueError, KeyError):
        return None
    return found


def _run(name: str, *options: str) -> subprocess.CompletedProcess[str] | None:
    """A tool beside this Python, or on the path; None: it is not there."""
    beside = Path(sys.executable).parent / name
    program = str(beside) if beside.exists() else shutil.which(name)
    if program is None:
        return None
    try:
        return subprocess.run([program, *options], capture_output=True, text=True, timeout=_WITHIN_S, check=False)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess([program], 124, "", f"{name} had not ended after {_WITHIN_S} s")
