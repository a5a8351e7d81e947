"""What is wrong with the folder that this host's claims are in, in words, and whether it is right again."""

from __future__ import annotations

import errno
import os
from pathlib import Path

__all__ = ["HostDirError", "try_out"]

_MIB = 1024 * 1024
_ROOM = 8192
"""Bytes that the claim of a run may take."""


class HostDirError(OSError):
    """Nothing can be written down in the folder of this host's claims; the text says why."""

    @classmethod
    def of(cls, error: OSError, folder: Path) -> HostDirError:
        """For an error of the operating system."""
        return cls(error.errno, _why(error, folder))

    def __str__(self) -> str:
        return str(self.strerror)


def try_out(folder: Path) -> None:
    """Writes as much as a claim takes, and takes it away. Raises HostDirError."""
    draft = folder / f"room.{os.getpid()}"
    try:
        try:
            draft.write_bytes(b"\0" * _ROOM)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise HostDirError.of(error, folder) from error


def _why(error: OSError, folder: Path) -> str:
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return f"host dir full: {_free_mib(folder)} MiB free in {folder}"
        case errno.EROFS:
            return f"host dir is read-only: {folder}"
        case errno.EACCES | errno.EPERM:
            return f"host dir may not be written by user {os.getuid()}: {folder}"
        case errno.ENOENT | errno.ENOTDIR | errno.EEXIST:
            return f"host dir is no folder, and cannot be made: {folder}"
    return f"host dir cannot be used: {error.strerror or error} ({folder})"


def _free_mib(folder: Path) -> int:
    try:
        found = os.statvfs(folder)
    except OSError:
        return 0
    return found.f_bavail * found.f_frsize // _MIB
