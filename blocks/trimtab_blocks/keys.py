"""Keys of a store: what any store can honour, and where snapshots lie.

snapshots/<2>/<digest>.json             the descriptor of a snapshot
snapshots/<2>/<digest>/<sha256>.parquet its data, named by the content of the file
snapshots/<2>/<digest>/<sha256>.<mark>.parquet  the same, where that name may not be relied on
"""

from __future__ import annotations

import re

from trimtab_blocks.errors import InvalidKey

__all__ = ["SNAPSHOTS", "check_key", "content_of", "data_key", "descriptor_key", "digest_of", "is_data"]

SNAPSHOTS = "snapshots/"

_DATA = re.compile(r"snapshots/([0-9a-f]{2})/(\1[0-9a-f]{62})/([0-9a-f]{64})(?:\.[0-9a-f]{8})?\.parquet")
_DESCRIPTOR = re.compile(r"snapshots/([0-9a-f]{2})/(\1[0-9a-f]{62})\.json")

#: Longest key, and longest part of a key between two slashes, in bytes of UTF-8. S3 allows 1,024 bytes, from which a
#: prefix is taken; Linux allows file names of 255.
MAX_KEY_BYTES, MAX_PART_BYTES = 900, 200


def check_key(key: str, *, prefix: bool = False) -> str:
    """The key as it came, if every store can honour it.

    Args:
        key: parts joined by ``/``, of printable characters; no part is empty or begins with a dot.
        prefix: the key is the beginning of one: it may be empty or end anywhere.

    Raises:
        InvalidKey: the key is none.
    """
    parts = key.split("/")
    if prefix and parts[-1] == "":
        parts = parts[:-1]
    problem = None
    if not all(parts) or not (parts or prefix):
        problem = "it is empty, or has an empty part; it must not begin or end with /"
    elif any(part.startswith(".") for part in parts):
        problem = "no part of it may begin with a dot"
    elif "\\" in key or not key.isprintable():
        problem = "it may hold printable characters only, and no \\"
    elif len(key.encode()) > MAX_KEY_BYTES or any(len(part.encode()) > MAX_PART_BYTES for part in parts):
        problem = f"it may have {MAX_KEY_BYTES} bytes, and {MAX_PART_BYTES} between two /"
    if problem:
        shown = key if len(key) <= 80 else f"{key[:77]}..."
        raise InvalidKey(f"key {shown!r} is not usable in a store: {problem}")
    return key


def descriptor_key(digest: str) -> str:
    """Where the descriptor of a snapshot lies."""
    return f"{SNAPSHOTS}{digest[:2]}/{digest}.json"


def data_key(digest: str, sha256: str, mark: str = "") -> str:
    """Where the data of a snapshot lies: a file with this content. ``mark``: 8 hexadecimal digits, or nothing."""
    return f"{SNAPSHOTS}{digest[:2]}/{digest}/{sha256}{f'.{mark}' if mark else ''}.parquet"


def is_data(key: str) -> bool:
    """Whether this is the data of a snapshot: large, and needed only when it is read."""
    return _DATA.fullmatch(key) is not None


def digest_of(key: str) -> str | None:
    """The snapshot that a data file or a descriptor belongs to."""
    found = _DATA.fullmatch(key) or _DESCRIPTOR.fullmatch(key)
    return found[2] if found else None


def content_of(key: str) -> str | None:
    """The SHA-256 of its content that the key of a data file names."""
    found = _DATA.fullmatch(key)
    return found[3] if found else None
