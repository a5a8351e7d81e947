"""Reads `--set field=value`: any setting of a policy, changed for one benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

__all__ = ["aims_of"]


def aims_of(policy: type[Any], pairs: Sequence[str]) -> dict[str, Any]:
    """Fields of the dataclass `policy` from `name=value` texts. Raises ValueError that says which are allowed."""
    kinds = {
        field.name: type(field.default) for field in fields(policy) if isinstance(field.default, (bool, int, float))
    }
    aims: dict[str, Any] = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        if name not in kinds:
            raise ValueError(f"--set {pair}: no such field; allowed are {', '.join(sorted(kinds))}")
        if kinds[name] is bool and value not in ("true", "false"):
            raise ValueError(f"--set {pair}: must be true or false")
        try:
            aims[name] = value == "true" if kinds[name] is bool else kinds[name](value)
        except ValueError:
            raise ValueError(f"--set {pair}: {value!r} is not a number ({kinds[name].__name__})") from None
    return aims
