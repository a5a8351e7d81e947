"""Who holds which device of this host, across all workers on it: one small file a run, behind one lock.

The plan and the ledger of a worker keep it from giving a device twice; this keeps two workers on one host from it, and
a worker that was killed and started again while its runs go on. A claim counts as long as a process of its run is
there, the first or any other, or its worker may still start one. No clock is asked: who is there says the kernel.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import socket
import tempfile
import time
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from io import TextIOWrapper
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from trimtab_blocks.settings import read as read_settings
from trimtab_work_pools.host.clock import SYSTEM
from trimtab_work_pools.host.directory import HostDirError, try_out
from trimtab_work_pools.host.process import Process, find
from trimtab_work_pools.host.process_tree import ProcessTree
from trimtab_work_pools.host.run_groups import RunGroup
from trimtab_work_pools.ledger import Holding
from trimtab_work_pools.resources import WHOLE, Node
from trimtab_work_pools.worker.older_claims import brought_up

__all__ = ["HostClaim", "HostClaims", "claim_from_text", "claim_to_text", "default_directory", "tree_of"]

_LOCK_S, _LOCK_AGAIN_S = 5.0, 0.005
"""Who holds the lock needs it for milliseconds."""
_PORTS = range(20_000, 32_768)
"""Below those that Linux gives to whoever asks for any (net.ipv4.ip_local_port_range): nobody else takes one by chance
between its choice and its use.
"""


@dataclass(frozen=True, slots=True)
class HostClaim:
    """`devices`: (UUID, share in thousandths). `boot_id`: of the start of the host in which it was made. `pid` and
    `pid_ticks` are of the run's first process, once it has one, and `group` is the folder of the control group of all
    of them; `worker_pid` and `worker_ticks` are of its worker (see `host.process`). `server` is the address of the
    Prefect API that the run and the `pool` are of. A run `in_container` has, once it has started, the id of its
    `container`, and a `pid` only where the processes of the container can be seen from here. `port` is where the
    run's processes meet, no other run's.
    """

    claim_id: str
    worker: str
    worker_pid: int
    worker_ticks: int
    pool: str
    holding: Holding
    devices: tuple[tuple[str, int], ...]
    boot_id: str = ""
    pid: int = 0
    pid_ticks: int = 0
    group: str = ""
    server: str = ""
    in_container: bool = False
    container: str = ""
    port: int = 0

    @property
    def main(self) -> Process:
        """The run's first process; one without ticks if it has none."""
        return Process(self.pid, self.pid_ticks if self._of_this_start else 0)

    def held_on(self, node: Node) -> Holding:
        """The holding with its GPUs by the numbers they have on `node` now: a driver that is loaded anew may give
        others, and a slice that was removed is held no more.
        """
        numbers = {gpu.uuid: gpu.index for gpu in node.gpus}
        grants = self.holding.placement.grants
        now = tuple(
            replace(grant, index=numbers[uuid])
            for grant, (uuid, _) in zip(grants, self.devices, strict=False)
            if uuid in numbers
        )
        if now == grants:
            return self.holding
        return replace(self.holding, placement=replace(self.holding.placement, grants=now))

    @property
    def running(self) -> bool:
        """Its first process is there. A container whose processes cannot be seen is there until somebody who can ask
        the engine takes the claim back.
        """
        return self.main.alive if self.pid else bool(self.container)

    @property
    def has_worker(self) -> bool:
        """The worker that made it, or took it over, is there."""
        return self._of_this_start and Process(self.worker_pid, self.worker_ticks).alive

    @property
    def counts(self) -> bool:
        """Something of its run is there, or may soon be. A worker that has died may have left a container that nobody
        here knows of: only the engine knows. Takes some ms for a run whose first process has gone.
        """
        if self.in_container and not self.pid:
            return True
        if self.running or (not self.pid and self.has_worker):
            return True
        return self._of_this_start and not self.in_container and bool(tree_of(self).look())

    @property
    def _of_this_start(self) -> bool:
        return self.boot_id == SYSTEM.boot_id


_ADAPTER = TypeAdapter(HostClaim)


def tree_of(claim: HostClaim) -> ProcessTree:
    """All processes of its run."""
    return ProcessTree(claim.claim_id, claim.main, RunGroup(Path(claim.group)) if claim.group else None)


def claim_to_text(claim: HostClaim) -> str:
    """As JSON."""
    return _ADAPTER.dump_json(claim).decode()


def claim_from_text(text: str | bytes) -> HostClaim | None:
    """None if it is no claim; those of versions before this one are."""
    try:
        return _ADAPTER.validate_json(brought_up(text))
    except ValidationError:
        return None


def default_directory() -> Path:
    """TRIMTAB_HOST_DIR, or a directory of this user's; workers of several users need one that they share."""
    given = read_settings().host_dir
    return given or Path(tempfile.gettempdir()) / f"trimtab-host-{os.getuid()}"


class HostClaims:
    """The claims on the devices of this host. All of it raises HostDirError where the folder cannot be used."""

    def __init__(self, directory: Path | None = None) -> None:
        self.directory = directory or default_directory()
        with self._said():
            self._make()
        self._name: TextIOWrapper | None = None

    @property
    def host(self) -> str:
        """The same for all who share these claims until the machine is started again, and for nobody else."""
        boot = Path("/proc/sys/kernel/random/boot_id")
        machine = boot.read_text() if boot.exists() else socket.gethostname()
        return hashlib.sha256(f"{machine}{self.directory.resolve()}".encode()).hexdigest()[:12]

    def take_name(self, worker: str, pool: str, server: str) -> bool:
        """Whether no other worker of this host has that name; it is this one's then, until it or its process ends."""
        digest = hashlib.sha256(f"{server} {pool} {worker}".encode()).hexdigest()[:16]
        with self._said():
            name = (self.directory / f"worker-{digest}.lock").open("w")
        try:
            fcntl.flock(name, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            name.close()
            return False
        self._name = name
        return True

    def leave_name(self) -> None:
        """Another worker may have it."""
        if self._name is not None:
            self._name.close()
            self._name = None

    def acquire(self, claim: HostClaim) -> bool:
        """Enters the claim, unless a device of it is held by others or the run is claimed already."""
        with self._locked():
            others = [one for one in self._read() if one.counts]
            held: dict[str, int] = {}
            for one in others:
                for uuid, share in one.devices:
                    held[uuid] = held.get(uuid, 0) + share
            taken = any(held.get(uuid, 0) + share > WHOLE for uuid, share in claim.devices)
            if taken or any(one.holding.run_id == claim.holding.run_id for one in others):
                return False
            self._write(claim)
            return True

    def orphans(self, server: str, pool: str) -> list[HostClaim]:
        """Claims on runs of this pool whose worker is not there any more. Those of others are theirs to look after."""
        ours = (one for one in self.all() if (one.server, one.pool) == (server, pool))
        return [one for one in ours if not one.has_worker]

    def adopt(self, claim: HostClaim, worker: str, now: HostClaim | None = None) -> HostClaim | None:
        """The claim, as it is `now`, in the hands of this process; None if another worker was first."""
        with self._locked():
            if claim not in self._read():
                return None
            own = find(os.getpid())
            adopted = replace(now or claim, worker=worker, worker_pid=own.pid, worker_ticks=own.ticks)
            self._write(adopted)
            return adopted

    def started(self, claim: HostClaim) -> None:
        """Its run has a process now, or a container."""
        with self._locked():
            if any(one.claim_id == claim.claim_id for one in self._read()):
                self._write(claim)

    def settle(self, worker: str, pool: str, server: str, mine: Collection[HostClaim]) -> None:
        """Writes down what a worker of this process holds, and takes away what it does not: whatever could not be
        written or taken away before, or has been lost with the folder, is as it should be then.
        """
        own = find(os.getpid())
        with self._locked():
            on_file = {one.holding.run_id: one for one in self._read()}
            for claim in mine:
                other = on_file.get(claim.holding.run_id)
                if other is None or (other != claim and other.claim_id == claim.claim_id):
                    self._write(claim)
            held = {claim.claim_id for claim in mine}
            for one in on_file.values():
                ours = (one.worker_pid, one.worker_ticks, one.worker, one.pool, one.server)
                if ours == (own.pid, own.ticks, worker, pool, server) and one.claim_id not in held:
                    self._file(one.holding.run_id).unlink(missing_ok=True)
            try_out(self.directory)

    def take_port(self, run_id: str) -> HostClaim:
        """The claim of a run, with a TCP port of this host: the same when asked again, and no other claim has it.

        Raises LookupError if the run is not claimed, or no port is free.
        """
        with self._locked():
            claims = self._read()
            own = next((one for one in claims if one.holding.run_id == run_id), None)
            if own is None:
                raise LookupError(f"run {run_id} holds nothing of this host")
            if own.port:
                return own
            taken = {one.port for one in claims if one.port and one.counts}
            first = _PORTS.start + zlib.crc32(run_id.encode()) % len(_PORTS)  # not where the run before has just been
            for port in (*range(first, _PORTS.stop), *range(_PORTS.start, first)):
                if port not in taken and _is_free(port):
                    own = replace(own, port=port)
                    self._write(own)
                    return own
        raise LookupError(f"no TCP port from {_PORTS.start} to {_PORTS.stop - 1} is free on this host")

    def release(self, run_id: str, claim_id: str) -> None:
        """Takes the claim back; one that somebody else has made since stays."""
        with self._locked():
            for one in self._read():
                if one.holding.run_id == run_id and one.claim_id == claim_id:
                    self._file(run_id).unlink(missing_ok=True)

    def all(self) -> list[HostClaim]:
        """Every claim that is on file, alive or not."""
        with self._locked():
            return self._read()

    def _read(self) -> list[HostClaim]:
        claims = []
        for path in sorted(self.directory.glob("*.json")):
            with contextlib.suppress(FileNotFoundError):
                found = claim_from_text(path.read_bytes())
                claims += [found] if found else []
        return claims

    def _write(self, claim: HostClaim) -> None:
        path = self._file(claim.holding.run_id)
        draft = path.with_suffix(f".{os.getpid()}")
        try:
            draft.write_text(claim_to_text(claim))
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)

    def _file(self, run_id: str) -> Path:
        return self.directory / f"{run_id}.json"

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with self._said():
            self._make()
            with (self.directory / "lock").open("w") as lock:
                _wait_for(lock.fileno(), self.directory)
                yield

    @contextlib.contextmanager
    def _said(self) -> Iterator[None]:
        try:
            yield
        except HostDirError:
            raise
        except OSError as error:
            raise HostDirError.of(error, self.directory) from error

    def _make(self) -> None:
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)


def _wait_for(lock: int, directory: Path) -> None:
    """Takes the lock. Raises TimeoutError: whoever has it is stopped, or waits for a disk that does not answer."""
    until_s = time.monotonic() + _LOCK_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= until_s:
                text = f"a process that does not go on holds its lock for more than {_LOCK_S:g} s"
                raise TimeoutError(errno.ETIMEDOUT, text, str(directory)) from None
        time.sleep(_LOCK_AGAIN_S)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True
