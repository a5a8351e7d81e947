"""Fences the runs of workers that are dead: one small process for each folder of claims, that outlives the workers.

A worker has its own runs stand still when the server does not hear of it for long. Where the worker itself was killed,
nobody would, and a peer would begin a second copy beside the first. So the guard does, by the same rule, and leaves
the same mark: the next worker has the run go on, or ends it. It ends by itself when there is no worker here and
nothing of a run. What it does is in `guard-UID.log` in the folder.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from io import TextIOWrapper
from pathlib import Path

from trimtab_work_pools.host.clock import SYSTEM, Clock
from trimtab_work_pools.host.fence_files import Frozen, Heard, heard
from trimtab_work_pools.host.heartbeats import Heartbeats, ServerAccess
from trimtab_work_pools.host.orphans import GuardedClaim, claims, locked
from trimtab_work_pools.host.process_tree import ProcessTree
from trimtab_work_pools.rules.fence import Step, ask_after_s, fence_after_s, guarded

__all__ = ["Guard", "is_guarded", "start_guard"]

_LOOK_S = 2.0
_STARTS_WITHIN_S = 60.0
_LOG_BYTES = 256 * 1024
_LOST_S = 300.0
"""Where no worker has left word: the default of TRIMTAB_HOST_LOST_SECONDS."""


def is_guarded(folder: Path) -> bool:
    """Whether a guard of this user's is there. Raises OSError."""
    lock = _lock(folder)
    if lock is not None:
        lock.close()
    return lock is None


def start_guard(folder: Path, access: ServerAccess) -> None:
    """Starts a guard of `folder`; it ends at once if there is one. Returns when it is on its own. Blocks.

    Raises OSError, subprocess.SubprocessError.
    """
    subprocess.run(
        [sys.executable, "-P", "-m", "trimtab_work_pools.host.guard", str(folder)],
        input=json.dumps(dataclasses.asdict(access)),  # no argument, no file: it has the credentials
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        timeout=_STARTS_WITHIN_S,
        check=True,
    )


class Guard:
    """Of the claims in `folder`. `beats`: of the runs; `log` takes a line for people."""

    def __init__(self, folder: Path, beats: Heartbeats, log: Callable[[str], None], clock: Clock = SYSTEM) -> None:
        self._folder, self._beats, self._log, self._clock = folder, beats, log, clock
        self._frozen = Frozen(folder)
        self._first_s: dict[str, float] = {}
        self._trees: dict[str, ProcessTree] = {}
        self._unmarked: dict[str, float] = {}
        self._unpaused: set[str] = set()

    def look(self) -> float | None:
        """Fences what has to stand still. After how many seconds to look again; None: there is nothing to guard.

        Raises OSError.
        """
        words = list(heard(self._folder))
        here = [claim for claim in claims(self._folder) if claim.uid == os.getuid()]  # no others can be stopped
        with contextlib.suppress(OSError):  # it can wait
            self._sweep(words, here)
        words = [one for one in words if one.boot_id == self._clock.boot_id]
        with_worker = [claim for claim in here if claim.has_worker]
        for claim in with_worker:
            self._let_go(claim)
        living = [self._guard(claim, words) for claim in here if claim not in with_worker]
        if not with_worker and not any(living) and not any(one.process.alive for one in words):
            return None
        lost_s = min((one.host_lost_s for one in words), default=_LOST_S)
        return min(_LOOK_S, fence_after_s(lost_s) / 6)

    def _guard(self, claim: GuardedClaim, words: list[Heard]) -> bool:
        """Whether something is here of a run whose worker is dead, and can be guarded."""
        if not self._lives(claim):
            return False
        word = max((one for one in words if _is_of(one, claim)), key=lambda one: one.heard_s, default=None)
        boot_s = self._clock.boot_s()
        first_s = self._first_s.setdefault(claim.claim_id, boot_s)
        ahead_s = word.server_s - word.heard_s if word else time.time() - boot_s
        now_s, renewed_s = boot_s + ahead_s, (word.heard_s if word else first_s) + ahead_s
        lost_s = word.host_lost_s if word else _LOST_S
        beats_s = self._beats.last_s(claim.run_id)
        frozen_at_s = self._frozen.since_s(claim.claim_id) or self._unmarked.get(claim.claim_id)
        verdict = guarded(renewed_s, beats_s, now_s, lost_s, frozen_at_s)
        if verdict.step is Step.FREEZE and self._mark(claim, now_s):
            self._log(f"Run {claim.run_id} stands still: {verdict.why}. The next worker asks whether it is still here")
            frozen_at_s = now_s
        if frozen_at_s is not None:
            self._freeze(claim)  # each time: also what it was just starting
        elif now_s - max(renewed_s, beats_s or renewed_s) >= ask_after_s(lost_s):
            self._beats.ask(claim.server, claim.run_id, now_s - lost_s)
        return claim.claim_id not in self._unpaused

    def _mark(self, claim: GuardedClaim, now_s: float) -> bool:
        """Whether it is to stand still. A worker that takes it over has done so before, or sees the mark."""
        with locked(self._folder):
            if self._has_worker(claim):
                return False
            try:
                self._frozen.mark(claim.claim_id, now_s)
            except OSError as error:  # a full disk is no reason for a second copy
                self._unmarked[claim.claim_id] = now_s
                self._log(f"That run {claim.run_id} stands still cannot be written down: {error}")
            return True

    def _freeze(self, claim: GuardedClaim) -> None:
        if claim.in_container:
            self._pause(claim)
            return
        tree = self._tree(claim)
        tree.freeze()
        if self._has_worker(claim) and self._frozen.since_s(claim.claim_id) is None:
            tree.thaw()  # it was told to go on before it was frozen

    def _let_go(self, claim: GuardedClaim) -> None:
        """Its worker does not know that it stands still."""
        if self._unmarked.pop(claim.claim_id, None) is not None and not claim.in_container:
            self._tree(claim).thaw()

    def _has_worker(self, claim: GuardedClaim) -> bool:
        """By now; true of one that was given back."""
        now = next((one for one in claims(self._folder) if one.claim_id == claim.claim_id), None)
        return now is None or now.has_worker

    def _lives(self, claim: GuardedClaim) -> bool:
        if not claim.in_container:
            return claim.of_this_start and bool(self._tree(claim).look())
        from trimtab_work_pools.host import engine_socket

        try:
            return engine_socket.state(claim.claim_id) in ("running", "restarting", "paused")
        except (OSError, ValueError):
            return claim.claim_id not in self._unpaused  # it is not known

    def _tree(self, claim: GuardedClaim) -> ProcessTree:
        tree = self._trees.setdefault(claim.claim_id, claim.tree())
        tree.began(claim.main)
        return tree

    def _pause(self, claim: GuardedClaim) -> None:
        from trimtab_work_pools.host import engine_socket

        try:
            engine_socket.pause(claim.claim_id)
        except (OSError, ValueError) as error:
            if claim.claim_id not in self._unpaused:
                self._log(f"The container of run {claim.run_id} cannot be made to stand still: {error}")
            self._unpaused.add(claim.claim_id)
        else:
            self._unpaused.discard(claim.claim_id)

    def _sweep(self, words: list[Heard], here: list[GuardedClaim]) -> None:
        """Takes away what is said of runs and of workers that are not here any more."""
        marks = self._frozen.ids() - {one.claim_id for one in claims(self._folder)}
        silent = [one for one in words if not self._matters(one, here)]
        if not marks and not silent:
            return
        with locked(self._folder):
            now = claims(self._folder)
            for claim_id in marks - {one.claim_id for one in now}:
                self._frozen.clear(claim_id)
            for one in silent:
                if not self._matters(one, now):
                    one.path(self._folder).unlink(missing_ok=True)

    def _matters(self, word: Heard, here: list[GuardedClaim]) -> bool:
        if word.boot_id != self._clock.boot_id:
            return False
        return word.process.alive or any(_is_of(word, claim) for claim in here)


def _is_of(word: Heard, claim: GuardedClaim) -> bool:
    return word.process == claim.worker and word.server == claim.server


def _lock(folder: Path) -> TextIOWrapper | None:
    lock = (folder / f"guard-{os.getuid()}.lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    return lock


def _logger(folder: Path) -> Callable[[str], None]:
    path = folder / f"guard-{os.getuid()}.log"

    def log(text: str) -> None:
        with contextlib.suppress(OSError):
            if path.exists() and path.stat().st_size > _LOG_BYTES:
                path.unlink()
            with path.open("a") as file:
                file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S%z')} {text}\n")

    return log


def main(folder: Path) -> None:
    """Goes on in the background until there is nothing to guard."""
    access = ServerAccess(**json.load(sys.stdin))
    if os.fork():  # nobody's child: no worker has to wait for it
        os._exit(0)
    os.chdir("/")
    lock = _lock(folder)
    if lock is None:
        return
    log = _logger(folder)
    guard = Guard(folder, Heartbeats(access), log)
    said = ""
    while folder.is_dir():
        try:
            pause_s = guard.look()
        except OSError as error:
            if str(error) != said:
                log(f"What is here cannot be looked at: {error}")
            said, pause_s = str(error), _LOOK_S
        if pause_s is None:
            return
        time.sleep(pause_s)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
