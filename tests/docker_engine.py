"""A Docker engine for tests, and a base image without a registry.

Started here where that is possible (root, and dockerd is installed), with a folder, a socket and cgroups of its own, so
that nothing of it is left; else the engine that DOCKER_HOST or the usual socket leads to. The base image holds this
machine's Python, the libraries that it needs, a shell and the CA certificates: 2 s, 78 MB. No packages are in it: mount
the virtual environment (`Engine.volumes`), or build on it.

An engine that is started here has a stand-in for NVIDIA's container toolkit: dockerd's own path for `device_requests`
calls `nvidia-container-runtime-hook`, and ours puts the C library of tests/nvml into the container, with a driver state
that has only the GPUs that the container was given.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import docker
import docker.errors
import nvml_driver
import requests

__all__ = ["BASE", "Engine", "NoEngine", "apart", "running"]

ROOT = Path(__file__).parent.parent
BASE = "trimtab-test-base"
STATE_IN_CONTAINER = "/run/nvml.state"
_UP_S = 40.0
_PROGRAMS = ("cat", "env", "id", "ls", "mkdir", "rm", "sleep", "true")
_LIBRARIES = (
    *("libc.so.6", "libdl.so.2", "libm.so.6", "libpthread.so.0", "librt.so.1", "libutil.so.1"),
    *("libgcc_s.so.1", "libgomp.so.1", "libnss_dns.so.2", "libnss_files.so.2", "libresolv.so.2", "libstdc++.so.6"),
    "libz.so.1",
)

_HOOK = """#!{python} -IS
# Called by dockerd as NVIDIA's own hook is: the container's bundle comes as JSON on stdin.
import json, pathlib, shutil, sys
bundle = pathlib.Path(json.load(sys.stdin)["bundle"])
config = json.loads((bundle / "config.json").read_text())
env = dict(one.partition("=")[::2] for one in config["process"]["env"])
root = pathlib.Path(config["root"]["path"])
given = [one for one in env.get("NVIDIA_VISIBLE_DEVICES", "").split(",") if one not in ("", "void", "none")]
lines = [line.split() for line in pathlib.Path({state!r}).read_text().splitlines() if line]
def asked(words):
    return "all" in given or any("uuid=" + one in words for one in given)
unknown = [one for one in given if one != "all" and not any("uuid=" + one in words for words in lines)]
if unknown:
    sys.exit("nvidia-container-cli: device error: " + unknown[0] + ": unknown device")
kept = [words for words in lines if words[0] == "driver"]
count = 0
for number, words in enumerate([words for words in lines if words[0] == "gpu"]):
    slices = [one for one in lines if one[0] == "slice" and "gpu=%d" % number in one and (asked(words) or asked(one))]
    if asked(words) or slices:  # of a GPU in slices, the whole is seen too, with the slices that were given
        kept += [words] + [["gpu=%d" % count if word.startswith("gpu=") else word for word in one] for one in slices]
        count += 1
target = root / {target!r}.lstrip("/")
target.parent.mkdir(parents=True, exist_ok=True)
target.write_text("".join(" ".join(words) + "\\n" for words in kept))
shutil.copy({library!r}, root / {where!r}.lstrip("/"))
"""


class NoEngine(RuntimeError):
    """There is no Docker engine here, and none can be started; the text says why."""


@dataclass(frozen=True)
class Engine:
    """`url` is for DOCKER_HOST, `image` the name of the base image. `driver` is the stand-in NVIDIA driver of the
    engine's host, None where the engine was found, or where there is no C compiler.
    """

    url: str
    image: str
    driver: nvml_driver.Driver | None = None

    def environment(self) -> dict[str, str]:
        """For clients of the engine."""
        return {"DOCKER_HOST": self.url}

    def client(self) -> docker.DockerClient:
        """To be closed."""
        return docker.DockerClient(base_url=self.url)

    @property
    def volumes(self) -> list[str]:
        """Mounts that give a container this checkout and its virtual environment, where they are here."""
        places = [ROOT, *([] if Path(sys.prefix).is_relative_to(ROOT) else [Path(sys.prefix)])]
        return [f"{place}:{place}:ro" for place in places]

    @property
    def path(self) -> str:
        """PATH in a container that has `volumes`."""
        return f"{Path(sys.executable).parent}:{_base_python().parent}:/usr/bin:/bin"


@contextlib.contextmanager
def running() -> Iterator[Engine]:
    """An engine with the base image. Raises NoEngine."""
    with contextlib.ExitStack() as stack:
        dockerd = _dockerd()
        if dockerd is not None and os.geteuid() == 0:
            yield stack.enter_context(_started(dockerd))
            return
        url = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
        try:
            with contextlib.closing(docker.DockerClient(base_url=url)) as client:
                client.ping()
                engine = Engine(url, _base_image(client))
        except (docker.errors.DockerException, requests.RequestException) as error:
            why = (
                "dockerd is not installed (apt-get install docker.io)" if dockerd is None else "only root can start one"
            )
            raise NoEngine(f"no Docker engine answers at {url} ({type(error).__name__}), and {why}") from None
        yield engine


@contextlib.contextmanager
def apart(engine: Engine, images: Sequence[str]) -> Iterator[tuple[Engine, list[str]]]:
    """A second engine, which has networks of its own and these images of `engine`; and what a command begins with that
    is to reach its published ports. It lives in a network name space: nothing is changed on this host. Raises NoEngine.
    """
    dockerd, absent = _dockerd(), [one for one in ("docker", "ip", "iptables", "nsenter") if shutil.which(one) is None]
    if dockerd is None or os.geteuid() != 0 or absent:
        raise NoEngine(
            f"an engine with networks needs root, dockerd, docker, ip, iptables and nsenter (missing: {absent})"
        )
    name = f"trimtab-test-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
        inside = ["nsenter", f"--net=/run/netns/{name}"]  # `ip netns exec` would hide the control groups
        with _started(dockerd, inside, ()) as other:
            _copy(engine, other, images)
            yield other, inside
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=False)


def _copy(source: Engine, target: Engine, images: Sequence[str]) -> None:
    """All at once: layers that they share are copied once."""
    environments = [{**os.environ, **one.environment()} for one in (source, target)]
    with subprocess.Popen(["docker", "save", *images], env=environments[0], stdout=subprocess.PIPE) as saved:
        subprocess.run(
            ["docker", "load", "--quiet"], env=environments[1], stdin=saved.stdout, check=True, capture_output=True
        )
    assert saved.returncode == 0


def _no_network() -> list[str]:
    """Containers have the host's network. With --bridge=none, the bridge of another engine would be deleted."""
    bridge = "docker0" if Path("/sys/class/net/docker0").exists() else "none"
    return ["--iptables=false", "--ip6tables=false", f"--bridge={bridge}"]


def _dockerd() -> str | None:
    return shutil.which("dockerd", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")


@contextlib.contextmanager
def _started(dockerd: str, inside: Sequence[str] = (), network: Sequence[str] | None = None) -> Iterator[Engine]:
    folder = Path(tempfile.mkdtemp(prefix="tt-docker-"))  # short: a socket's path has 108 characters at most
    try:
        driver = _toolkit(folder)
        command = [
            *inside,
            dockerd,
            "--data-root",
            f"{folder}/data",
            "--exec-root",
            f"{folder}/exec",
            "--pidfile",
            f"{folder}/pid",
        ]
        command += ["-H", f"unix://{folder}/sock", *(_no_network() if network is None else network)]
        path = f"{folder / 'bin'}:{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
        log = folder / "log"
        with log.open("w") as out:
            process = subprocess.Popen(command, env={**os.environ, "PATH": path}, stdout=out, stderr=subprocess.STDOUT)
        try:
            _await(folder / "sock", process, log)
            with contextlib.closing(docker.DockerClient(base_url=f"unix://{folder}/sock")) as client:
                yield Engine(f"unix://{folder}/sock", _base_image(client), driver)
                for container in client.containers.list(all=True, ignore_removed=True):
                    with contextlib.suppress(docker.errors.APIError):
                        container.remove(force=True)
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            for mounted in folder.glob("exec/netns/*"):  # dockerd leaves the host's network name space mounted
                subprocess.run(["umount", str(mounted)], capture_output=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _await(socket_file: Path, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + _UP_S
    while True:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
            probe.connect(str(socket_file))
            return
        if process.poll() is not None or time.monotonic() > end:
            last = [line for line in log.read_text(errors="replace").splitlines() if line][-1:]
            raise NoEngine(f"dockerd does not start here: {''.join(last)[-300:]}")
        time.sleep(0.1)  # the engine has nothing to wait on before its socket is there


def _toolkit(folder: Path) -> nvml_driver.Driver | None:
    """The stand-in for NVIDIA's container toolkit, and the driver that it shows to containers."""
    (folder / "bin").mkdir()
    try:
        driver = nvml_driver.Driver(nvml_driver.build(folder), folder)
    except nvml_driver.NoCompiler:
        return None
    where = f"{_libraries()['libc.so.6'].parent}/libnvidia-ml.so.1"
    hook = folder / "bin" / "nvidia-container-runtime-hook"
    hook.write_text(
        _HOOK.format(
            python=_base_python(),
            state=str(driver.state),
            library=str(folder / "libnvidia-ml.so.1"),
            target=STATE_IN_CONTAINER,
            where=where,
        )
    )
    hook.chmod(0o755)
    return driver


# --- the base image ---


def _base_image(client: docker.DockerClient) -> str:
    """Its name, which says what is in it; made where the engine does not have it."""
    files = _content()
    seen = repr(sorted((name, path.stat().st_size, path.stat().st_mtime_ns) for name, path in files.items()))
    tag = hashlib.sha256(seen.encode()).hexdigest()[:12]
    name = f"{BASE}:{tag}"
    try:
        client.images.get(name)
    except docker.errors.ImageNotFound:
        changes = [f"ENV PATH={_base_python().parent}:/usr/bin:/bin", "ENV LANG=C.UTF-8", "WORKDIR /tmp"]
        client.api.import_image_from_data(_tar(files), repository=BASE, tag=tag, changes=changes)
    return name


def _tar(files: dict[str, Path]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for folder, mode in (("tmp", 0o1777), ("run", 0o755), ("var/tmp", 0o1777), ("root", 0o700), ("etc", 0o755)):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, mode
            tar.addfile(entry)
        for name, text in (
            ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"),
            ("etc/group", "root:x:0:\nnogroup:x:65534:\n"),
            ("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n"),
        ):
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text.encode()))
        for name, path in sorted(files.items()):
            entry = tar.gettarinfo(path, arcname=name.lstrip("/"))
            entry.uid = entry.gid = 0
            if entry.isreg():
                with path.open("rb") as file:
                    tar.addfile(entry, file)
            else:
                tar.addfile(entry)
    return out.getvalue()


def _content() -> dict[str, Path]:
    """Name in the image -> file here."""
    files: dict[str, Path] = {}
    python = _base_python()
    stdlib = Path(sysconfig.get_path("stdlib", vars={"installed_base": sys.base_prefix, "base": sys.base_prefix}))
    binaries = [python]
    left_out = {"site-packages", "dist-packages", "test", "tests", "idlelib", "turtledemo", "__pycache__"}
    for folder, folders, names in os.walk(stdlib):
        folders[:] = [name for name in folders if name not in left_out and not name.startswith("config-")]
        files |= {f"{folder}/{name}": Path(folder, name) for name in names if not name.endswith((".a", ".pyc"))}
    binaries += [path for path in files.values() if path.suffix == ".so"]
    for name in ("python3", "python"):
        files[f"{python.parent}/{name}"] = python
    programs = {name: found for name in _PROGRAMS if (found := shutil.which(name, path="/usr/bin:/bin"))}
    files |= {f"/bin/{name}": Path(found).resolve() for name, found in programs.items()}
    shell = shutil.which("dash", path="/usr/bin:/bin") or shutil.which("sh", path="/usr/bin:/bin")
    assert shell is not None
    files["/bin/sh"] = Path(shell).resolve()
    files[str(python)] = python
    binaries += [*map(Path, programs.values()), Path(shell)]
    known = _libraries()
    files |= {str(path): path.resolve() for name, path in known.items() if name in _LIBRARIES}
    for library in _needed([*binaries, *(known[name] for name in _LIBRARIES if name in known)]):
        files[library] = Path(library).resolve()
    for certificates in (Path("/etc/ssl/certs/ca-certificates.crt"),):
        if certificates.exists():
            files[str(certificates)] = certificates.resolve()
    return files


def _base_python() -> Path:
    """The interpreter that the virtual environment leads to."""
    return Path(sys.executable).resolve()


def _needed(binaries: list[Path]) -> set[str]:
    """Absolute paths of the libraries that these need."""
    done = subprocess.run(["ldd", *map(str, binaries)], capture_output=True, text=True)
    words = (line.split() for line in done.stdout.splitlines() if line.startswith("\t"))
    return {word for line in words for word in line if word.startswith("/") and not word.endswith(":")}


def _libraries() -> dict[str, Path]:
    """Libraries of this machine's own kind that the dynamic linker knows, by name."""
    ldconfig = shutil.which("ldconfig", path="/usr/sbin:/sbin:/usr/bin:/bin") or "ldconfig"
    shown = subprocess.run([ldconfig, "-p"], capture_output=True, text=True, check=True).stdout
    kind = "x86-64" if os.uname().machine == "x86_64" else "AArch64"
    found: dict[str, Path] = {}
    for line in shown.splitlines()[1:]:
        if kind in line and " => " in line:
            found.setdefault(line.split()[0], Path(line.rpartition(" => ")[2]))
    return found
