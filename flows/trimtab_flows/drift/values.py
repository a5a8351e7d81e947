"""Reads evidence, policies and decisions from plain data, and says which field is wrong.

ValueError
├── InvalidPolicy   a policy with an unknown field, or a value that is not allowed
└── InvalidRecord   a text that holds no evidence or no decision
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, fields
from datetime import date, datetime, time
from typing import Any, TypeVar

__all__ = [
    "InvalidPolicy",
    "InvalidRecord",
    "from_plain",
    "must_be_number",
    "must_be_text",
    "must_be_texts",
    "must_be_typed",
    "must_be_whole",
    "read_json",
    "read_moment",
]

Value = TypeVar("Value")


#: What JSON may hold for a field, by the field's annotation: in words, and as types. True is no number here.
_PLAIN: dict[str, tuple[str, tuple[type, ...]]] = {
    "str": ("a text", (str,)),
    "str | None": ("a text or null", (str, type(None))),
    "bool": ("true or false", (bool,)),
    "int": ("a whole number", (int,)),
    "int | None": ("a whole number or null", (int, type(None))),
    "float": ("a number", (int, float)),
    "float | None": ("a number or null", (int, float, type(None))),
}


class InvalidPolicy(ValueError):
    """A policy with a field that does not exist, or a value that is not allowed."""


class InvalidRecord(ValueError):
    """A text that does not hold what it should."""


def read_json(text: str | bytes, what: str) -> dict[str, Any]:
    """The JSON object in a text.

    Raises:
        InvalidRecord: there is none.
    """
    try:
        found = json.loads(text)
    except ValueError as error:
        raise InvalidRecord(f"this is no {what}: {error}") from None
    if not isinstance(found, dict):
        raise InvalidRecord(f"this is no {what}: it is a {type(found).__name__}, not an object with fields")
    return found


def from_plain(kind: type[Value], data: Mapping[str, Any], what: str, error: type[ValueError]) -> Value:
    """A dataclass from its fields by name, those with a default may be left out.

    Raises:
        error: an unknown or a missing field, by name.
    """
    known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(data) - set(known))
    if unknown:
        raise error(f"{what} has no field {', '.join(unknown)}; it has {', '.join(known)}")
    needed = [name for name, field in known.items() if field.default is MISSING and name not in data]
    if needed:
        raise error(f"{what} lacks the field {', '.join(needed)}")
    return kind(**data)


def must_be_typed(kind: type[Any], data: Mapping[str, Any], what: str) -> None:
    """Refuse a record whose field holds another type than the dataclass says; nested fields are not looked at.

    Raises:
        InvalidRecord: it does, by name.
    """
    for field in fields(kind):
        if field.name not in data or field.type not in _PLAIN:
            continue
        value, (words, allowed) = data[field.name], _PLAIN[str(field.type)]
        if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
            raise InvalidRecord(f"{what}: field {field.name} is {value!r}; it must be {words}")


def must_be_number(
    owner: str, name: str, value: object, low: float = 0.0, high: float = math.inf, *, open_ends: bool = False
) -> None:
    """Refuse a policy whose field is no number from ``low`` to ``high``, or between them with ``open_ends``.

    Raises:
        InvalidPolicy: it is none.
    """
    number = not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value)
    within = number and (low < value < high if open_ends else low <= value <= high)  # type: ignore[operator]
    if not within:
        allowed = f"between {low:g} and {high:g}" if open_ends else f"from {low:g} to {high:g}"
        allowed = f"{low:g} or more" if high == math.inf else allowed
        raise InvalidPolicy(f"{owner}: field {name} is {value!r}; it must be a number {allowed}")


def must_be_whole(owner: str, name: str, value: object, low: int) -> None:
    """Refuse a policy whose field is no whole number of at least ``low``.

    Raises:
        InvalidPolicy: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise InvalidPolicy(f"{owner}: field {name} is {value!r}; it must be a whole number, {low} or more")


def must_be_text(owner: str, name: str, value: object, *, empty: bool = False) -> None:
    """Refuse a policy whose field is no text, or an empty one.

    Raises:
        InvalidPolicy: it is none.
    """
    if not isinstance(value, str) or (not empty and not value.strip()):
        raise InvalidPolicy(f"{owner}: field {name} is {value!r}; it must be a text{'' if empty else ', not empty'}")


def must_be_texts(owner: str, name: str, value: object) -> tuple[str, ...]:
    """A list of texts as a tuple.

    Raises:
        InvalidPolicy: it is none, or one of them is empty or there twice.
    """
    if isinstance(value, str) or not isinstance(value, list | tuple):
        raise InvalidPolicy(f"{owner}: field {name} is {value!r}; it must be a list of texts")
    for text in value:
        must_be_text(owner, f"{name} (each of the list)", text)
    if len(set(value)) < len(value):
        raise InvalidPolicy(f"{owner}: field {name} is {value!r}; a text is there twice")
    return tuple(value)


def read_moment(owner: str, name: str, value: object, error: type[ValueError]) -> datetime:
    """A date or time from plain data (TOML and YAML have values for them, JSON has texts); a date is its first moment.

    Raises:
        error: it is none.
    """
    if isinstance(value, datetime):
        return value
    if isinstance(value, date):
        return datetime.combine(value, time.min)
    try:
        return datetime.fromisoformat(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise error(
            f'{owner}: field {name} is {value!r}; it must be a date or a time, like "2026-11-27" or "2026-11-27T18:00"'
        ) from None
