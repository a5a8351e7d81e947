"""Secrets that are planted, every way they could be written down, and where those are found."""

from __future__ import annotations

import base64
import gzip
import io
import json
import secrets
import tarfile
import threading
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO
from urllib.parse import quote, quote_plus

import psutil

#: Bytes of a text in base64 that do not depend on what stands around it are all but four at either end.
_EDGE = 4


def plant(name: str, odd: str = "/+") -> str:
    """A secret that is found nowhere else, with characters that are written otherwise in an address and in base64."""
    return f"{name[:8]}{odd}{secrets.token_hex(9)}"


def spellings(secret: str) -> set[bytes]:
    """A secret as it is, in an address, in JSON, in hex, and in base64 wherever it may stand in a longer text."""
    plain = secret.encode()
    found = {plain, quote(secret, safe="").encode(), quote(secret).encode(), quote_plus(secret).encode()}
    found |= {json.dumps(secret)[1:-1].encode(), plain.hex().encode(), repr(secret)[1:-1].encode()}
    for before in range(3):
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            inner = encode(b"\0" * before + plain).rstrip(b"=")
            found.add(inner[_EDGE if before else 0 : -_EDGE])
    return found


@dataclass(frozen=True)
class Find:
    """A secret at a place."""

    secret: str
    place: str


@dataclass
class Planted:
    """Secrets by name."""

    secrets: dict[str, str]
    _spelt: dict[str, set[bytes]] = field(init=False)

    def __post_init__(self) -> None:
        self._spelt = {name: spellings(secret) for name, secret in self.secrets.items()}

    def in_bytes(self, content: bytes, place: str) -> Iterator[Find]:
        """What is in some bytes, and in what is packed in them."""
        for name, spelt in self._spelt.items():
            if any(one in content for one in spelt):
                yield Find(name, place)
        for inner, packed in _unpacked(content):
            yield from self.in_bytes(packed, f"{place}{inner}")

    def in_files(self, folder: Path) -> Iterator[Find]:
        """What is in the files below a folder, and in their names."""
        for path in sorted(folder.rglob("*")):
            yield from self.in_bytes(str(path).encode(), f"name of {path.relative_to(folder)}")
            if path.is_file() and not path.is_symlink():
                yield from self.in_bytes(path.read_bytes(), str(path.relative_to(folder)))

    def in_tar(self, archive: IO[bytes], place: str) -> Iterator[Find]:
        """What is in a tar, and in the tars in it: `docker save` gives one, with one for each layer.

        What a later layer takes away is still in the earlier one. Names, owners and links are searched too.
        """
        with tarfile.open(fileobj=archive) as members:
            for member in members:
                here = f"{place}/{member.name}"
                head = [member.name, member.linkname, member.uname, member.gname, member.pax_headers]
                yield from self.in_bytes(repr(head).encode(), f"header of {here}")
                file = members.extractfile(member) if member.isreg() else None
                if file is None:
                    continue
                if _is_tar(file):
                    yield from self.in_tar(file, here)
                else:
                    yield from self.in_bytes(file.read(), here)


def _is_tar(file: IO[bytes]) -> bool:
    """Also one that is packed. Leaves the file at its beginning."""
    head = file.read(262)
    file.seek(0)
    may_be = head[257:] == b"ustar" or head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ"))
    found = may_be and tarfile.is_tarfile(file)
    file.seek(0)
    return found


def _unpacked(content: bytes) -> Iterable[tuple[str, bytes]]:
    try:
        if content[:2] == b"\x1f\x8b":
            yield ".gunzip", gzip.decompress(content)
        elif content[:4] == b"PK\x03\x04":
            with zipfile.ZipFile(io.BytesIO(content)) as packed:
                yield from ((f"/{name}", packed.read(name)) for name in packed.namelist())
    except (OSError, zipfile.BadZipFile, EOFError):
        return


class CommandLines(threading.Thread):
    """Looks at the command lines of all processes of this machine, time and again."""

    def __init__(self, planted: Planted) -> None:
        super().__init__(daemon=True)
        self._planted, self._end = planted, threading.Event()
        self.seen: set[str] = set()
        self.found: set[Find] = set()

    def run(self) -> None:
        while not self._end.wait(0.2):
            for process in psutil.process_iter():
                try:
                    line = "\0".join(process.cmdline())
                except psutil.Error:
                    continue
                if line not in self.seen:
                    self.seen.add(line)
                    self.found |= set(self._planted.in_bytes(line.encode(), f"command line {line.split(chr(0))[:4]}"))

    def stop(self) -> set[Find]:
        self._end.set()
        self.join()
        return self.found
