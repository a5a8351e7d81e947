"""Merges what several layers ask for, key by key, and remembers which layer each key came from. Pure.

The later layer wins: work pool < deployment < run < retry. Labels are merged by label. A label that the work pool names
says where its data may go, so a later layer can only choose among the pool's values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from trimtab_work_pools.resources import Demand
from trimtab_work_pools.wishes import KEYS, DemandError, read_demand, texts

__all__ = ["Asked", "Layer", "Source", "merge", "retried"]


class Source(StrEnum):
    """Who asks. In this order the later one wins; what the pool fixes, nobody can change."""

    POOL = "work pool"
    DEPLOYMENT = "deployment"
    RUN = "run"
    RETRY = "retry"
    FIXED = "work pool, fixed"


@dataclass(frozen=True, slots=True)
class Layer:
    """The `resources` of one source, as they are written. `problems` are what is wrong beside them."""

    source: Source
    resources: Any = None
    problems: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Asked:
    """The demand that results; `resources` is the same as plain data; `sources` says where each key came from, a label
    as `labels.region`.
    """

    demand: Demand
    resources: Mapping[str, Any]
    sources: Mapping[str, Source]

    def __str__(self) -> str:
        """For people: `gpus: 1 (deployment), labels.region: eu (work pool)`; empty if nothing is asked for."""
        flat = {key: self.resources[key] for key in KEYS if key in self.resources and key != "labels"}
        flat |= {f"labels.{key}": value for key, value in (self.resources.get("labels") or {}).items()}
        return ", ".join(f"{key}: {_plain(value)} ({self.sources[key]})" for key, value in flat.items())


def merge(layers: Sequence[Layer]) -> Asked:
    """Raises DemandError with all that is wrong; its `sources` say which layers are to blame."""
    problems: list[tuple[str, str]] = []
    blamed: set[str] = set()
    found = _Merge()
    for layer in layers:
        wrong = [*layer.problems, *found.add(layer)]
        problems += ((key, f"{said} (from the {layer.source})") for key, said in wrong)
        blamed |= {layer.source} if wrong else set()
    found.drop_moot()
    try:
        demand = read_demand({"resources": found.resources})
    except DemandError as error:
        problems += ((key, f"{said}{found.origin(key)}") for key, said in error.problems)
        blamed |= {found.sources[key] for key, _ in error.problems if key in found.sources} or set(Source)
        if any(key == "labels" for key, _ in error.problems):
            blamed |= {source for key, source in found.sources.items() if key.startswith("labels.")}
    if problems:
        raise DemandError(tuple(problems), frozenset(blamed))
    return Asked(demand, found.resources, found.sources)


class _Merge:
    """What the layers so far come to."""

    def __init__(self) -> None:
        self.resources: dict[str, Any] = {}
        self.sources: dict[str, Source] = {}
        self._of_pool: dict[str, frozenset[str]] = {}

    def add(self, layer: Layer) -> list[tuple[str, str]]:
        """Puts a layer over those before; what is wrong with it as a whole, or with its labels."""
        said = layer.resources
        if said is None:
            return []
        if not isinstance(said, Mapping):
            return [("", f"must map keys to values, not {said!r:.60}")]
        own = {
            str(key): value for key, value in said.items() if value is not None
        }  # a form sends null for what is empty
        labels = own.pop("labels", {})
        self._drop_what_contradicts(own)
        for key, value in own.items():
            self.resources[key], self.sources[key] = value, layer.source
        if not isinstance(labels, Mapping):  # the pool's stay: a run that says it right must not get past them
            return [
                ("labels", f"must map labels to the values allowed, like {{region: [eu-1, eu-2]}}, not {labels!r:.60}")
            ]
        return self._add_labels(labels, layer.source)

    def origin(self, key: str) -> str:
        """Which layer a key came from, as the end of a sentence."""
        return f" (from the {self.sources[key]})" if key in self.sources else ""

    def _drop_what_contradicts(self, own: Mapping[str, Any]) -> None:
        """A choice of another kind takes the place of an earlier one, with what belongs to that alone."""
        gpus, share = own.get("gpus"), own.get("gpu_share")
        if gpus == 0:
            self._drop(*(key for key in list(self.resources) if key.startswith("gpu_")))
        if share is not None and gpus is None:
            self._drop("gpus", "gpu_nvlink")
        if gpus is not None and share is None:
            self._drop("gpu_share")
        if gpus == 1 or own.get("gpu_mig_profile"):
            self._drop("gpu_nvlink")
        if own.get("gpu_nvlink"):
            self._drop("gpu_mig_profile")

    def drop_moot(self) -> None:
        """What a pool says of the GPUs of its runs is nothing to a run that asks for none."""
        if not self.resources.get("gpus") and "gpu_share" not in self.resources:
            moot = [key for key, source in self.sources.items() if key.startswith("gpu_") and source is Source.POOL]
            self._drop(*moot)

    def _drop(self, *keys: str) -> None:
        for key in keys:
            self.resources.pop(key, None)
            self.sources.pop(key, None)

    def _add_labels(self, labels: Mapping[Any, Any], source: Source) -> list[tuple[str, str]]:
        wrong: list[tuple[str, str]] = []
        merged = dict(self.resources.get("labels") or {})
        for name, value in ((str(name), value) for name, value in labels.items() if value is not None):
            allowed, values = self._of_pool.get(name), _values(value)
            if source is Source.POOL:
                self._of_pool[name] = values
            elif allowed is not None and not (values and values <= allowed):
                wrong.append(("labels", _outside(name, values, allowed)))
                continue
            merged[name], self.sources[f"labels.{name}"] = value, source
        if merged:
            self.resources["labels"] = merged
        return wrong


def _outside(name: str, values: frozenset[str], allowed: frozenset[str]) -> str:
    asked, pool = " or ".join(sorted(values)) or "nothing", " or ".join(sorted(allowed))
    return (
        f"asks for {name}={asked}; the work pool allows {name}={pool} and no other: name one of these, or leave"
        f" {name} out"
    )


def _values(value: Any) -> frozenset[str]:
    try:
        return texts(value)
    except ValueError:
        return frozenset()  # that it cannot be read is said where it is read


def _plain(value: Any) -> str:
    return " or ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def retried(asked: Layer, larger: Mapping[str, Any]) -> tuple[Layer, Layer]:
    """The run's own layer, and that of its retry: what `larger` says and the run says too was put there by a retry."""
    own = dict(asked.resources) if isinstance(asked.resources, Mapping) else {}
    retry = {key: own.pop(key) for key, value in larger.items() if own.get(key) == value}
    return replace(asked, resources=own if retry else asked.resources), Layer(Source.RETRY, retry or None)
