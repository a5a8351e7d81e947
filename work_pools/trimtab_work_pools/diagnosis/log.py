"""Reads a program's output as a list of errors, in order: tracebacks with how they are chained, and lines that are
errors by themselves. Pure.

Of a traceback its last line counts (the frames are code, and code talks of errors that did not happen). A line that was
logged below ERROR is no error, nor is a sentence about one ("to avoid CUDA out of memory, ...").
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Error", "Link", "bare", "errors", "level_of"]


class Link(StrEnum):
    """How an error hangs together with the one before it: `raise ... from`, or raised while that was handled."""

    CAUSE = "cause"
    CONTEXT = "context"


@dataclass(frozen=True, slots=True)
class Error:
    """`text` is what the error says, without what a logger puts before it; it begins in line `number` (from 1).

    `raised`: it has the form of an exception (else it is a line that may or may not be an error). `in_group`: one of
    several of an exception group. `recovered`: no error, but the word that one was dealt with.
    """

    text: str
    number: int
    raised: bool = False
    link: Link | None = None
    in_group: bool = False
    recovered: bool = False


_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_STAMP = r"\d{4}-\d\d-\d\d[T _]?\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?"
_PREFIX = re.compile(
    r"(?:"
    r"\[?" + _STAMP + r"\]?|\[?\d\d:\d\d:\d\d(?:[.,]\d+)?\]?|\d\d:\d\d:\d\d\.\d+"
    r"|[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \S+"  # syslog
    r"|\[ *\d+\.\d{4,}\]|<\d>"  # dmesg
    r"|\[(?:default|rank)?\d+(?:,\d+)?\](?:<\w+>)?:?|\[rank\d+\]:?"
    r"|\([\w.:]+(?: \w+=[^)\s]+)*(?:,? \w+=[^)\s]+)*\)(?= )"  # (EngineCore pid=1), (train pid=1, ip=...)
    r"|std(?:out|err) [FP]\b|[\w.-]+ +\|(?= )|kernel:|E(?= {3})"
    r"|(?:DEBUG|INFO|NOTICE|WARN(?:ING)?|ERROR|CRITICAL|FATAL)(?: \d\d-\d\d)?(?=[ :|\]-])"
    r"|\[[\w./-]+\.(?:py|cc|cpp):\d+\]"
    r"|[-|:]+(?= )|[IWEF]\d{4}(?= )|[IWEF](?= \S+\.(?:cc|cpp|cu|h):\d+)|\S+\.(?:cc|cpp|cu|h):\d+\]"
    r") *"
)
_LEVEL = re.compile(
    r"(?<![A-Za-z_])(DEBUG|INFO|NOTICE|WARN|WARNING|ERROR|CRITICAL|FATAL)(?![A-Za-z_])"
    r"|(?:\blevel\"?[=:] ?\"?|\[)(debug|info|notice|warn|warning|error|critical|fatal)\b",
)
_GLOG = re.compile(
    r"^(?:\[?[\d,]+\]?(?:<\w+>:)?)?(?:" + _STAMP + r": )?([IWEF])(?:\d{4} \d\d:\d\d:\d\d| \S+\.(?:cc|cpp|cu|h):)"
)
_WARNING = re.compile(r"\b\w*Warning: |warnings\.warn\(|^Warning: ", re.IGNORECASE)
_LOW = frozenset({"DEBUG", "INFO", "NOTICE", "WARN", "WARNING", "I", "W"})
_LEVEL_WITHIN = 160

_TRACEBACK = re.compile(r"(?:Exception Group )?Traceback \(most recent call last\):")
_CAUSE = "The above exception was the direct cause of the following exception:"
_CONTEXT = "During handling of the above exception, another exception occurred:"
_RAISED = re.compile(
    r"^(?:[A-Za-z_][\w.]*\.)?[A-Za-z_]\w*(?:Error|Exception|Exit|Interrupt|Refused|Fault|Group|Died)\b *(?:[:(]|$)"
)
_SAID = re.compile(
    r"(?:encountered an exception[:.]?|Encountered exception during execution:|Caused by:"
    r"|Exception in thread \"[^\"]*\""
    r"|The above exception was:|Uncaught exception:|ray::\S+ \(pid=[^)]*\)) +"
)
_COMPLETED = re.compile(r"Finished in state Completed\(|\bexited with (?:status )?code:? 0\b")
_RECOVERED = re.compile(
    r"\b(?:caught|handled|recovered|skipping|skipped|retrying|retry with|trying again|falling back|resuming|halving)\b",
    re.IGNORECASE,
)
_HINT_BEFORE = re.compile(
    r"\b(?:to (?:avoid|prevent|reduce|fix|debug)|avoid(?:s|ing)?|prevent(?:s|ing)?|in case of"
    r"|if (?:you|it|there|the|this|we)"
    r"|may|might|can|could (?:be|cause|lead|run|result)|would|whether|when(?:ever)?|unless|until"
    r"|instead of|without|not|never|no|handles?|catch(?:es)?|estimate\w*|checks?"
    r"|simulat\w+|tests?|example|see|known|usage|help)"
    r"\b[^.;\n]*$",
    re.IGNORECASE,
)
_HINT_AFTER = re.compile(
    r"^[^.;\n]*\bout of memory(?: errors?| count)?(?: ?[:=] ?| )\d+\s*$|"
    r"^[^.;\n]*\b(?:can be avoided|(?:may|might|can) occur|happens (?:if|when)|is (?:caught|handled)"
    r"|errors? (?:is|are) (?:caught|handled)|handling|handler"
    r"|protection|guard|retries|policy|score|detection|mitigation)\b",
    re.IGNORECASE,
)
_CODE = re.compile(
    r"^\s*(?:#|//|\*|\"\"\"|'''|>>>|--?[a-z]|usage:|options:"
    r"|except\b.*:|raise\b|def\b|class\b|import\b|from\b.*\bimport\b|assert\b)"
)
_CONTINUED = 40
"""Lines of one message, at most."""
_LINE = 8000
"""Characters of a line that are read."""


def level_of(line: str) -> str:
    """The level that a line was logged at, as the logger writes it; "" if it does not say."""
    if (glog := _GLOG.match(line)) is not None:
        return glog[1]
    found = _LEVEL.search(line, 0, _LEVEL_WITHIN)
    if found is not None and not re.search(r"Error|Exception|Traceback|NCCL", line[: found.start()]):
        return (found[1] or found[2]).upper()
    return "WARNING" if _WARNING.search(line, 0, _LEVEL_WITHIN) else ""


def bare(line: str) -> str:
    """The line without what loggers, launchers and the kernel put before it."""
    while (prefix := _PREFIX.match(line)) is not None and prefix.end():
        line = line[prefix.end() :].lstrip() if line[prefix.end() :].strip() else line[prefix.end() :]
    return line


def is_hint(text: str, start: int, end: int | None = None) -> bool:
    """The words at `start` are in a sentence about an error, not in one."""
    before = re.split(r"[.;!?](?= )|: ", text[:start])[-1]
    return bool(_HINT_BEFORE.search(before) or _HINT_AFTER.match(text[start : end or start + 160]))


def errors(text: str, first_number: int = 1) -> Iterator[Error]:
    """All errors of a text, in order. `first_number` is that of its first line."""
    lines = [_clean(line) for line in text.split("\n")]
    at, link = 0, None
    while at < len(lines):
        line = lines[at]
        head = _TRACEBACK.search(line)
        if head is not None:
            at, found = _traceback(lines, at, head.start(), first_number, link)
            link = None
            yield from found
            continue
        if line.rstrip().endswith(_CAUSE):
            link = Link.CAUSE
        elif line.rstrip().endswith(_CONTEXT):
            link = Link.CONTEXT
        elif line.strip(" |+-"):
            found_line = _plain(line, at + first_number)
            if found_line is not None:
                yield found_line
            # JAX and others put a note between two tracebacks that belong together.
            if found_line is not None and found_line.raised:
                link = None
        at += 1


def _clean(line: str) -> str:
    """Without colours and junk; of a line that a progress bar wrote again and again, the last state."""
    return _ANSI.sub("", line.rstrip("\r").rsplit("\r", 1)[-1][:_LINE])


def _traceback(
    lines: Sequence[str], at: int, column: int, first_number: int, link: Link | None
) -> tuple[int, list[Error]]:
    """Reads from the head on; returns the line after its message, and the error."""
    shape = _shape(lines[at][:column])
    in_group = "|" in lines[at][:column] or "Exception Group" in lines[at]
    at += 1
    while at < len(lines):
        inner = _inner(lines[at], shape)
        if not inner.strip() or inner[0] in " \t" or _is_note(inner):
            at += 1
            continue
        break
    if at >= len(lines) or not _inner(lines[at], shape).strip(" |\t")[:1].isidentifier():
        return at, []  # cut off, or quoted inside another
    message, number = [_inner(lines[at], shape).strip()], at + first_number
    at += 1
    while at < len(lines) and len(message) < _CONTINUED and _continues(lines[at], message, shape):
        message.append(_inner(lines[at], shape).strip())
        at += 1
    return at, [Error("\n".join(message), number, raised=True, link=link, in_group=in_group)]


def _is_note(inner: str) -> bool:
    return inner.startswith("[Previous line repeated") or set(inner.strip()) <= set("^~-+|")


def _continues(line: str, message: list[str], shape: re.Pattern[str] | None) -> bool:
    """Whether a line belongs to the message that has begun. Most have one line; some announce more."""
    inner = _inner(line, shape)
    if _TRACEBACK.search(line) or inner.strip().endswith((_CAUSE, _CONTEXT)) or _RAISED.match(inner):
        return False
    if inner[:1] in ("\t", " "):
        return bool(inner.strip())
    announced = message[0].rstrip().endswith((":", "`")) or "ResourceExhausted" in message[0]
    return announced and not level_of(line) and not _PREFIX.match(inner)


def _shape(prefix: str) -> re.Pattern[str] | None:
    """Of what stands before each line of a traceback: times and colours change, its form does not."""
    if not prefix.strip():
        return re.compile(re.escape(prefix)) if prefix else None
    return re.compile("".join(r"\d" if c.isdigit() else "[+|]" if c in "+|" else re.escape(c) for c in prefix))


def _inner(line: str, shape: re.Pattern[str] | None) -> str:
    found = shape.match(line) if shape is not None else None
    return line[found.end() :] if found is not None else line


def _plain(line: str, number: int) -> Error | None:
    text = bare(line.strip())
    if _COMPLETED.search(text):
        return Error(text, number, raised=True)
    if _RECOVERED.search(text) and not _RAISED.match(text):
        return Error(text, number, recovered=True)
    if level_of(line.strip()) in _LOW and "memory budget" not in line:
        return None
    if _CODE.match(text):
        return None
    said = _SAID.search(text)
    if said is not None and text[said.end() :]:
        text = text[said.end() :]
    return Error(text, number, raised=_RAISED.match(text) is not None)
