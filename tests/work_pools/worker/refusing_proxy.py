"""Stands between a worker and the server, and answers calls that a test names with 503, as a server on SQLite does."""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
from dataclasses import dataclass, field
from urllib.parse import urlsplit

_BUSY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"


@dataclass
class Rule:
    """The next `times` requests that match `pattern` ("GET /api/flows/...") are refused. `lost`: the server does what
    was asked, and its answer is lost.
    """

    pattern: str
    times: int = 10**6
    lost: bool = False
    refused: list[str] = field(default_factory=list)

    def takes(self, request: str) -> bool:
        if len(self.refused) >= self.times or not re.search(self.pattern, request):
            return False
        self.refused.append(request)
        return True


class RefusingProxy:
    """`url` is that of the API behind it; `asked` are all requests, in order."""

    def __init__(self, api_url: str) -> None:
        parts = urlsplit(api_url)
        self._there = (parts.hostname or "127.0.0.1", parts.port or 80)
        self._path = parts.path
        self.rules: list[Rule] = []
        self.asked: list[str] = []
        self._port = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end = asyncio.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    def __enter__(self) -> RefusingProxy:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(10)

    def refuse(self, pattern: str, times: int = 10**6, lost: bool = False) -> Rule:
        rule = Rule(pattern, times, lost)
        self.rules.append(rule)
        return rule

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}{self._path}"

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self._port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._end.wait()
        server.close()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            try:
                await self._answer(reader, writer)
            finally:
                writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        request = head.split(b" HTTP/", 1)[0].decode()
        self.asked.append(request)
        rule = next((rule for rule in self.rules if rule.takes(request)), None)
        length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
        body = await reader.readexactly(int(length[1])) if length else b""
        if b"upgrade: websocket" not in head.lower():  # one request a connection: the next one is looked at too
            head = re.sub(rb"\r\nconnection:[^\r]*", b"", head, flags=re.IGNORECASE)
            head = head[:-2] + b"Connection: close\r\n\r\n"
        if rule is None or rule.lost:
            await self._pass_on(head + body, reader, writer if rule is None else None)
        if rule is not None:
            writer.write(_BUSY)
            await writer.drain()

    async def _pass_on(self, asked: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter | None) -> None:
        there, back = await asyncio.open_connection(*self._there)
        try:
            back.write(asked)
            if writer is None:
                await there.read()
            else:
                await asyncio.gather(_pass(reader, back), _pass(there, writer))
        finally:
            back.close()


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()
