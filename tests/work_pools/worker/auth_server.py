"""A Prefect server that asks for an auth string, and can be started again with another."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from blocks.s3_server import free_ports

_STARTS_WITHIN_S = 120


@dataclass
class AuthServer:
    """Its database is kept when it is started again."""

    folder: Path
    port: int = field(default_factory=lambda: free_ports(("api",))["api"])
    string: str = ""
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/api"

    def environment(self) -> dict[str, str]:
        """Of a client of it that has no credentials."""
        own = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PREFECT_", "TRIMTAB_", "MLFLOW_")) and name != "PYTHONDONTWRITEBYTECODE"
        }
        return {**own, "PREFECT_HOME": str(self.folder / "home"), "PREFECT_API_URL": self.url, "DO_NOT_TRACK": "1"}

    def start(self, string: str) -> None:
        """Returns when it answers."""
        self.stop()
        self.string = string
        env = self.environment() | {
            "PREFECT_HOME": str(self.folder / "server"),
            "PREFECT_SERVER_API_AUTH_STRING": string,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        }
        del env["PREFECT_API_URL"]
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(self.port)]
        with (self.folder / "server.log").open("a") as log:
            self.process = subprocess.Popen(command, env=env, stdout=log, stderr=log, cwd=self.folder)
        end = time.monotonic() + _STARTS_WITHIN_S
        while True:
            try:
                if httpx.get(f"{self.url}/health", timeout=5).status_code == httpx.codes.OK:
                    return
            except httpx.HTTPError:
                pass
            assert time.monotonic() < end, (self.folder / "server.log").read_text()[-2000:]
            time.sleep(0.2)

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.process = None
