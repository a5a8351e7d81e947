"""Which devices each attempt of a run was given, and when: kept as labels of the run. Pure.

`trimtab.attempt.2.node`, `.gpus`, `.from`, `.to`. An attempt without `.to` has not ended, or its host was lost.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

__all__ = ["Attempt", "attempts_of", "began_labels", "ended_labels", "given_text"]

_LABEL = re.compile(r"trimtab\.attempt\.(\d+)\.(node|gpus|from|to)")


@dataclass(frozen=True, slots=True)
class Attempt:
    """One stretch of a run on one node. `gpus` are UUIDs; times are seconds since the epoch, `to_s` None if unknown."""

    number: int
    node: str
    gpus: tuple[str, ...]
    from_s: float
    to_s: float | None = None

    def within(self, since_s: float) -> bool:
        """Whether a part of it was after `since_s`."""
        return self.to_s is None or self.to_s >= since_s


def began_labels(number: int, node: str, gpus: Iterable[str], at_s: float) -> dict[str, str]:
    """Of an attempt that begins."""
    prefix = f"trimtab.attempt.{number}"
    return {f"{prefix}.node": node, f"{prefix}.gpus": ", ".join(gpus), f"{prefix}.from": _text(at_s)}


def ended_labels(number: int, at_s: float) -> dict[str, str]:
    """Of one that has ended."""
    return {f"trimtab.attempt.{number}.to": _text(at_s)}


def attempts_of(labels: Mapping[str, Any]) -> tuple[Attempt, ...]:
    """In order. A label that cannot be read counts as not there."""
    parts: dict[int, dict[str, str]] = {}
    for name, value in labels.items():
        if match := _LABEL.fullmatch(name):
            parts.setdefault(int(match[1]), {})[match[2]] = str(value)
    found: list[Attempt] = []
    for number, part in sorted(parts.items()):
        from_s = _seconds(part.get("from", ""))
        if "node" in part and from_s is not None:
            gpus = tuple(gpu.strip() for gpu in part.get("gpus", "").split(",") if gpu.strip())
            found.append(Attempt(number, part["node"], gpus, from_s, _seconds(part.get("to", ""))))
    return tuple(found)


def given_text(devices: Iterable[tuple[str, int]], node: str) -> str:
    """For the log of the run. `devices`: UUID, and how much of it in thousandths."""
    named = [uuid if milli == 1000 else f"{milli / 1000:g} of {uuid}" for uuid, milli in devices]
    return f"given {', '.join(named) or 'no GPU'} on {node}"


def _text(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).isoformat(timespec="seconds")


def _seconds(text: str) -> float | None:
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None
