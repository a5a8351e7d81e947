"""Backup and restore of the embedded stack: one compressed tar, each file in it known by its SHA-256.

A backup may be taken while the stack runs. The databases are copied first, each consistent (SQLite's own backup), the
immutable files after them: whatever a database speaks of was written before it, and so is in the backup.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import sqlite3
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

from trimtab_infra.errors import UserError
from trimtab_infra.stack.stack import Stack
from trimtab_infra.stack.state import FORMAT, State, StateFolder

__all__ = ["BadBackup", "WouldOverwrite", "backup", "copy_database", "restore"]

#: The last member: what the others must be.
_CONTENTS = "contents.json"

#: Of a state folder, what is not data: logs, locks, and what belongs to processes.
_LEFT_OUT = frozenset({"logs", ".lock", ".gitignore", "stack.new", "stack.json"})


class BadBackup(UserError):
    """A file that is no backup, or is not whole."""


class WouldOverwrite(UserError):
    """There is something where the result should go."""


def backup(folder: StateFolder, file: Path) -> int:
    """Write a backup of a state folder; returns the number of files in it.

    The file has its name only when it is whole.

    Raises:
        WouldOverwrite: the file is there already. UserError: there is no stack, or the file cannot be written.
    """
    if not folder.file.exists():
        raise UserError(f"{folder.path} is no state folder of Trimtab: nothing to back up")
    if file.exists():
        raise WouldOverwrite(f"{file} is there already; name another file, or remove it")
    incoming = file.with_name(f".{file.name}.incoming")
    try:
        with incoming.open("wb") as sink, tempfile.TemporaryDirectory(dir=file.parent) as scratch:
            count = _write(folder, sink, Path(scratch))
            sink.flush()
            os.fsync(sink.fileno())
        incoming.replace(file)
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error.strerror or error}") from None
    finally:
        incoming.unlink(missing_ok=True)
    return count


def restore(stack: Stack, file: Path, overwrite: bool) -> int:
    """Put a backup where a stack's state is; returns the number of files. All is compared before anything is replaced.

    Raises:
        WouldOverwrite: there is a state folder, and it was not said that it may go, or its stack runs.
        BadBackup: the file is no backup, or not whole.
    """
    target = stack.folder.path
    if any(part.state != "stopped" for part in stack.status()):
        raise WouldOverwrite(f"the stack of {target} is running; run `trimtab down` first")
    if target.exists() and any(target.iterdir()):
        if not overwrite:
            raise WouldOverwrite(f"{target} is there already; name another folder with --state, or say --overwrite")
        if not stack.folder.file.exists():
            raise WouldOverwrite(f"{target} has files and is no state folder of Trimtab; it is left alone")
    incoming = target.with_name(f".{target.name}.incoming")
    shutil.rmtree(incoming, ignore_errors=True)
    try:
        count, kept = _extract(file, incoming)
        restored = StateFolder(incoming)
        # Another stack than the one that was backed up: both may run on this machine.
        restored.write(replace(State(), ports=kept.ports))
        restored.prepare()
        if target.exists():
            shutil.rmtree(target)
        incoming.replace(target)
    finally:
        shutil.rmtree(incoming, ignore_errors=True)
    return count


def copy_database(source: Path, target: Path) -> None:
    """A consistent copy of an SQLite database that others may be writing to."""
    with closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True)) as old, closing(sqlite3.connect(target)) as new:
        old.backup(new)
        new.execute("pragma journal_mode=delete")


def _write(folder: StateFolder, sink: io.BufferedWriter, scratch: Path) -> int:
    digests: dict[str, str] = {}
    with tarfile.open(fileobj=sink, mode="w:gz", compresslevel=1) as tar:
        for name in sorted(_databases(folder.path)):
            copy_database(folder.path / name, scratch / "copy")
            digests[name] = _add(tar, scratch / "copy", name)
            (scratch / "copy").unlink()
        for file in _files(folder.path):
            name = file.relative_to(folder.path).as_posix()
            if name not in digests:
                try:
                    digests[name] = _add(tar, file, name)
                except FileNotFoundError:  # a temporary file of a process that runs
                    continue
        state = folder.read()
        about = {"format": FORMAT, "ports": state.ports, "made_at": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
        text = json.dumps({**about, "files": digests}).encode()
        last = tarfile.TarInfo(_CONTENTS)
        last.size = len(text)
        tar.addfile(last, io.BytesIO(text))
    return len(digests)


def _files(root: Path) -> Iterator[Path]:
    for entry in sorted(root.iterdir()):
        if entry.name in _LEFT_OUT or entry.is_symlink():
            continue
        yield from sorted(one for one in entry.rglob("*") if one.is_file()) if entry.is_dir() else [entry]


def _databases(root: Path) -> set[str]:
    """Names of the SQLite databases, by how they begin."""
    found = set()
    for file in _files(root):
        if file.suffix in (".db", ".sqlite"):
            with file.open("rb") as opened:
                if opened.read(16) == b"SQLite format 3\0":
                    found.add(file.relative_to(root).as_posix())
    return found


def _add(tar: tarfile.TarFile, file: Path, name: str) -> str:
    """Add a file as long as it is now; its SHA-256 as added."""
    with file.open("rb") as opened:
        content = tar.gettarinfo(arcname=name, fileobj=opened)
        content.mode, content.uid, content.gid, content.uname, content.gname = content.mode & 0o777, 0, 0, "", ""
        if name.endswith(("-wal", "-shm", "-journal")):
            raise FileNotFoundError(name)  # its database was copied whole
        reader = _Hashed(opened)
        tar.addfile(content, reader)
    return reader.sha256.hexdigest()


class _Hashed:
    """Reads a file and hashes what was read."""

    def __init__(self, file: io.BufferedReader) -> None:
        self._file, self.sha256 = file, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self.sha256.update(data)
        return data


def _extract(file: Path, target: Path) -> tuple[int, State]:
    """All files, compared with what they were; raises BadBackup."""
    with _reading(file):
        with tarfile.open(file, mode="r:gz") as tar:
            target.mkdir(parents=True)
            # Python's filter refuses names that lead out of the folder, devices, and links.
            tar.extractall(target, filter="data")
        contents = target / _CONTENTS
        if not contents.is_file():
            raise BadBackup(f"{file} is no backup of Trimtab, or is cut off")
        about = json.loads(contents.read_text())
        contents.unlink()
        if about["format"] != FORMAT:
            raise BadBackup(f"{file} was made by another version of Trimtab (format {about['format']}, here {FORMAT})")
        digests = about["files"]
        there = {one.relative_to(target).as_posix() for one in target.rglob("*") if one.is_file()}
        if there != set(digests):
            raise BadBackup(f"{file} has other files than it says: {sorted(there ^ set(digests))[:3]}")
        for name, digest in digests.items():
            with (target / name).open("rb") as opened:
                if hashlib.file_digest(opened, "sha256").hexdigest() != digest:
                    raise BadBackup(f"{file} was altered: {name} is not what was backed up")
        return len(digests), State(ports=about["ports"])


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    """What Python says of a file that is none of ours, in one line."""
    try:
        yield
    except FileNotFoundError:
        raise BadBackup(f"there is no {file}") from None
    except (tarfile.TarError, EOFError, ValueError, KeyError, TypeError, OSError) as error:
        raise BadBackup(f"{file} cannot be read as a backup: {type(error).__name__}: {error}") from None
