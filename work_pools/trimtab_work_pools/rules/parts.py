"""A text of any length, of one worker, in values of a store that holds only short ones. Pure.

The first part says how many there are and is renewed by itself; all carry the generation, which is the digest of the
whole: parts of two generations are never joined, and a damaged part is seen. That the worker is there, and until when,
stands in the first part in plain words: it can be told even where the rest cannot be read.
"""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["VALUE_BYTES", "Letter", "Parts", "Sign", "Unread", "from_parts", "to_parts", "whole"]

VALUE_BYTES = 5000
"""The longest value of a Prefect variable, as JSON in UTF-8: a text counts with its quotes and escapes."""
_PLAIN_BYTES = 4000
"""Up to so much is written as JSON that people can read."""
_SIGN = ("worker", "expires_s", "host")
_PACKED = "zlib:"
"""Began what workers before version 2 wrote when it was long."""


@dataclass(frozen=True, slots=True)
class Sign:
    """Of life: a worker was there, and what it said is good until `expires_s` (s since the epoch)."""

    worker: str
    expires_s: float
    host: str = ""


@dataclass(frozen=True, slots=True)
class Letter:
    """What a worker says: `body` is a JSON object without what `sign` says already."""

    sign: Sign
    body: str


@dataclass(frozen=True, slots=True)
class Parts:
    """`head` is written last, and again at each renewal; `rest` (part number -> value) changes with `generation`."""

    generation: str
    head: str
    rest: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Unread:
    """Something that could not be read, and why; `sign` where at least that could."""

    why: str
    sign: Sign | None = None


def to_parts(letter: Letter, value_bytes: int = VALUE_BYTES) -> Parts:
    """As many as it takes, each at most `value_bytes` as a JSON text."""
    sign, fields = letter.sign, _fields(letter.sign)
    plain = json.dumps({**fields, **json.loads(letter.body)}, separators=(",", ":"))
    if _size(plain) <= min(_PLAIN_BYTES, value_bytes):
        return Parts(_digest(letter.body), plain)
    packed = base64.b85encode(zlib.compress(letter.body.encode(), 9)).decode()
    generation = _digest(packed)
    of = {"worker": sign.worker, "generation": generation}
    # The longest numbers there may be stand for those that are not known yet.
    room = value_bytes - _size(json.dumps({**fields, **of, "parts": 10**6, "packed": ""}))
    if room < 1:
        raise ValueError(f"no value of {value_bytes} bytes has room for the name of worker {sign.worker[:40]!r}")
    chunks = [packed[start : start + room] for start in range(0, len(packed), room)]
    head = json.dumps({**fields, **of, "parts": len(chunks), "packed": chunks[0]})
    rest = ((number, json.dumps({**of, "part": number, "packed": chunk})) for number, chunk in enumerate(chunks[1:], 2))
    return Parts(generation, head, tuple(rest))


def whole(letter: Letter) -> str:
    """In one part, however long: for what has no such bound."""
    return to_parts(letter, 10**9).head


def from_parts(values: Mapping[str, str]) -> tuple[list[Letter], list[Unread]]:
    """`values` by the name of what they were read from. Raises nothing: what cannot be read is named."""
    letters: list[Letter] = []
    unread: list[Unread] = []
    heads: list[tuple[str, Sign, dict[str, Any]]] = []
    rest: dict[tuple[str, str, int], str] = {}
    for source, value in values.items():
        found = _object(value)
        if isinstance(found, str):
            unread.append(Unread(f"{source} is no advertisement of a worker: {found}"))
        elif "part" in found:
            rest[(str(found.get("worker")), str(found.get("generation")), _count(found["part"]))] = _text(found)
        elif (sign := _sign(found)) is None:
            unread.append(Unread(f"{source} is no advertisement of a worker: it names none, or no time"))
        elif "packed" in found:
            heads.append((source, sign, found))
        else:
            said = {key: value for key, value in found.items() if key not in _SIGN}
            letters.append(Letter(sign, json.dumps(said)))
    for source, sign, head in heads:
        joined = _joined(source, sign, head, rest)
        letters += [joined] if isinstance(joined, Letter) else []
        unread += [joined] if isinstance(joined, Unread) else []
    return letters, unread


def _joined(source: str, sign: Sign, head: dict[str, Any], rest: Mapping[tuple[str, str, int], str]) -> Letter | Unread:
    generation, parts = str(head.get("generation")), _count(head.get("parts"))
    more = [rest.get((sign.worker, generation, number)) for number in range(2, parts + 1)]
    there = [_text(head), *(one for one in more if one is not None)]
    if len(there) < max(1, parts):
        return Unread(f"{source}: {len(there)} of {parts} parts of what worker {sign.worker!r} says are there", sign)
    packed = "".join(there)
    if _digest(packed) != generation:
        return Unread(f"{source}: the parts of what worker {sign.worker!r} says do not belong together", sign)
    body = _unpacked(packed)
    if body is None:
        return Unread(f"{source}: what worker {sign.worker!r} says cannot be unpacked", sign)
    return Letter(sign, body)


def _object(value: str) -> dict[str, Any] | str:
    """The JSON object that a value is, or why it is none."""
    if value.startswith(_PACKED):
        value = _unpacked(value.removeprefix(_PACKED)) or ""
    try:
        found = json.loads(value)
    except ValueError as error:
        return str(error)
    return found if isinstance(found, dict) else "it is no JSON object"


def _sign(found: Mapping[str, Any]) -> Sign | None:
    worker, until_s = found.get("worker"), found.get("expires_s")
    if not isinstance(worker, str) or isinstance(until_s, bool) or not isinstance(until_s, int | float):
        return None
    return Sign(worker, float(until_s), str(found.get("host") or ""))


def _fields(sign: Sign) -> dict[str, Any]:
    return {"worker": sign.worker, "expires_s": sign.expires_s, **({"host": sign.host} if sign.host else {})}


def _unpacked(packed: str) -> str | None:
    try:
        return zlib.decompress(base64.b85decode(packed)).decode()
    except (ValueError, zlib.error):
        return None


def _text(found: Mapping[str, Any]) -> str:
    return str(found.get("packed") or "")


def _count(found: object) -> int:
    return found if isinstance(found, int) and not isinstance(found, bool) else 0


def _size(text: str) -> int:
    return len(json.dumps(text).encode())


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
