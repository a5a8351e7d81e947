"""A host with systemd: Debian's packages in a folder, started by systemd-nspawn with a network of its own."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[3]
PACKAGES = "systemd,systemd-sysv,dbus,python3,python3-venv,ca-certificates,curl,postgresql,redis-server"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
UP_S = 120


class CannotStart(RuntimeError):
    """This machine lacks something that another one needs to run in it; the text says what."""


@functools.cache
def programs() -> dict[str, str]:
    """Paths of what makes and starts it. Raises CannotStart."""
    if os.geteuid():
        raise CannotStart("not started: systemd units (only root makes and starts a host in a folder)")
    found = {name: shutil.which(name) for name in ("mmdebstrap", "systemd-nspawn", "nsenter")}
    if absent := [name for name, path in found.items() if path is None]:
        raise CannotStart(f"not started: systemd units (no {', '.join(absent)}: mmdebstrap, systemd-container)")
    return {name: str(path) for name, path in found.items()}


@dataclass
class Machine:
    """The host. Its loopback is its own: fixed ports are free there, and nothing of it can be reached from here."""

    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="trimtab-machine-")))
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    took: dict[str, float] = field(default_factory=dict)

    @property
    def root(self) -> Path:
        return self.folder / "root"

    def make(self) -> None:
        """Debian, and Trimtab in /opt/trimtab as infra/systemd/README.md wants it. Raises CannotStart."""
        began = time.monotonic()
        made = subprocess.run(
            [programs()["mmdebstrap"], "--variant=minbase", f"--include={PACKAGES}", "bookworm", str(self.root)],
            capture_output=True,
            text=True,
        )
        if made.returncode:
            raise CannotStart(f"not started: systemd units (mmdebstrap makes no Debian: {made.stderr[-300:]})")
        self.root.chmod(0o755)
        self.took["Debian"] = time.monotonic() - began
        began = time.monotonic()
        self._install()
        self.took["Trimtab"] = time.monotonic() - began

    def _install(self) -> None:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        source = self.root / "usr/src/trimtab"
        for name in filter(None, listed.split("\0")):
            if (ROOT / name).is_file():
                (source / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, source / name)
        uv = Path(sys.executable).parent / "uv"
        shutil.copy(uv if uv.exists() else str(shutil.which("uv")), self.root / "usr/local/bin/uv")
        shutil.copy(Path(sys.executable).parent / "weed", self.root / "usr/local/bin/weed")
        if CERTIFICATES.exists():
            shutil.copy(CERTIFICATES, self.root / str(CERTIFICATES).lstrip("/"))
        cache = Path(os.environ.get("UV_CACHE_DIR", Path.home() / ".cache/uv"))
        cache.mkdir(parents=True, exist_ok=True)
        given = {name: value for name, value in os.environ.items() if name.startswith("UV_") and name != "UV_CACHE_DIR"}
        given |= {"UV_CACHE_DIR": "/mnt", "UV_LINK_MODE": "copy", "SSL_CERT_FILE": str(CERTIFICATES)}
        install = (
            "uv pip install --quiet --python /opt/trimtab/bin/python --compile-bytecode --constraint constraints.txt"
        )
        script = f"python3 -m venv /opt/trimtab && cd /usr/src/trimtab && {install} '.[production]' flask-wtf"
        command = [*self._nspawn(), "--pipe", f"--bind={cache}:/mnt", "--resolv-conf=copy-host"]
        command += [f"--setenv={name}={value}" for name, value in given.items()]
        done = subprocess.run([*command, "sh", "-c", script], capture_output=True, text=True)
        if done.returncode:
            raise CannotStart(f"not started: systemd units (Trimtab is not installed there: {done.stderr[-600:]})")

    def start(self) -> None:
        """Boots it. Raises CannotStart if systemd does not come up in it."""
        began = time.monotonic()
        log = self.folder / "console.log"
        command = [*self._nspawn(), "--private-network", "--boot", "--console=pipe"]
        with log.open("ab") as console:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=console, stderr=console)
        while self("systemctl", "is-system-running").stdout.strip() not in ("running", "degraded"):
            if self.process.poll() is not None or time.monotonic() - began > UP_S:
                self.stop()
                raise CannotStart(f"not started: systemd units (systemd does not run here: {log.read_text()[-600:]})")
            time.sleep(0.2)
        self.took["systemd"] = time.monotonic() - began

    def __call__(self, *command: str, stdin: str = "", seconds: float = 300) -> subprocess.CompletedProcess[str]:
        """Runs a command in it as root."""
        first = self._first()
        if first is None:
            return subprocess.CompletedProcess(command, 255, "", "it is not up")
        path = "/opt/trimtab/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        enter = [programs()["nsenter"], "--target", str(first), "--all", "--wd=/root"]
        enter += ["env", "-i", f"PATH={path}", "HOME=/root", "LANG=C.UTF-8"]
        return subprocess.run([*enter, *command], input=stdin, capture_output=True, text=True, timeout=seconds)

    def sh(self, script: str, seconds: float = 300) -> str:
        """Runs a script in it as root; what it said."""
        done = self("sh", "-eu", stdin=script, seconds=seconds)
        assert done.returncode == 0, f"{done.stdout}{done.stderr}\n{self.sick()}"
        return done.stdout

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
        file.chmod(mode)
        file.write_text(text)

    def sick(self) -> str:
        """What its journal says of units that failed."""
        failed = self("systemctl", "--failed", "--plain", "--no-legend").stdout
        units = [f"--unit={line.split()[0]}" for line in failed.splitlines() if line.strip()]
        return failed + (self("journalctl", "--no-pager", "--lines=60", *units).stdout if units else "")

    def stop(self) -> None:
        if self.process is None:
            return
        self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(60)
        self.process.kill()
        self.process.wait()

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _nspawn(self) -> list[str]:
        command = [programs()["systemd-nspawn"], "--quiet", f"--directory={self.root}", "--machine=trimtab-test"]
        # The manager of this machine, if it has one, need not know of it.
        return [*command, "--register=no", "--keep-unit"]

    def _first(self) -> int | None:
        """Its first process, as this machine counts."""
        if self.process is None or self.process.poll() is not None:
            return None
        children = psutil.Process(self.process.pid).children()
        return children[0].pid if children else None
