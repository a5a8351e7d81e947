"""Reads the `resources:` part of job variables into a Demand: the one boundary where a demand is checked."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from difflib import get_close_matches
from typing import Any

from trimtab_work_pools.resources import WHOLE, Demand, brief

__all__ = ["KEYS", "DemandError", "read_demand", "texts"]


class DemandError(ValueError):
    """A demand is wrong. `problems` holds (key, sentence), one for each key that is wrong; `sources` are those that
    said it, where several are merged.
    """

    def __init__(self, problems: tuple[tuple[str, str], ...], sources: frozenset[str] = frozenset()) -> None:
        self.problems, self.sources = problems, sources
        shown = "; ".join(f"resources.{key}: {said}" if key else f"resources: {said}" for key, said in problems[:8])
        super().__init__(shown if len(problems) <= 8 else f"{shown}; and {len(problems) - 8} more")


class _Wrong(ValueError):
    """What is wrong with one value; the reader of the whole adds the key."""


def _whole(least: int, most: int) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise _Wrong(f"must be a whole number from {least} to {most}, not {_shown(value)}")
        return value

    return read


def _milli(least: float, most: float) -> Callable[[Any], int]:
    """A number in thousandths, from a number in ones: nothing finer than a thousandth is meant."""

    def read(value: Any) -> int:
        milli = round(_number(least, most)(value) * 1000)
        if milli < 1 and value != 0:
            raise _Wrong(f"must be at least 0.001, not {_shown(value)}")
        return milli

    return read


def _number(least: float, most: float) -> Callable[[Any], float]:
    def read(value: Any) -> float:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        # Compared before anything else is done with it: an int may be too large for a float. NaN is in no range.
        if not number or not least <= value <= most:
            raise _Wrong(f"must be a number from {least:g} to {most:g}, not {_shown(value)}")
        return float(value)

    return read


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _Wrong(f"must be true or false, not {_shown(value)}")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise _Wrong(f"must be a text that is not empty, not {_shown(value)}")
    return value.strip()


def texts(value: Any) -> frozenset[str]:
    """One text, or a list of texts. Raises ValueError."""
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, (list, tuple, set, frozenset)) or not values:
        raise _Wrong(f"must be a text or a list of texts, not {_shown(value)}")
    return frozenset(_text(one) for one in values)


def _labels(value: Any) -> tuple[tuple[str, frozenset[str]], ...]:
    if not isinstance(value, Mapping):
        raise _Wrong(f"must map labels to the values allowed, like {{region: [eu-1, eu-2]}}, not {_shown(value)}")
    return tuple(sorted((_text(key), texts(values)) for key, values in value.items()))


def _capability(value: Any) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,2})\.(\d)", str(value)) if isinstance(value, (str, float)) else None
    if match is None:
        raise _Wrong(f'must be like "8.0" (major.minor), not {_shown(value)}')
    return int(match[1]), int(match[2])


def _digests(value: Any) -> frozenset[str]:
    return frozenset(map(brief, texts(value)))


def _moment(value: Any) -> float:
    try:
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(_text(value))
    except ValueError:
        raise _Wrong(f'must be a time with its zone, like "2026-03-01T08:00:00+00:00", not {_shown(value)}') from None
    if moment.tzinfo is None:
        raise _Wrong(f'must name its time zone, like "2026-03-01T08:00:00+00:00", not {_shown(value)}')
    return moment.timestamp()


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # Python writes no integer of more than 4,300 digits
        return "a number of thousands of digits"
    return text if len(text) <= 60 else text[:57] + "..."


@dataclass(frozen=True, slots=True)
class _Key:
    field: str
    read: Callable[[Any], Any]


_MIB = _whole(0, 2**30)  # a pebibyte: beyond that it is a mistake in the unit
_KEYS = {
    "gpus": _Key("gpus", _whole(0, 64)),
    "gpu_share": _Key("gpu_share_milli", _milli(0.001, 1)),
    "gpu_memory_mib": _Key("gpu_memory_mib", _whole(0, 2**21)),
    "gpu_compute_capability": _Key("gpu_compute_capability", _capability),
    "gpu_models": _Key("gpu_models", texts),
    "gpu_mig_profile": _Key("gpu_mig_profile", _text),
    "gpu_nvlink": _Key("gpu_nvlink", _flag),
    "cpus": _Key("cpu_milli", _milli(0, 4096)),
    "memory_mib": _Key("memory_mib", _MIB),
    "disk_mib": _Key("disk_mib", _MIB),
    "labels": _Key("node_labels", _labels),
    "nodes": _Key("nodes", _whole(1, 10_000)),
    "reads": _Key("reads", _digests),
    "team": _Key("team", _text),
    "priority": _Key("priority", _whole(-1000, 1000)),
    "deadline": _Key("deadline_s", _moment),
    "preemptible": _Key("preemptible", _flag),
    "expected_s": _Key("expected_s", _number(0.001, 10 * 365 * 86400)),
    "expected_sigma": _Key("expected_sigma", _number(0, 5)),
}


KEYS = tuple(_KEYS)
"""What may stand under `resources:`."""


def read_demand(variables: Mapping[str, Any]) -> Demand:
    """The demand in `variables["resources"]`. Raises DemandError with all that is wrong, in the order it is written."""
    wishes = variables.get("resources")
    if wishes is None:
        return Demand()
    if not isinstance(wishes, Mapping):
        raise DemandError((("", f"must map keys to values, not {_shown(wishes)}"),))
    values: dict[str, Any] = {}
    problems: list[tuple[str, str]] = []
    for key, value in wishes.items():
        if key not in _KEYS:
            problems.append((str(key), _unknown(str(key))))
            continue
        try:
            values[_KEYS[key].field] = _KEYS[key].read(value)
        except _Wrong as wrong:
            problems.append((key, str(wrong)))
    # A share of a GPU, also all of it, is a wish for one, said or not.
    if "gpu_share_milli" in values and "gpus" not in wishes:
        values["gpus"] = 1
    problems += _contradictions(values, {key for key, _ in problems})
    if problems:
        raise DemandError(tuple(problems))
    return Demand(**values)


def _unknown(key: str) -> str:
    near = get_close_matches(key, _KEYS, n=1)
    meant = f"; did you mean {near[0]}?" if near else ""
    return f"is not a key{meant} (allowed: {', '.join(_KEYS)})"


def _contradictions(values: Mapping[str, Any], wrong: set[str]) -> list[tuple[str, str]]:
    """Wishes that cannot hold together. A key that is wrong by itself is not judged again."""
    if "gpus" in wrong:
        return []
    gpus = values.get("gpus", 0)
    found: list[tuple[str, str]] = []
    if "gpu_share_milli" in values and values["gpu_share_milli"] < WHOLE and gpus != 1:
        share = values["gpu_share_milli"] / WHOLE
        found.append(("gpu_share", f"a share is of one GPU: {share:g} of {gpus} GPUs is not possible; use gpus: 1"))
    if gpus == 0:
        found += [
            (key, "needs gpus of at least 1 beside it")
            for key in _KEYS
            if key.startswith("gpu_") and key != "gpu_share" and values.get(_KEYS[key].field)
        ]
    if values.get("gpu_nvlink") and gpus == 1:
        found.append(("gpu_nvlink", "needs gpus of at least 2: one GPU has nobody to be linked with"))
    if values.get("gpu_nvlink") and "gpu_mig_profile" in values:
        found.append(("gpu_nvlink", "a MIG slice has no NVLink; leave gpu_mig_profile or gpu_nvlink out"))
    if "expected_sigma" in values and "expected_s" not in values and "expected_s" not in wrong:
        found.append(("expected_sigma", "needs expected_s beside it"))
    return found
