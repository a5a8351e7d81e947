"""The spool's file: lines that are on the disk when ``append`` returns, and a mark up to where they have been sent.

One line is one call of ``MetricSpool.log``. A line cut short by a crash was never promised, and is passed over.

Whose a file is, is told by a lock on the file itself (flock): the process that writes it holds it from before the file
has its name until it is removed, whatever becomes of its content; the kernel lets go of it when the process is gone.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Entry", "Journal", "journals"]

_SUFFIX = ".metrics"


@dataclass(frozen=True)
class Entry:
    """Metrics logged at one time: names as MLflow stores them, and the same timestamp however often they are sent."""

    run_id: str
    metrics: dict[str, float]
    step: int
    timestamp_ms: int

    def to_line(self) -> bytes:
        """One line of JSON; NaN and infinities as JavaScript writes them."""
        return json.dumps([self.run_id, self.metrics, self.step, self.timestamp_ms]).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Entry:
        """The entry of a line.

        Raises:
            ValueError: the line is no entry.
        """
        try:
            run_id, metrics, step, timestamp_ms = json.loads(line)
            return cls(str(run_id), {name: float(value) for name, value in metrics.items()}, step, timestamp_ms)
        except (TypeError, AttributeError) as error:
            raise ValueError(f"not an entry of a metric spool: {line[:80]!r}") from error


#: Descriptors that hold a lock here. A process forked from this one is no owner: it would keep the lock after us.
_held: set[int] = set()


def _let_go_in_child() -> None:
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_let_go_in_child)


class Journal:
    """One process's lines for one run.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._mark = path.with_suffix(".sent")
        self._refused = path.with_suffix(".refused")

    def size(self) -> int:
        """Bytes of the file."""
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    def append(self, entry: Entry) -> None:
        """Write a line through to the disk."""
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            size = os.fstat(descriptor).st_size
            # After a line cut short by a crash, or a full disk, the next begins anew.
            start = b"\n" if size and not self._ends_in_newline(size) else b""
            line = start + entry.to_line()
            if os.write(descriptor, line) != len(line):
                raise OSError(f"{self.path}: the disk is full")
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)

    def unsent(self) -> Iterator[tuple[Entry, int]]:
        """Entries after the mark, each with the mark that says it has been sent."""
        sent = self.sent()
        with suppress(FileNotFoundError), self.path.open("rb") as file:
            file.seek(sent)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                sent += len(line)
                with suppress(ValueError):
                    yield Entry.from_line(line), sent

    def sent(self) -> int:
        """The mark: bytes of the file that have been dealt with."""
        try:
            return int(self._mark.read_text())
        except (FileNotFoundError, ValueError):
            return 0

    def mark(self, sent: int) -> None:
        """Move the mark, as one step. Lost in a crash, entries are sent again, which MLflow sees as the same points."""
        incoming = self._mark.with_suffix(".mark")
        incoming.write_text(str(sent))
        incoming.replace(self._mark)

    def refuse(self, entry: Entry, reason: str) -> None:
        """Keep, beside the file, what MLflow will never take, and why."""
        with self._refused.open("a") as file:
            file.write(json.dumps({"reason": reason, "entry": json.loads(entry.to_line())}) + "\n")

    def begin_anew(self) -> None:
        """Empty the file, all of which was sent; it stays its owner's."""
        # The file first: a mark beyond the end is harmless, a file without its mark would be sent anew.
        os.truncate(self.path, 0)
        self._mark.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the file and its mark; what was refused stays."""
        self.path.unlink(missing_ok=True)
        self._mark.unlink(missing_ok=True)

    @contextmanager
    def owned(self) -> Iterator[None]:
        """Make the file, and own it until the body ends, or this process."""
        unnamed = self.path.with_suffix(".new")
        with _holding(os.open(unnamed, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)) as descriptor:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            # It has its name when it is locked: nobody finds it without its owner.
            unnamed.rename(self.path)
            _sync_folder(self.path.parent)
            yield

    @contextmanager
    def taken(self) -> Iterator[bool]:
        """Whether its owner is gone and this process has it for the time of the body; one at a time has it."""
        try:
            opened = os.open(self.path, os.O_RDWR)
        except FileNotFoundError:
            yield False
            return
        with _holding(opened) as descriptor:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            # Another may have had it, and removed it, since it was opened.
            yield self._is(descriptor)

    def _is(self, descriptor: int) -> bool:
        with suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(descriptor), self.path.stat())
        return False

    def _ends_in_newline(self, size: int) -> bool:
        with self.path.open("rb") as file:
            file.seek(size - 1)
            return file.read(1) == b"\n"


def journals(folder: Path) -> list[Journal]:
    """The journals of a folder, oldest first."""
    return [Journal(path) for path in sorted(folder.glob(f"*{_SUFFIX}"))]


@contextmanager
def _holding(descriptor: int) -> Iterator[int]:
    _held.add(descriptor)
    try:
        yield descriptor
    finally:
        # In a process forked meanwhile it is closed already, and the number may be another file's.
        if descriptor in _held:
            _held.remove(descriptor)
            os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
