"""A TCP proxy before a real server that does to connections what networks and overloaded servers do to them."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType

HOST = "127.0.0.1"
_CHUNK = 1 << 16
#: How long a client may pause within one request before it counts as complete.
_QUIET_S = 0.3


def http(status: str, body: str = "", *headers: str) -> bytes:
    """An answer as a server would write it."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers, "", body]
    return "\r\n".join(lines).encode()


def s3_error(status: str, code: str, message: str, *headers: str) -> bytes:
    """An error as S3 servers word it."""
    return http(
        status, f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>", *headers
    )


@dataclass(frozen=True)
class Fault:
    """What happens to a connection. Without anything set: nothing."""

    answer: bytes | None = None  # said in the server's place
    only: bytes = b""  # requests that begin with a text that holds this; others pass
    hang: bool = False  # the request is taken, and that is all
    cut_after: int | None = None  # bytes of the server's answer that still come; 0: it acts, and nobody learns of it
    flip_at: int | None = None  # this byte of the server's answer comes altered; one answer a connection


@dataclass
class Proxy:
    """Passes connections to a port of this machine; ``fail`` says what happens to the next ones."""

    to_port: int
    requests: list[bytes] = field(default_factory=list)  # the first bytes that came over each connection

    def __enter__(self) -> Proxy:
        self._fault, self._times = Fault(), 0
        self._came = threading.Condition()
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._server = socket.create_server((HOST, 0))
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)  # close alone does not wake accept
        self._server.close()
        self._threads[0].join()
        self.cut()
        for thread in self._threads:
            thread.join()

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self._server.getsockname()[1]}"

    def fail(self, fault: Fault, times: int = 1_000_000) -> None:
        """Let this happen to the next connections; those that are open are cut, so that there will be some."""
        with self._lock:
            self._fault, self._times = fault, times
        self.cut()

    def await_request(self, text: bytes, timeout_s: float = 30) -> None:
        """Until a connection began with a request that holds this text."""
        with self._came:
            assert self._came.wait_for(lambda: any(text in request for request in self.requests), timeout_s)

    def heal(self) -> None:
        self.fail(Fault(), 0)

    def cut(self) -> None:
        with self._lock:
            for connection in self._open:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(client,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            with self._lock:
                self._open.add(client)
            try:
                begun = client.recv(_CHUNK)
                if begun:
                    with self._came:
                        self.requests.append(begun)
                        self._came.notify_all()
                    self._do(client, begun, self._take())
            finally:
                with self._lock:
                    self._open.discard(client)

    def _take(self) -> Fault:
        with self._lock:
            if self._times <= 0:
                return Fault()
            self._times -= 1
            return self._fault

    def _do(self, client: socket.socket, begun: bytes, fault: Fault) -> None:
        if fault.only not in begun:
            self._pass(client, begun, Fault(only=fault.only))
        elif fault.hang:
            while client.recv(_CHUNK):
                pass
        elif fault.answer is not None:
            self._drain(client)
            client.sendall(fault.answer)
        else:
            self._pass(client, begun, fault)

    def _drain(self, client: socket.socket) -> None:
        """The rest of the request: a connection closed with bytes unread would be reset, and the answer lost."""
        client.settimeout(_QUIET_S)
        with suppress(TimeoutError):
            while client.recv(_CHUNK):
                pass
        client.settimeout(None)

    def _pass(self, client: socket.socket, begun: bytes, fault: Fault) -> None:
        with socket.create_connection((HOST, self.to_port)) as server:
            server.sendall(begun)
            with self._lock:
                self._open.add(server)
            last = b"" if fault.flip_at is not None else fault.only or None
            up = threading.Thread(target=_copy, args=(client, server, last))
            up.start()
            try:
                self._answer(server, client, fault)
            finally:
                for end in (server, client):
                    with suppress(OSError):
                        end.shutdown(socket.SHUT_RDWR)
                up.join()
                with self._lock:
                    self._open.discard(server)

    def _answer(self, server: socket.socket, client: socket.socket, fault: Fault) -> None:
        passed = 0
        while chunk := server.recv(_CHUNK):
            if fault.flip_at is not None and passed <= fault.flip_at < passed + len(chunk):
                at = fault.flip_at - passed
                chunk = chunk[:at] + bytes([chunk[at] ^ 1]) + chunk[at + 1 :]
            if fault.cut_after is not None and passed + len(chunk) > fault.cut_after:
                client.sendall(chunk[: fault.cut_after - passed])
                return
            client.sendall(chunk)
            passed += len(chunk)


def _copy(source: socket.socket, target: socket.socket, until: bytes | None) -> None:
    """Pass on what comes; hang up on what holds this text: it shall come over a new connection."""
    with suppress(OSError):
        while chunk := source.recv(_CHUNK):
            if until is not None and until in chunk:
                source.shutdown(socket.SHUT_RDWR)
                break
            target.sendall(chunk)
        target.shutdown(socket.SHUT_WR)
