"""Processes of a production stack, each from its package: started, asked until they answer, killed, started again."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import httpx

HOST = "127.0.0.1"
READY_S = 120


def postgres_bin() -> Path | None:
    """Where PostgreSQL's programs are: Debian keeps them off the path."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres")) or [shutil.which("postgres")]
    return Path(str(found[-1])).parent if found[-1] else None


def missing() -> list[str]:
    """Programs that the topology needs and that are not here."""
    there = {"postgresql": postgres_bin(), "redis-server": shutil.which("redis-server"), "nginx": shutil.which("nginx")}
    return [name for name, path in there.items() if path is None]


@dataclass
class Part:
    """One program with its processes. ``answers`` is asked until it says yes; it may raise whatever a client raises."""

    name: str
    command: list[str]
    env: Mapping[str, str]
    folder: Path
    answers: Callable[[], bool]
    cwd: Path | None = None
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.log"

    def start(self) -> None:
        self.started_at = datetime.now(UTC)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                env=dict(self.env),
                cwd=self.cwd or self.folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def ready(self) -> float:
        """Waits until it answers; seconds that took."""
        began = time.monotonic()
        while not self._asked():
            code = self.process.poll() if self.process else None
            assert code is None, f"{self.name} ended with {code}:\n{self.tail()}"
            assert time.monotonic() - began < READY_S, f"{self.name} does not answer:\n{self.tail()}"
            time.sleep(0.05)  # a foreign server tells nobody that it is ready
        return time.monotonic() - began

    def kill(self) -> None:
        """All its processes at once; a worker's runs are not among them."""
        assert self.process is not None
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def ask_to_stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()

    def stop(self, grace_s: float = 10) -> None:
        """Asks, waits, and kills what is left of it."""
        if self.process is None:
            return
        self.ask_to_stop()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(grace_s)
        self.kill()

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-2000:] if self.log.exists() else "no log"

    def _asked(self) -> bool:
        try:
            return self.answers()
        except (OSError, httpx.HTTPError):
            return False


def as_postgres(command: list[str]) -> list[str]:
    """PostgreSQL refuses to run as root."""
    if os.getuid():
        return command
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", *command]


NGINX = """
daemon off; master_process off; pid {folder}/nginx.pid; error_log stderr warn;
events {{ worker_connections 512; }}
http {{
  access_log off;
  client_max_body_size 0;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
  # A server that is gone is left out for 2 s after the first request that it refuses; that request goes to the other.
  upstream prefect {{ {servers} keepalive 32; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://prefect;
      proxy_http_version 1.1;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection $connection_upgrade;
      proxy_set_header Host $http_host;
      proxy_connect_timeout 1s;
      proxy_read_timeout 1h;
      proxy_next_upstream error timeout http_502 http_503;
    }}
  }}
}}
"""


def nginx_config(folder: Path, port: int, servers: list[int]) -> Path:
    """One address for several API servers, web sockets included."""
    lines = " ".join(f"server 127.0.0.1:{one} max_fails=1 fail_timeout=2s;" for one in servers)
    file = folder / "nginx.conf"
    file.write_text(NGINX.format(folder=folder, port=port, servers=lines))
    return file
