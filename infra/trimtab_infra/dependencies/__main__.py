"""`make check-deps`: a line for each thing that was looked at. Exit code 1 if one of them is wrong, 2 without pins.

What could not be looked at is said, and does not fail: a machine without a way out can still be built on.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.utils import canonicalize_name

from trimtab_infra.dependencies import asking, licences
from trimtab_infra.dependencies.pins import NotPinned, breaking, installed_as_pinned, pins_of
from trimtab_infra.doctor.findings import Finding, note


def look(file: Path, options: list[str]) -> Iterator[Finding]:
    """All findings about the pins of a file.

    Raises:
        OSError, NotPinned: there is no such file, or it pins no versions.
    """
    pins = pins_of(file.read_text(encoding="utf-8"))
    yield from breaking(pins)
    installed = {str(canonicalize_name(each.name)): each.version for each in metadata.distributions()}
    yield from installed_as_pinned(pins, installed)
    yield from asking.yanked(file, options)
    known = asking.licences()
    if known is None:
        yield note("licences", "not checked: licences (no pip-licenses; it is in the extra `infra`)")
    else:
        yield from licences.judge(known)
    with tempfile.TemporaryDirectory(prefix="trimtab-audit-") as folder:
        yield from asking.vulnerabilities(pins, Path(folder))


def main() -> int:
    """Arguments: the file of pins, and options for `uv pip compile`."""
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("constraints.txt")
    wrong = 0
    try:
        for found in look(file, sys.argv[2:]):
            print(found, flush=True)  # noqa: T201 - what the command is for
            wrong += found.verdict == "FAULT"
    except (OSError, NotPinned) as error:
        said = error.strerror if isinstance(error, OSError) else error
        print(f"check-deps: {file}: {said}", file=sys.stderr)  # noqa: T201
        return 2
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
