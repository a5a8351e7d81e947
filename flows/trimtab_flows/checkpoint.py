"""Checkpoints of a training loop: saved whole or not at all, checked when read, found again by the same run anywhere.

A run that is preempted, or whose host is lost, starts its flow from the beginning; ``Checkpoints.steps`` goes on from
the last step that was saved::

    points = Checkpoints(runtime.store())
    found = points.latest()
    weights, rng = (found.state["weights"], found.state["rng"]) if found else (np.zeros(8), np.random.default_rng(1))
    for step in points.steps(1000, lambda: {"weights": weights, "rng": rng}, every=50):
        weights += 0.1 * gradient(weights, rng)      # weights and rng are changed in place
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import random
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from trimtab_blocks.stores import BlobNotFound, Store
from trimtab_flows import runtime
from trimtab_flows.prefect_hooks import handling_sigterm

__all__ = ["Checkpoint", "Checkpoints", "Unsavable"]

_logger = logging.getLogger(__name__)


class Unsavable(TypeError):
    """A value that a checkpoint cannot hold; the text names it and says what can be held."""


@dataclass(frozen=True)
class Checkpoint:
    """``state`` as it was when ``step`` steps had been done."""

    step: int
    state: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run.

    Args:
        store: where they are kept; one that other hosts reach (S3), if the run may go on there.
        key: whose they are; the id of the flow run if left out.
        keep: how many of the newest stay.

    Raises:
        ValueError: no key is given outside a flow run, or ``keep`` is below 1.
    """

    def __init__(self, store: Store, key: str = "", keep: int = 2) -> None:
        key = key or str(runtime.flow_run_id() or "")
        if not key or keep < 1:
            raise ValueError("checkpoints need a key outside a flow run, and keep must be at least 1")
        self._store, self._keep = store, keep
        self._prefix = f"checkpoints/{key}/"

    def save(self, step: int, state: Mapping[str, Any]) -> None:
        """Keep the state after so many steps; what is older than the newest ``keep`` goes.

        Args:
            state: by name: numpy arrays, bytes, numpy Generators, random.Random, and what JSON can hold.

        Raises:
            Unsavable: a value is of another type. StoreUnavailable: as the store.
        """
        data = _pack(state)
        self._store.write_once(f"{self._prefix}{step:012d}-{hashlib.sha256(data).hexdigest()}", data)
        for key in sorted(self._store.keys(self._prefix))[: -self._keep]:
            self._store.remove(key)

    def latest(self) -> Checkpoint | None:
        """The newest that is whole; one that is damaged is passed over with a warning. None if there is none."""
        for key in sorted(self._store.keys(self._prefix), reverse=True):
            step, _, digest = key.removeprefix(self._prefix).partition("-")
            try:
                data = self._store.read(key)
            except BlobNotFound:  # another process has just thinned them out
                continue
            if hashlib.sha256(data).hexdigest() == digest:
                return Checkpoint(int(step), _unpack(data))
            _logger.warning("checkpoint %s is damaged; the one before it is taken", key)
        return None

    def steps(self, total: int, state: Callable[[], Mapping[str, Any]], every: int = 100) -> Iterator[int]:
        """The numbers of the steps to do, from after the last one saved up to ``total``.

        ``state()`` is saved after every ``every`` steps, after the last, and when the run is told to stop (SIGTERM):
        then the step under way is finished first, and the signal has its usual effect after that. Steps should be short
        against the time that a run is given to stop (30 s unless TRIMTAB_STOP_GRACE_SECONDS or the pool's policy says
        otherwise). Outside the main thread the signal cannot be held back: the steps since the last save are repeated.

        Raises:
            ValueError: ``every`` is below 1. As ``save``.
        """
        if every < 1:
            raise ValueError(f"every must be at least 1, not {every}")
        found = self.latest()
        done = found.step if found else 0
        with _held_back() as told:
            while done < total:
                yield done
                done += 1
                if done % every == 0 or done == total or told():
                    self.save(done, state())
                if told():
                    break

    def clear(self) -> None:
        """Throw them away; a run that has ended well needs none."""
        for key in list(self._store.keys(self._prefix)):
            self._store.remove(key)


@contextmanager
def _held_back() -> Iterator[Callable[[], bool]]:
    """Keeps SIGTERM from interrupting the body; tells whether it came, and raises it on leaving."""
    came: list[int] = []
    handling = handling_sigterm(lambda number, _: came.append(number))
    try:
        handling.__enter__()
    except ValueError:  # only the main thread may
        yield lambda: False
        return
    try:
        yield lambda: bool(came)
    finally:
        handling.__exit__(None, None, None)
        if came:
            signal.raise_signal(signal.SIGTERM)


def _pack(state: Mapping[str, Any]) -> bytes:
    """One npz without pickles: the names and what JSON can hold as the first array, then the arrays."""
    facts: dict[str, Any] = {}
    arrays: list[np.ndarray] = []
    for name, value in state.items():
        if isinstance(value, np.ndarray):
            if value.dtype.hasobject:
                raise Unsavable(f"{name!r} is an array of objects; arrays of numbers, text or bytes can be saved")
            arrays.append(value)
            facts[name] = {"array": len(arrays)}
        elif isinstance(value, (bytes, bytearray)):
            arrays.append(np.frombuffer(value, dtype=np.uint8))
            facts[name] = {"bytes": len(arrays)}
        else:
            facts[name] = _fact(name, value)
    file = io.BytesIO()
    np.savez(file, np.frombuffer(json.dumps(facts).encode(), dtype=np.uint8), *arrays)
    return file.getvalue()


def _fact(name: str, value: Any) -> dict[str, Any]:
    if isinstance(value, np.random.Generator):
        return {"generator": json.loads(json.dumps(value.bit_generator.state, default=lambda array: array.tolist()))}
    if isinstance(value, random.Random):
        return {"random": value.getstate()}
    try:
        if json.loads(json.dumps(value)) == value:
            return {"value": value}
    except (TypeError, ValueError):
        pass
    held = "numpy arrays, bytes, numpy Generators, random.Random, and what JSON gives back as it was"
    raise Unsavable(f"{name!r} is a {type(value).__name__}; a checkpoint holds {held}")


def _unpack(data: bytes) -> dict[str, Any]:
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        facts = json.loads(file["arr_0"].tobytes())
        return {name: _value(fact, file) for name, fact in facts.items()}


def _value(fact: Mapping[str, Any], file: Mapping[str, np.ndarray]) -> Any:
    ((kind, held),) = fact.items()
    if kind == "array":
        return file[f"arr_{held}"]
    if kind == "bytes":
        return file[f"arr_{held}"].tobytes()
    if kind == "generator":
        bits = getattr(np.random, held["bit_generator"])()
        bits.state = held
        return np.random.Generator(bits)
    if kind == "random":
        restored = random.Random()
        version, internal, gauss = held
        restored.setstate((version, tuple(internal), gauss))
        return restored
    return held
