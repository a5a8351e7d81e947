"""``MetricSpool``: metrics to a file first, from there to MLflow in the background; ``replay`` for what others left.

MLflow's own logging either blocks for minutes while its server is down, or drops the batch with a line in the log.
Here ``log`` costs one write to the disk. Points are sent in the order they were logged in; one that is sent twice,
because a crash came between MLflow's answer and our mark, is the same point to MLflow, whose key is the name, value,
step and timestamp.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from uuid import uuid4

import mlflow

from trimtab_flows.spool.journal import Entry, Journal, journals
from trimtab_flows.spool.names import escape
from trimtab_flows.spool.sending import MAX_METRICS, Answer, Send, batches, to_mlflow

__all__ = ["MetricSpool", "Replayed", "SpoolFull", "replay"]

#: Entries read from the file at a time.
_READ = 500

#: Seconds between tries while MLflow is away: doubled from the first to the last.
_FIRST_TRY_S, _LAST_TRY_S = 0.25, 15.0


#: Size of a file, all sent, at which it is begun anew; a quarter of the limit if that is less.
_CUT_BYTES = 2**20


class SpoolFull(OSError):
    """MLflow has been away for so long that the spool has reached its limit; nothing was dropped."""


@dataclass(frozen=True)
class Replayed:
    """What a replay did: entries sent, refused for good (kept in ``.refused`` files), and left for later."""

    sent: int
    refused: int
    left: int


class MetricSpool:
    """Logs the metrics of one run, and never waits for MLflow until it is closed.

    Args:
        folder: where spools are kept, on a disk that outlives the process; made if it is not there.
        run_id: the MLflow run.
        tracking_uri: ``http(s)://`` address of the server; MLflow's current one if left out.
        limit_mib: size at which ``log`` refuses (about 10,000 metrics a MiB).
        send: how a batch is sent; over REST if left out.
    """

    def __init__(
        self,
        folder: Path,
        run_id: str,
        tracking_uri: str | None = None,
        *,
        limit_mib: float = 256,
        send: Send | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._run_id = run_id
        self._journal = Journal(folder / f"{time.time_ns():020d}-{run_id}-{uuid4().hex[:8]}.metrics")
        self._limit_bytes = int(limit_mib * 2**20)
        self._send = send or to_mlflow(tracking_uri or mlflow.get_tracking_uri())
        self._writing = threading.Lock()
        self._something = threading.Event()
        self._closing = threading.Event()
        self._done = Replayed(0, 0, 0)
        self._pid = os.getpid()
        self._ours = ExitStack()
        self._ours.enter_context(self._journal.owned())
        self._thread = threading.Thread(target=self._run, name="metric-spool", daemon=True)
        self._thread.start()

    def log(self, metrics: Mapping[str, float], step: int = 0, timestamp_ms: int | None = None) -> None:
        """Log metrics of a step; they are on the disk when this returns, and in MLflow soon after it is up.

        Args:
            metrics: value by name; names that MLflow refuses are escaped (``trimtab_flows.spool.names``).
            timestamp_ms: milliseconds since the epoch; now if left out.

        Raises:
            NameTooLong: a name cannot be stored. SpoolFull: the limit is reached. OSError: the disk is full.
            RuntimeError: the spool is closed, or belongs to the process that this one was forked from.
        """
        named = [(escape(name), float(value)) for name, value in metrics.items()]
        now = int(time.time() * 1000) if timestamp_ms is None else timestamp_ms
        with self._writing:
            if self._closing.is_set() or os.getpid() != self._pid:
                raise RuntimeError("this metric spool is closed or another process's; open one here")
            if self._journal.size() - self._journal.sent() >= self._limit_bytes:
                raise SpoolFull(
                    f"{self._journal.path} has reached {self._limit_bytes / 2**20:.3g} MiB that MLflow has not taken: "
                    "bring MLflow up, or give the spool a larger limit_mib"
                )
            for start in range(0, len(named), MAX_METRICS):
                part = dict(named[start : start + MAX_METRICS])
                self._journal.append(Entry(self._run_id, part, step, now))
        self._something.set()

    def close(self, timeout_s: float = 30) -> Replayed:
        """Wait until all is sent, or the time is up; what is left stays on the disk for ``replay``."""
        with self._writing:
            self._closing.set()
        self._something.set()
        deadline = time.monotonic() + timeout_s
        while self._thread.is_alive() and time.monotonic() < deadline:
            self._thread.join(min(0.1, max(0.0, deadline - time.monotonic())))
        return Replayed(self._done.sent, self._done.refused, self.waiting())

    def waiting(self) -> int:
        """Calls of ``log`` that MLflow has not taken yet."""
        return sum(1 for _ in self._journal.unsent())

    def __enter__(self) -> MetricSpool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _run(self) -> None:
        """The background thread: send what is there; while MLflow is away, try ever more rarely."""
        wait_s = _FIRST_TRY_S
        with self._ours:
            while not self._finished():
                self._something.clear()
                step = _send_all(self._journal, self._send)
                self._done = Replayed(self._done.sent + step.sent, self._done.refused + step.refused, step.left)
                if step.left:
                    # New metrics do not bring MLflow back sooner; closing does call for another try.
                    if self._closing.wait(wait_s):
                        time.sleep(_FIRST_TRY_S)
                    wait_s = min(2 * wait_s, _LAST_TRY_S)
                else:
                    wait_s = _FIRST_TRY_S
                    self._cut()
                    if not self._closing.is_set():
                        self._something.wait()

    def _finished(self) -> bool:
        """Whether it is closed and all is sent; the file is gone then."""
        if not self._closing.is_set() or any(True for _ in self._journal.unsent()):
            return False
        self._journal.remove()
        return True

    def _cut(self) -> None:
        """Begin the file anew when all of it is sent, so that a long run does not fill the disk."""
        with self._writing:
            size = self._journal.size()
            if size > min(_CUT_BYTES, self._limit_bytes / 4) and self._journal.sent() >= size:
                self._journal.begin_anew()


def replay(folder: Path, tracking_uri: str | None = None, *, send: Send | None = None) -> Replayed:
    """Send what spools of processes that are gone have left in a folder, oldest first; stops at the first that fails.

    Spools whose process is alive are passed over: they send for themselves.
    """
    how = send or to_mlflow(tracking_uri or mlflow.get_tracking_uri())
    total = Replayed(0, 0, 0)
    for journal in journals(folder):
        with journal.taken() as ours:
            if not ours:
                continue
            # With MLflow away, the rest is counted and not tried.
            step = Replayed(0, 0, sum(1 for _ in journal.unsent())) if total.left else _send_all(journal, how)
            total = Replayed(total.sent + step.sent, total.refused + step.refused, total.left + step.left)
            if not step.left:
                journal.remove()
    return total


def _send_all(journal: Journal, send: Send) -> Replayed:
    """Send from the mark to the end, or to the first batch that has to wait."""
    sent = refused = 0
    while entries := list(islice(journal.unsent(), _READ)):
        for batch in batches(entries):
            answer, said = send([entry for entry, _ in batch])
            if answer is Answer.REFUSED and len(batch) > 1:
                # One of them is at fault; alone, each gets its own answer.
                answer, taken, turned_away = _send_singly(journal, batch, send)
                sent, refused = sent + taken, refused + turned_away
            elif answer is Answer.REFUSED:
                journal.refuse(batch[0][0], said)
                refused += 1
            elif answer is Answer.TAKEN:
                sent += len(batch)
            if answer is Answer.LATER:
                return Replayed(sent, refused, sum(1 for _ in journal.unsent()))
            journal.mark(batch[-1][1])
    return Replayed(sent, refused, 0)


def _send_singly(journal: Journal, batch: list[tuple[Entry, int]], send: Send) -> tuple[Answer, int, int]:
    sent = refused = 0
    for entry, mark in batch:
        answer, said = send([entry])
        if answer is Answer.LATER:
            return answer, sent, refused
        if answer is Answer.REFUSED:
            journal.refuse(entry, said)
            refused += 1
        else:
            sent += 1
        journal.mark(mark)
    return Answer.TAKEN, sent, refused
