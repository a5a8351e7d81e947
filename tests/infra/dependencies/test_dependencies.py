"""The audit of pinned packages: with a version that its makers withdrew, and with servers that say nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from trimtab_infra.dependencies.asking import VULNERABILITIES_UNKNOWN, judge_vulnerabilities, vulnerabilities, yanked
from trimtab_infra.dependencies.licences import fits, judge
from trimtab_infra.dependencies.pins import NotPinned, breaking, installed_as_pinned, pins_of
from trimtab_infra.doctor.findings import Finding

ROOT = Path(__file__).parents[3]

#: A port that nothing listens on.
NOWHERE = ["--default-index", "http://127.0.0.1:9/simple", "--no-cache"]


@pytest.fixture(autouse=True)
def asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")


def faults(findings: list[Finding]) -> list[str]:
    return [f"{found.part}: {found.seen}" for found in findings if found.verdict == "FAULT"]


def pinned(folder: Path, *pins: str) -> Path:
    file = folder / "pins.txt"
    file.write_text("\n".join(pins))
    return file


def test_a_version_that_was_withdrawn_is_found_with_the_reason(tmp_path: Path) -> None:
    """attrs 21.1.0 was yanked on the day that it was released."""
    found = list(yanked(pinned(tmp_path, "attrs==21.1.0", "numpy==2.4.6")))
    if found[0].verdict == "note":
        pytest.skip(found[0].seen)
    assert faults(found) == ["attrs: 21.1.0 is yanked: Installable but not importable on Python 3.4."]


def test_a_version_that_was_never_there_is_found(tmp_path: Path) -> None:
    found = list(yanked(pinned(tmp_path, "attrs==21.1.77")))
    if found[0].verdict == "note":
        pytest.skip(found[0].seen)
    assert faults(found) == ["attrs==21.1.77: the package index has it no more"]


def test_an_index_that_does_not_answer_is_told_and_is_no_clean_bill(tmp_path: Path) -> None:
    (found,) = yanked(pinned(tmp_path, "attrs==21.1.0"), NOWHERE)
    assert (found.verdict, found.seen.startswith("not checked: yanked versions (the package index")) == ("note", True)


def test_pins_are_read_and_what_pins_nothing_is_refused() -> None:
    assert pins_of("# why\nA_b==1.0\n\nc==2 # d\n") == {"a-b": "1.0", "c": "2"}
    for line in ("a>=1", "a==1.*", "a", "-e .", "a==1,<2"):
        with pytest.raises(NotPinned, match="line 2"):
            pins_of(f"b==1\n{line}")


def test_what_breaks_and_what_is_not_pinned_is_named() -> None:
    assert faults(list(breaking({"fastapi": "0.160.0", "httpx": "1"})))[0].startswith(
        "fastapi: 0.160.0 is pinned: Prefect"
    )
    assert faults(list(breaking(pins_of((ROOT / "constraints.txt").read_text())))) == []
    installed = {"a": "1", "b": "2", "pip": "23", "trimtab": "0"}
    assert faults(list(installed_as_pinned({"a": "1", "c": "3"}, installed))) == ["b: 2 is installed and not pinned"]
    assert faults(list(installed_as_pinned({"a": "2"}, {"a": "1"}))) == ["a: 1 is installed, and 2 is pinned"]


@pytest.mark.parametrize(
    ("licence", "fit"),
    [
        ("MIT", True),
        ("Apache-2.0 OR GPL-3.0-only", True),
        ("MPL-2.0 AND (Apache-2.0 OR MIT)", True),
        ("GNU Library or Lesser General Public License (LGPL)", True),
        ("Artistic License; GNU General Public License (GPL)", True),
        ("MIT License\n\nCopyright (c) 2020 GPL", True),
        ("MIT AND GPL-3.0-only", False),
        ("GNU General Public License v3 (GPLv3)", False),
        ("AGPL-3.0-or-later", False),
        ("SSPL-1.0", False),
        ("BUSL-1.1", False),
        ("UNKNOWN", False),
        ("", False),
    ],
)
def test_a_licence_fits_or_is_looked_at(licence: str, fit: bool) -> None:
    assert fits(licence) is fit
    assert (faults(list(judge([("pack", licence)]))) == []) is fit
    assert faults(list(judge([("Pack", licence)], {"pack": "looked at"}))) == []


def test_vulnerabilities_that_nobody_looked_for_are_told(tmp_path: Path) -> None:
    """pip-audit says of a package that its source does not know: none found."""
    (found,) = vulnerabilities({"trimtab-is-on-no-index": "1.0"}, tmp_path)
    assert (found.verdict, found.seen) == ("note", f"{VULNERABILITIES_UNKNOWN} (no source can be reached)")
    assert [one.seen for one in vulnerabilities({}, tmp_path)] == [found.seen]


def test_vulnerabilities_that_are_known_are_faults() -> None:
    bug = {"id": "PYSEC-1", "fix_versions": ["2.1"]}
    audited = [{"name": "a", "version": "1", "vulns": [bug]}, {"name": "b", "skip_reason": "not found"}]
    told = list(judge_vulnerabilities(audited))
    assert [(one.verdict, one.part, one.todo) for one in told] == [
        ("note", "vulnerabilities", ""),
        ("FAULT", "a", "pin 2.1"),
    ]
    assert "of 1 packages (b)" in told[0].seen
    assert [one.seen for one in judge_vulnerabilities([{"name": "a", "version": "1", "vulns": []}])] == [
        "none known of 1 packages"
    ]


def test_the_command_ends_with_1_on_a_finding_and_with_2_without_pins(tmp_path: Path) -> None:
    def audit(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "trimtab_infra.dependencies", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    bad = audit(str(pinned(tmp_path, "fastapi==0.160.0")), *NOWHERE)
    assert (bad.returncode, "FAULT  fastapi" in bad.stdout, "not checked: yanked" in bad.stdout) == (1, True, True), bad
    for file, said in ((tmp_path / "none.txt", "No such file"), (pinned(tmp_path, "a>1"), "pins no version")):
        refused = audit(str(file))
        assert (refused.returncode, refused.stderr.count("\n"), said in refused.stderr) == (2, 1, True), refused.stderr
