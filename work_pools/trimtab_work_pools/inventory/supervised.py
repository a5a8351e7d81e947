"""Calls that may never return are made in a process of their own, which is killed when one does not.

NVML on a GPU that falls off the bus, statvfs on a dead network mount: such a call cannot be given up in a thread, and
holds up whoever waits for it. The helper says before each call what it asks (`Marks`); when nothing new begins for
`patience_s` it is killed, another one is started, and what did not answer is left out of its readings, with the reason,
until it answers again: a helper of its own asks it now and then, less often each time.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from trimtab_work_pools.inventory.marks import Marks

__all__ = ["AGAIN_S", "EVERYTHING", "PATIENCE_S", "Supervised"]

EVERYTHING = ""
"""The key of what concerns all that a source reads (the driver itself)."""
_SLICE_S = 0.05
_KILLED_S, _CLOSE_S = 0.2, 5.0
_START_S = 30.0
"""A helper has this long to import what it needs, on a host under load."""
PATIENCE_S = 10.0
"""A driver answers within microseconds, or (a GPU that nobody uses, without persistence mode) within some seconds."""
AGAIN_S = 10.0
_AGAIN_AT_MOST_S = 600.0
_MOST = 64
"""Things that may be silent at once, before the source as a whole counts as silent."""
_Answer = TypeVar("_Answer")


class _Silent(Exception):
    """A helper that did not answer, or ended; `key` is what it asked last."""

    def __init__(self, key: str, why: str) -> None:
        super().__init__(why)
        self.key, self.why = key, why


@dataclass
class _LeftOut:
    why: str
    again_s: float
    wait_s: float


class _Helper:
    """One process that reads a source. Not for several threads at once."""

    def __init__(self, source: str, settings: Any, memory: Any) -> None:
        descriptor = Marks.made()
        try:
            self._marks = Marks(descriptor)
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "trimtab_work_pools.inventory.helper", str(descriptor)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=(descriptor,),
                start_new_session=True,  # Ctrl-C is for the worker: the helper ends with it
            )
        finally:
            os.close(descriptor)
        self._first = True
        self._send((source, settings, memory))

    def ask(self, value: Any, left_out: dict[str, str], patience_s: float) -> tuple[Any, Any]:
        """(the answer, what the source wants to be remembered). Raises _Silent."""
        self._send((value, left_out))
        assert self._process.stdout is not None
        count, _, _ = self._marks.read()
        began_s = time.monotonic()
        while not select.select([self._process.stdout], [], [], _SLICE_S)[0]:
            now, key, what = self._marks.read()
            if now != count:
                count, began_s = now, time.monotonic()
            elif time.monotonic() - began_s >= (_START_S if self._first and not now else patience_s):
                raise _Silent(key, f"{what or 'its helper'} has not answered within {patience_s:g} s")
        try:
            answer = pickle.load(self._process.stdout)
        except (EOFError, pickle.UnpicklingError, OSError):
            _, key, what = self._marks.read()
            raise _Silent(key, f"{what or 'its helper'} ended the process that asked") from None
        self._first = False
        return answer[0], answer[1]

    def _send(self, message: Any) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(pickle.dumps(message))
            self._process.stdin.flush()
        except OSError:
            _, key, what = self._marks.read()
            raise _Silent(key, f"{what or 'its helper'} ended the process that asked") from None

    def kill(self) -> None:
        """Hardly waits: a process in a call of the kernel may take its time, or for ever."""
        self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_KILLED_S)
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()

    @property
    def gone(self) -> bool:
        return self._process.poll() is not None

    def close(self) -> None:
        """It ends when nobody can ask it any more."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)
        self.kill()

    def __del__(self) -> None:
        if hasattr(self, "_process"):  # it could be started
            self.kill()


class Supervised(Generic[_Answer]):
    """A source (`helper.SOURCES`) that is read in a helper process. For several threads."""

    def __init__(
        self,
        source: str,
        settings: Any,
        fallback: Callable[[Any, str], _Answer],
        patience_s: float = PATIENCE_S,
        again_s: float = AGAIN_S,
    ) -> None:
        """`fallback` makes an answer of what was remembered, and why there is no other, where no helper can be had.
        `again_s`: after which what did not answer is asked again, and after twice that, and so on."""
        self._fallback = fallback
        self._source, self._settings, self._patience_s, self._again_s = source, settings, patience_s, again_s
        self._helper: _Helper | None = None
        self._memory: Any = None
        self._left_out: dict[str, _LeftOut] = {}
        self._dying: list[_Helper] = []
        self._probe: threading.Thread | None = None
        self._probed: tuple[str, _Helper | None, _Silent | None] | None = None
        self._probing: _Helper | None = None
        self._closed = False
        self._lock = threading.Lock()

    def read(self, value: Any) -> _Answer:
        """What there is now, without what does not answer. Takes `patience_s` for each thing that newly does not."""
        with self._lock:
            self._closed = False
            self._take_probed()
            while True:
                left_out = {key: one.why for key, one in self._left_out.items()}
                try:
                    self._helper = self._helper or _Helper(self._source, self._settings, self._memory)
                    answer, self._memory = self._helper.ask(value, left_out, self._patience_s)
                except (_Silent, OSError) as error:
                    silent = error if isinstance(error, _Silent) else _Silent(EVERYTHING, f"no helper: {error}")
                    self._drop(silent)
                    if EVERYTHING in left_out:  # nothing was asked, and yet nothing was heard
                        return self._fallback(self._memory, silent.why)
                    continue
                self._probe_when_due(value)
                return answer  # type: ignore[no-any-return]

    def close(self) -> None:
        """Ends the helpers; a later reading starts new ones."""
        with self._lock:
            self._closed = True
            if self._probe is not None:
                if self._probing is not None:
                    self._probing.kill()
                self._probe.join(_CLOSE_S)
                self._take_probed()
            if self._helper is not None:
                self._helper.close()
            self._helper = None
            self._reap()

    def _drop(self, silent: _Silent) -> None:
        if self._helper is not None:
            self._helper.kill()
            self._dying.append(self._helper)
        self._helper = None
        known = silent.key in self._left_out or len(self._left_out) >= _MOST
        self._leave_out(EVERYTHING if known else silent.key, silent.why)

    def _leave_out(self, key: str, why: str) -> None:
        before = self._left_out.get(key)
        wait_s = self._again_s if before is None else min(2 * before.wait_s, _AGAIN_AT_MOST_S)
        self._left_out[key] = _LeftOut(f"{why}; it is asked again from time to time", time.monotonic() + wait_s, wait_s)

    def _probe_when_due(self, value: Any) -> None:
        """One at a time, and none while a helper that was killed is still there: they would become ever more."""
        self._reap()
        if self._probe is not None or self._dying:
            return
        due = [key for key, one in self._left_out.items() if one.again_s <= time.monotonic()]
        if due:
            key = due[0]
            others = {other: one.why for other, one in self._left_out.items() if other != key}
            arguments = (key, value, others, self._memory)
            self._probe = threading.Thread(target=self._try, args=arguments, name="trimtab-probe", daemon=True)
            self._probe.start()

    def _try(self, key: str, value: Any, others: dict[str, str], memory: Any) -> None:
        helper = None
        try:
            helper = self._probing = _Helper(self._source, self._settings, memory)
            if self._closed:
                raise _Silent(key, "nobody asks any more")
            helper.ask(value, others, self._patience_s)
            self._probed = key, helper, None
        except (_Silent, OSError, ValueError) as error:  # ValueError: its pipes were closed, by `close`
            if helper is not None:
                helper.kill()
            self._probed = key, helper, error if isinstance(error, _Silent) else _Silent(key, str(error))

    def _take_probed(self) -> None:
        """The helper that has had an answer takes the place of the one that left it out."""
        if self._probe is None or self._probe.is_alive() or self._probed is None:
            return
        key, helper, silent = self._probed
        self._probe = self._probed = self._probing = None
        if silent is not None:
            self._dying += [helper] if helper is not None else []
            self._leave_out(key, silent.why)
            return
        self._left_out.pop(key, None)
        if self._helper is not None:
            self._helper.kill()
            self._dying.append(self._helper)
        self._helper = helper

    def _reap(self) -> None:
        self._dying = [one for one in self._dying if not one.gone]
