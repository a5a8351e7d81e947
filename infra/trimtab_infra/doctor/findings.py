"""What a check found: a verdict, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

__all__ = ["Check", "Finding", "fault", "fine", "note", "safely"]

#: ``note``: nothing is wrong, or nothing could be looked at.
Verdict = Literal["ok", "note", "FAULT"]


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, what was seen, and for a fault what to do."""

    verdict: Verdict
    part: str
    seen: str
    todo: str = ""

    def __str__(self) -> str:
        line = f"{self.verdict:<6} {self.part:<16} {self.seen}" + (f" -> {self.todo}" if self.todo else "")
        return " ".join(line.splitlines())


Check = Callable[[], Iterator[Finding]]


def fine(part: str, seen: str) -> Finding:
    """Nothing is wrong."""
    return Finding("ok", part, seen)


def note(part: str, seen: str, todo: str = "") -> Finding:
    """Worth knowing; the exit code stays 0."""
    return Finding("note", part, seen, todo)


def fault(part: str, seen: str, todo: str) -> Finding:
    """Something does not work, or will not."""
    return Finding("FAULT", part, seen, todo)


def safely(part: str, check: Check) -> Iterator[Finding]:
    """What a check finds; a check that breaks is a finding too, and the others go on."""
    try:
        yield from check()
    except Exception as error:  # noqa: BLE001 - whatever it is, a person is told in one line
        said = str(error).strip() or "no message"
        yield fault(part, f"{type(error).__name__}: {said.splitlines()[0][:300]}", "the other checks went on")
