"""The outbox: files that MLflow's server processes append to and one sender reads. Nobody waits for anybody.

Each writing process has files of its own, so that writers share no lock. A line is in the system's memory when
``put`` returns, and so survives the death of the process, by any signal; a power cut may take the last seconds, which
the reconciler then finds in MLflow. A full outbox takes nothing more and leaves a note, ``gap``,
that asks for the same.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from trimtab_infra.metric_events.points import Point

__all__ = ["Outbox", "Segment", "gap_noted", "segments", "settle_gap"]

_SUFFIX, _GAP = ".points", "gap"

#: A writer begins a new file at this size, so that files that have been read can go.
_SEGMENT_BYTES = 2**20


class Outbox:
    """The writing end, one in a process; safe to use from threads and after a fork.

    Args:
        folder: made if it is not there.
        limit_bytes: size of all files together at which nothing more is taken.
    """

    def __init__(self, folder: Path, limit_bytes: int = 256 * 2**20, segment_bytes: int = _SEGMENT_BYTES) -> None:
        self._folder = folder
        self._limit_bytes, self._segment_bytes = limit_bytes, segment_bytes
        self._lock = threading.Lock()
        self._file: int | None = None
        self._size, self._pid = 0, 0

    def put(self, points: Iterable[Point]) -> bool:
        """Write points down, in 20 microseconds or so; False if the outbox is full, and the gap is noted.

        Raises:
            OSError: the disk is full, or not writable.
        """
        lines = b"".join(point.to_json().encode() + b"\n" for point in points)
        with self._lock:
            ours = self._file is not None and self._pid == os.getpid() and self._size < self._segment_bytes
            if not ours and not self._begin():
                note_gap(self._folder)
                return False
            assert self._file is not None
            written = os.write(self._file, lines)
            self._size += written
            if written != len(lines):
                # The reader passes over the line that was cut; the next begins in a new file.
                self._size = self._segment_bytes
                raise OSError(f"{self._folder}: the disk is full")
        return True

    def close(self) -> None:
        """Let go of the file, which the reader may then remove."""
        with self._lock:
            if self._file is not None and self._pid == os.getpid():
                os.close(self._file)
            self._file = None

    def _begin(self) -> bool:
        """A new file, locked for as long as this process lives or writes to it."""
        if self._file is not None and self._pid == os.getpid():
            os.close(self._file)
        self._file = None
        self._folder.mkdir(parents=True, exist_ok=True)
        if sum(segment.path.stat().st_size for segment in segments(self._folder)) >= self._limit_bytes:
            return False
        # Under another name until it is locked, or the reader could take it for one that was left.
        path = self._folder / f"{time.time_ns():020d}-{uuid4().hex[:8]}"
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        path.rename(path.with_suffix(_SUFFIX))
        self._size, self._pid = 0, os.getpid()
        return True


@dataclass(frozen=True)
class Segment:
    """A file of the outbox, as its reader sees it."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    def read(self, start: int, limit_bytes: int = 2**20) -> tuple[list[Point], int]:
        """Whole lines from a place on, and the place after them; lines that are no points are passed over."""
        points = []
        with self.path.open("rb") as file:
            file.seek(start)
            whole, newline, _ = file.read(limit_bytes).rpartition(b"\n")
        for line in whole.splitlines():
            with suppress(ValueError):
                points.append(Point.from_json(line))
        return points, start + len(whole) + len(newline)

    def remove_if_read(self, until: int) -> bool:
        """Remove the file if its writer is gone and it has nothing after ``until``."""
        with self.path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            # Asked with the lock held: nobody writes to it any more.
            file.seek(until)
            if b"\n" in file.read():
                return False
            self.path.unlink()
        return True


def segments(folder: Path) -> list[Segment]:
    """Files of the outbox, oldest first."""
    return [Segment(path) for path in sorted(folder.glob(f"*{_SUFFIX}"))]


def note_gap(folder: Path) -> None:
    """Note that points went by unwritten."""
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _GAP).touch()


def gap_noted(folder: Path) -> bool:
    """Whether points went by unwritten since the last ``settle_gap``."""
    return (folder / _GAP).exists()


def settle_gap(folder: Path) -> None:
    """Take the note away; before the look at MLflow that it asks for, so that a gap during it is noted anew."""
    (folder / _GAP).unlink(missing_ok=True)
