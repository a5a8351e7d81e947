"""The parts of `trimtab bench fleet`: a server on PostgreSQL, workers behind counting proxies, what runs recorded."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from trimtab_infra.stack.ports import HOST

__all__ = ["Proxy", "Server", "Stretch", "Worker", "postgres", "read_stretches", "violations"]

_REQUEST = re.compile(rb"(?:^|\r\n\r\n|\n)(?:GET|POST|PATCH|PUT|DELETE) /api")


@contextlib.contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """A fresh PostgreSQL on loopback; the address of its database. Raises FileNotFoundError if it is not installed."""
    if shutil.which("initdb") is None or shutil.which("pg_ctl") is None:
        raise FileNotFoundError("PostgreSQL (initdb and pg_ctl) is not on the path")
    data, port = folder / "postgres", free_port()
    as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.getuid() == 0 else []
    data.mkdir()
    if as_user:
        shutil.chown(data, "postgres", "postgres")
        folder.chmod(0o755)
    quiet = {"check": True, "stdout": subprocess.DEVNULL, "cwd": "/"}
    subprocess.run([*as_user, "initdb", "-D", data, "-U", "trimtab", "--auth=trust"], **quiet)  # type: ignore[call-overload]
    options = f"-p {port} -h {HOST} -k {data} -c fsync=off -c max_connections=300"
    control = [*as_user, "pg_ctl", "-D", data, "-w"]
    subprocess.run([*control, "-o", options, "-l", data / "log", "start"], **quiet)  # type: ignore[call-overload]
    try:
        yield f"postgresql+asyncpg://trimtab@{HOST}:{port}/postgres"
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], **quiet)  # type: ignore[call-overload]


def free_port() -> int:
    """One that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


@dataclass
class Server:
    """A Prefect server that can be killed and started again at the same address; on SQLite without a `database`."""

    folder: Path
    database: str
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """Of the server and, but for the proxies, of its clients."""
        own = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "TRIMTAB_"))}
        own.pop("PYTHONDONTWRITEBYTECODE", None)
        database = {"PREFECT_API_DATABASE_CONNECTION_URL": self.database} if self.database else {}
        return {
            **own,
            **database,
            "PREFECT_HOME": str(self.folder / "home"),
            "PREFECT_API_URL": f"http://{HOST}:{self.port}/api",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        }

    def start(self) -> None:
        """Returns when it answers. Raises RuntimeError if it does not within two minutes."""
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", HOST, "--port", str(self.port)]
        with (self.folder / "server.log").open("a") as log:
            self.process = subprocess.Popen(command, env=self.environment, stdout=log, stderr=subprocess.STDOUT)
        end = time.monotonic() + 120
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"the server did not start: {(self.folder / 'server.log').read_text()[-400:]}")
            time.sleep(0.3)

    def stop(self) -> None:
        """SIGKILL: nothing is told to anybody."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def _answers(self) -> bool:
        try:
            return httpx.get(f"http://{HOST}:{self.port}/api/health", timeout=2).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False


class Proxy:
    """Passes TCP on to a server, counts requests to its API and bytes, and can be cut."""

    def __init__(self, to_port: int) -> None:
        self.port, self.requests, self.bytes, self.cut = free_port(), 0, 0, False
        self._to_port = to_port
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._serve, daemon=True).start()

    def set_cut(self, cut: bool) -> None:
        """Ends every connection, and takes none until it is mended."""
        self.cut = cut
        if cut:
            self._loop.call_soon_threadsafe(self._close_all)

    def _close_all(self) -> None:
        for writer in list(self._writers):
            writer.close()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(asyncio.start_server(self._connect, HOST, self.port))
        self._loop.run_forever()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if self.cut:
                return
            there, back = await asyncio.open_connection(HOST, self._to_port)
            self._writers |= {writer, back}
            await asyncio.gather(self._pass(reader, back, True), self._pass(there, writer, False))
        except OSError:
            pass  # the server is away: so is this connection
        finally:
            writer.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, count: bool) -> None:
        try:
            while data := await reader.read(65536):
                self.bytes += len(data)
                if count:
                    self.requests += len(_REQUEST.findall(data))
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()
            self._writers.discard(writer)


@dataclass
class Worker:
    """A worker on a node of its own."""

    node: str
    folder: Path
    pool: str
    environment: Mapping[str, str]
    proxy: Proxy
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", self.pool, "--type", "gpu-process"]
        env = {**self.environment, "PREFECT_API_URL": f"http://{HOST}:{self.proxy.port}/api"}
        with (self.folder / f"worker-{self.node}.log").open("a") as log:
            self.process = subprocess.Popen(
                [*command, "--name", self.node], env=env, stdout=log, stderr=subprocess.STDOUT, cwd=self.folder
            )

    def signal(self, number: signal.Signals) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    def await_end(self, within_s: float = 60) -> None:
        if self.process is not None:
            try:
                self.process.wait(within_s)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


@dataclass(frozen=True)
class Stretch:
    """A run from a start to its end, or to the last sign of life."""

    run: str
    node: str
    gpus: tuple[str, ...]
    share: float
    from_s: float
    to_s: float
    ended: bool


def read_stretches(folder: Path) -> list[Stretch]:
    """From what the runs wrote down themselves."""
    found = []
    for path in folder.glob("*.jsonl"):
        lines = []
        for line in path.read_text().splitlines():
            with contextlib.suppress(ValueError):  # cut off by a kill
                lines.append(json.loads(line))
        if lines:
            first, last = lines[0], lines[-1]
            gpus = tuple(gpu for gpu in first["gpus"] if gpu)
            ended = bool(last.get("end"))
            found.append(Stretch(first["run"], first["node"], gpus, first["share"], first["at_s"], last["at_s"], ended))
    return found


def violations(stretches: list[Stretch], runs: set[str]) -> list[str]:
    """Sentences on runs that did not come to their end exactly once, ran twice at once, or shared more than a GPU."""
    found = []
    ends: dict[str, int] = dict.fromkeys(runs, 0)
    by_run: dict[str, list[Stretch]] = defaultdict(list)
    by_gpu: dict[tuple[str, str], list[Stretch]] = defaultdict(list)
    for one in stretches:
        ends[one.run] = ends.get(one.run, 0) + one.ended
        by_run[one.run].append(one)
        for gpu in one.gpus:
            by_gpu[one.node, gpu].append(one)
    found += [f"run {run} came to its end {count} times" for run, count in ends.items() if count != 1]
    for run, parts in by_run.items():
        parts.sort(key=lambda one: one.from_s)
        twice = any(later.from_s < before.to_s for before, later in itertools.pairwise(parts))
        found += [f"run {run} ran twice at once"] if twice else []
    for (node, gpu), parts in by_gpu.items():
        for one in parts:
            at_once = sum(other.share for other in parts if other.from_s <= one.from_s < other.to_s)
            if at_once > 1.0 + 1e-9:
                found.append(f"GPU {gpu} of node {node} was given {at_once:g} times at {one.from_s:.3f}")
    return found
