"""`trimtab diagnose`: why a program ended, from its log and how it ended; needs no server."""

from __future__ import annotations

import json
import signal as signals
import sys
from collections import deque
from pathlib import Path
from typing import BinaryIO

from trimtab_infra.errors import UserError
from trimtab_work_pools.diagnosis import ADVICE, NEXT, SAID, Finding, of_end

__all__ = ["diagnosed", "signal_number"]

_READ = 16 * 1024 * 1024
"""Bytes at the end of a log that are read: what ended a program is there."""
_PART = 1024 * 1024


def diagnosed(log: str, exit_code: int | None, signal: str | None, as_json: bool) -> str:
    """The answer, for people or (one line of JSON) for programs. `log` is a file, or "-" for standard input.

    Raises UserError for a file that cannot be read, and for a signal that there is not.
    """
    number = None if signal is None else signal_number(signal)
    data, skipped = _tail_of(log)
    found = of_end(data.decode("utf-8", "replace"), exit_code, number, skipped + 1)
    return _json(found) if as_json else _text(found)


def signal_number(name: str) -> int:
    """Of SIGKILL, KILL, kill or 9. Raises UserError."""
    if name.isdigit() and 0 < int(name) <= 64:
        return int(name)
    try:
        return int(signals.Signals["SIG" + name.upper().removeprefix("SIG")])
    except KeyError:
        raise UserError(f"there is no signal {name!r}: give a name like SIGKILL, or a number from 1 to 64") from None


def _tail_of(log: str) -> tuple[bytes, int]:
    """The end of a log, and how many lines are before that."""
    if log == "-":
        return _last_of(sys.stdin.buffer)
    path = Path(log)
    try:
        with path.open("rb") as file:
            return _last_of(file)
    except IsADirectoryError:
        raise UserError(f"{log} is a folder: give the log file itself, or - for standard input") from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{log} cannot be read: {why}") from None


def _last_of(stream: BinaryIO) -> tuple[bytes, int]:
    kept: deque[bytes] = deque()
    size = skipped = 0
    while part := stream.read(_PART):
        kept.append(part)
        size += len(part)
        while size - len(kept[0]) >= _READ:
            first = kept.popleft()
            size -= len(first)
            skipped += first.count(b"\n")
    return b"".join(kept), skipped


def _json(found: Finding) -> str:
    cause = found.cause
    return json.dumps(
        {
            "cause": cause.value if cause else None,
            "line": found.line or None,
            "line_number": found.line_number,
            "confidence": found.confidence.value if found.confidence else None,
            "next": NEXT[cause].value if cause else None,
        }
    )


def _text(found: Finding) -> str:
    where = f" (line {found.line_number})" if found.line_number else ""
    if found.cause is None:
        what = "its own error" if found.line else "nothing in it says what happened"
        said = f"\nevidence    {found.line}{where}" if found.line else ""
        return f"cause       unknown: {what}{said}\nnext        A worker does nothing: retries are Prefect's."
    step = NEXT[found.cause]
    lines = [
        f"cause       {found.cause.value}",
        f"evidence    {found.line}{where}",
        f"confidence  {found.confidence}",
        f"next        {step.value}: {SAID[step]}",
        f"            {ADVICE[found.cause]}",
    ]
    return "\n".join(lines)
