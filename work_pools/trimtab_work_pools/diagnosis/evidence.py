"""Finds what ended a program in what it left: its output and its exit code. Pure.

Read from the end. The last error decides, unless it only says that another one failed ("1/1 states failed", a launcher
whose rank has died): then the one before it does. So an error that a program dealt with, and went on from, is none.
"""

from __future__ import annotations

import re
import signal as signals
from collections.abc import Sequence
from dataclasses import dataclass, replace

from trimtab_work_pools.diagnosis.causes import Cause, Confidence
from trimtab_work_pools.diagnosis.log import Error, Link, errors, is_hint
from trimtab_work_pools.diagnosis.retold import retold
from trimtab_work_pools.diagnosis.rules import Match, match

__all__ = ["UNKNOWN", "Finding", "of_end", "of_exit", "of_log", "of_texts", "signal_name"]

_SHOWN = 500
"""Characters of the line that is shown."""
_OWN = frozenset(
    {
        "ZeroDivisionError",
        "TypeError",
        "KeyError",
        "IndexError",
        "AttributeError",
        "NameError",
        "UnboundLocalError",
        "NotImplementedError",
        "ModuleNotFoundError",
        "SyntaxError",
    }
)
"""These are the program's own fault, whatever words they quote."""
_BUGS = _OWN | {"AssertionError", "ValueError", "ImportError"}
"""Raised while another error was handled, these are the program's own fault too, and the other was dealt with."""

_ABORTED = re.compile(r"Aborted \(core dumped\)")
"""What a shell says of a program that has ended itself: it has written the reason before that."""


@dataclass(frozen=True, slots=True)
class Finding:
    """`cause` None with a `line`: that line is the program's own error; without one: nothing says what happened."""

    cause: Cause | None = None
    line: str = ""
    line_number: int | None = None
    confidence: Confidence | None = None

    @property
    def settled(self) -> bool:
        """There is nothing more to look for."""
        return bool(self.line)


UNKNOWN = Finding()


def of_log(text: str, first_number: int = 1) -> Finding:
    """What the output of a program says."""
    return _decide(list(errors(text, first_number)))


def of_texts(texts: Sequence[str]) -> Finding:
    """What several texts say, the most telling first: a state's message, those of its tasks, the log."""
    for text in texts:
        found = of_log(text)
        if found.settled:
            return found
    return UNKNOWN


def _decide(found: Sequence[Error]) -> Finding:
    dealt_with, weak = False, UNKNOWN
    for error in reversed(found):
        if error.recovered:
            dealt_with = True
            continue
        if error.raised and weak.cause is Cause.BAD_EXIT:  # an exception of Python aborts nothing
            return weak
        evidence = _evidence(error)
        if evidence is not None and not (dealt_with and evidence.cause in (Cause.GPU_MEMORY, Cause.HOST_MEMORY)):
            if evidence.confidence is not Confidence.LOW and not _ABORTED.match(error.text):
                return _finding(error, evidence)
            weak = weak if weak.settled else _finding(error, evidence)
        elif evidence is None and error.raised and not _goes_on(error):
            return weak if weak.settled else Finding(line=_cut(error.text), line_number=error.number)
    return weak


def _evidence(error: Error) -> Match | None:
    found = None if _kind(error) in _OWN else match(error.text)
    if found is None or (not error.raised and is_hint(error.text, found.start)):
        return None
    return found


def _goes_on(error: Error) -> bool:
    """Whether what led to it is still to be looked for, before it."""
    if retold(error.text) or error.in_group or error.link is Link.CAUSE:
        return True
    return error.link is Link.CONTEXT and _kind(error) not in _BUGS


def _kind(error: Error) -> str:
    """The class of an exception, without its module; "" of what is none."""
    return re.split(r"[:(\n]", error.text, maxsplit=1)[0].rpartition(".")[2].strip() if error.raised else ""


def _finding(error: Error, evidence: Match) -> Finding:
    before = error.text[: evidence.start].count("\n")
    line = error.text.split("\n")[before]
    return Finding(evidence.cause, _cut(line), error.number + before, evidence.confidence)


def _cut(line: str) -> str:
    line = " ".join(line.split())
    return line if len(line) <= _SHOWN else line[: _SHOWN - 3] + "..."


def of_exit(exit_code: int | None, signal: int | None = None) -> Finding:
    """What the end of a process says by itself. `exit_code` as in a shell or as in subprocess (negative: a signal).

    SIGKILL is what the kernel sends when memory is short, but others send it too.
    """
    number = signal or _signal_of(exit_code)
    if number is None:
        return UNKNOWN
    said = f"ended by {signal_name(number)}" + ("" if exit_code is None else f" (exit code {exit_code})")
    if number == signals.SIGKILL:
        return Finding(Cause.HOST_MEMORY, said, None, Confidence.LOW)
    if number in (signals.SIGSEGV, signals.SIGABRT, signals.SIGBUS, signals.SIGILL, signals.SIGFPE):
        return Finding(Cause.BAD_EXIT, said, None, Confidence.MEDIUM)
    return UNKNOWN


def of_end(text: str, exit_code: int | None, signal: int | None, first_number: int = 1) -> Finding:
    """Output and exit code together: the words say more, where there are any."""
    if exit_code == 0 and signal is None:
        return UNKNOWN
    found, ended = of_log(text, first_number), of_exit(exit_code, signal)
    if found.cause is not None and found.cause == ended.cause and found.confidence is Confidence.MEDIUM:
        return replace(found, confidence=Confidence.HIGH)
    return found if found.settled else ended


def _signal_of(exit_code: int | None) -> int | None:
    if exit_code is None:
        return None
    number = -exit_code if exit_code < 0 else exit_code - 128
    return number if 0 < number <= 64 else None


def signal_name(number: int) -> str:
    """Like "SIGKILL"."""
    try:
        return signals.Signals(number).name
    except ValueError:
        return f"signal {number}"
