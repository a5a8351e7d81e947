"""A host with systemd: this machine's /usr with an /etc and a /var of its own, started by systemd-nspawn."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from topology.parts import postgres_bin

ROOT = Path(__file__).parents[3]
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
HOME, SOURCE = "/opt/trimtab", "/opt/source"
SITE = Path(sysconfig.get_path("purelib"))
#: This Python, there: a worker's user cannot enter somebody's home.
BASE = sys.base_prefix if sys.base_prefix == "/usr" else "/opt/python"
#: Where it finds its own library when it is moved.
LIBRARIES = f"LD_LIBRARY_PATH={BASE}/lib"
PATH = f"{HOME}/bin:{postgres_bin()}:/usr/sbin:/usr/bin:/sbin:/bin"
#: What programs read of /etc that is not about this machine.
ETC = ("passwd", "group", "nsswitch.conf", "os-release", "ld.so.conf", "ld.so.conf.d", "ld.so.cache", "services")
UP_S = 120


class CannotStart(RuntimeError):
    """This machine lacks something that another one needs to run in it; the text says what."""


@functools.cache
def programs() -> dict[str, str]:
    """Paths of what makes and starts it. Raises CannotStart."""
    if os.geteuid():
        raise CannotStart("not started: systemd units (only root makes and starts a host in a folder)")
    found = {name: shutil.which(name) for name in ("systemd-nspawn", "nsenter", "curl", "redis-server")}
    found["postgresql"] = str(postgres_bin() or "") or None
    if absent := [name for name, path in found.items() if path is None]:
        raise CannotStart(
            f"not started: systemd units (no {', '.join(absent)}; systemd-nspawn is in systemd-container)"
        )
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
        """A folder to boot, and Trimtab in its /opt/trimtab as infra/systemd/README.md wants it. Raises CannotStart."""
        programs()
        for name in ("etc", "var", "root", "opt", "usr", "proc", "sys", "dev", "run", "tmp", "srv", "mnt"):
            (self.root / name).mkdir(parents=True)
        self.root.chmod(0o755)
        for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
            if Path("/", name).is_symlink():
                (self.root / name).symlink_to(f"usr/{name}")
        for name in ETC:
            if (given := Path("/etc", name)).is_dir():
                shutil.copytree(given, self.root / "etc" / name, symlinks=True)
            elif given.exists():
                shutil.copy(given, self.root / "etc" / name)
        (self.root / "etc/machine-id").touch()
        (self.root / "etc/ssl/certs").mkdir(parents=True)
        if CERTIFICATES.exists():
            shutil.copy(CERTIFICATES, self.root / str(CERTIFICATES).lstrip("/"))
        self.write("/etc/systemd/system.conf.d/python.conf", f"[Manager]\nDefaultEnvironment={LIBRARIES}\n")
        began = time.monotonic()
        self._install()
        self.took["Trimtab installed"] = time.monotonic() - began

    def _install(self) -> None:
        """The packages that these tests run with, over which ours are laid: none is copied, and no network is asked."""
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for name in filter(None, listed.split("\0")):
            if (ROOT / name).is_file():
                target = self.root / SOURCE.lstrip("/") / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, target)
        self.ours.mkdir()
        (self.root / HOME.lstrip("/") / SITE.relative_to(sys.prefix)).mkdir(parents=True)
        for file in SITE.glob("*trimtab*.pth"):
            (self.ours / file.name).write_text(file.read_text().replace(str(ROOT), SOURCE))
        made = self._nspawn("--pipe", f"{BASE}/bin/python3", "-m", "venv", "--without-pip", HOME)
        compiled = self._nspawn("--pipe", f"{HOME}/bin/python", "-m", "compileall", "-q", SOURCE)
        for command in (made, compiled):
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise CannotStart(f"not started: systemd units (Trimtab is not installed there: {done.stderr[-600:]})")
        own = f"#!{sys.executable}\n".encode()
        for file in Path(sys.executable).parent.iterdir():
            if file.name == "weed" or (file.is_file() and file.read_bytes()[: len(own)] == own):
                target = self.root / HOME.lstrip("/") / "bin" / file.name
                target.write_bytes(file.read_bytes().replace(own, f"#!{HOME}/bin/python\n".encode(), 1))
                target.chmod(0o755)

    def start(self) -> None:
        """Boots it. Raises CannotStart if systemd does not come up in it."""
        began = time.monotonic()
        log = self.folder / "console.log"
        # Not what this machine starts: its /etc is not here, and of /usr only what the basic system needs.
        command = self._nspawn("--private-network", "--console=pipe", "--boot", "systemd.unit=basic.target")
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
        enter = [programs()["nsenter"], "--target", str(first), "--all"]
        enter += ["env", "--chdir=/root", "-i", LIBRARIES, f"PATH={PATH}", "HOME=/root", "LANG=C.UTF-8"]
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

    @property
    def ours(self) -> Path:
        """What lies over the packages of this Python."""
        return self.folder / "ours"

    def _nspawn(self, *options: str) -> list[str]:
        command = [programs()["systemd-nspawn"], "--quiet", f"--directory={self.root}", "--bind-ro=/usr"]
        command += [f"--machine=trimtab-{self.folder.name[-8:].replace('_', '-')}"]
        command += [f"--overlay={SITE}:{self.ours}:{HOME}/{SITE.relative_to(sys.prefix)}"]
        if sys.base_prefix != BASE:
            command += [f"--bind-ro={sys.base_prefix}:{BASE}", f"--setenv={LIBRARIES}"]
        # The manager of this machine, if it has one, need not know of it.
        return [*command, "--register=no", "--keep-unit", *options]

    def _first(self) -> int | None:
        """Its first process, as this machine counts."""
        if self.process is None or self.process.poll() is not None:
            return None
        children = psutil.Process(self.process.pid).children()
        return children[0].pid if children else None
