"""Any text as a metric name that MLflow accepts, and back.

MLflow takes letters, digits, ``_ - . : /`` and spaces, and refuses names that a file system would read as another name
(``a//b``, ``../a``, ``/a``). Each character in the way becomes ``_xHEX_``, its code point; so that this can be undone,
the underscore of every ``_x`` that was in the name becomes ``_x5F_``. Names without either stay as they are.
"""

from __future__ import annotations

import re

__all__ = ["MAX_LENGTH", "NameTooLong", "escape", "unescape"]

#: MLflow's limit (``mlflow.utils.validation.MAX_ENTITY_KEY_LENGTH``).
MAX_LENGTH = 250

#: As MLflow's own pattern, but for a newline at the end, which that one lets pass.
_REFUSED = re.compile(r"[^/\w.\- :]")
_ESCAPED = re.compile(r"_x([0-9A-F]*)_")

#: Stands for no name at all.
_EMPTY = "_x_"


class NameTooLong(ValueError):
    """A name that has more than MLflow's 250 characters once it is escaped."""


def escape(name: str) -> str:
    """The name as MLflow accepts it; ``unescape`` gives back the name.

    Raises:
        NameTooLong: it would have more than 250 characters.
    """
    if not name:
        return _EMPTY
    marked = name.replace("_x", "_x5F_x")
    escaped = _escape_path(_REFUSED.sub(_code, marked))
    if len(escaped) > MAX_LENGTH:
        raise NameTooLong(
            f"metric name {name[:40]!r}... has {len(escaped)} characters as MLflow would store it; "
            f"{MAX_LENGTH} are allowed, so give it a shorter name"
        )
    return escaped


def unescape(name: str) -> str:
    """The name that was escaped; any name that ``escape`` never gave is returned as far as it can be read."""
    return _ESCAPED.sub(_character, name)


def _code(match: re.Match[str]) -> str:
    return f"_x{ord(match.group()):X}_"


def _character(match: re.Match[str]) -> str:
    digits = match.group(1)
    point = int(digits, 16) if digits else -1
    # Hexadecimal beyond Unicode is no escape of ours.
    return "" if not digits else chr(point) if point <= 0x10FFFF else match.group()


def _escape_path(name: str) -> str:
    """Escape slashes that do not stand between two parts, and parts that are ``.`` or begin a name as ``..``."""
    last = len(name) - 1
    slashes = [
        "_x2F_" if letter == "/" and (at in (0, last) or "/" in (name[at - 1], name[at + 1])) else letter
        for at, letter in enumerate(name)
    ]
    parts = "".join(slashes).split("/")
    if parts[0].startswith(".."):
        parts[0] = "_x2E_" + parts[0][1:]
    return "/".join(part.replace(".", "_x2E_") if part in (".", "..") else part for part in parts)
