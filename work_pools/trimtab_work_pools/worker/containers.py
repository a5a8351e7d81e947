"""The containers of this host's runs: found again by the claim that is their label, signalled, waited for. The module
that talks to the Docker engine.

The label `trimtab.claim-id` tells a container; `trimtab.claim` has the whole claim, so that a worker whose claims were
lost knows what the container holds.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import anyio
import anyio.to_thread
import docker
import docker.errors
import requests
from docker.models.containers import Container
from prefect.logging import get_logger

from trimtab_blocks.settings import SettingError
from trimtab_work_pools.host.process import find
from trimtab_work_pools.worker.container_output import Shown
from trimtab_work_pools.worker.host_claims import HostClaim, claim_from_text, claim_to_text
from trimtab_work_pools.worker.lives import End
from trimtab_work_pools.worker.stopping import Send

__all__ = ["Containers", "EngineError", "exit_code"]

_ID, _CLAIM = "trimtab.claim-id", "trimtab.claim"
_AGAIN_S, _PING_S = 2.0, 5.0
_MIB = 1024 * 1024
_SIGNALS = 64
_TAIL = 20
"""Lines by which it is seen whether all was shown."""
_T = TypeVar("_T")
_ERRORS = (docker.errors.DockerException, requests.RequestException)


class EngineError(SettingError):
    """There is no Docker engine that this worker could use; the text says why."""


class Containers:
    """Honours Lives. Calls of the engine block, so they are made in threads."""

    in_containers = True

    def __init__(self) -> None:
        self._client = _connect()
        self._pinged = _connect(_PING_S)
        self._answered_s = 0.0
        self._signals = ThreadPoolExecutor(1, thread_name_prefix="container-signals")
        self.waits = anyio.CapacityLimiter(10_000)  # each run has a thread that waits
        self._logger = get_logger("trimtab.worker")

    def close(self) -> None:
        """Lets the engine go; the containers stay."""
        self._signals.shutdown(wait=False, cancel_futures=True)  # an engine that is stopped would hold up the exit
        self._client.close()
        self._pinged.close()

    @staticmethod
    def labels(claim: HostClaim) -> dict[str, str]:
        """By which its container is found again."""
        return {_ID: claim.claim_id, _CLAIM: claim_to_text(claim)}

    def name(self, claim: HostClaim) -> str:
        return f"container {claim.container[:12]}"

    async def problem(self) -> str:
        """The engine is asked for a sign of life, every 2 s at most; one that is stopped or hangs gives none."""
        if time.monotonic() - self._answered_s < _AGAIN_S:
            return ""
        try:
            await anyio.to_thread.run_sync(self._pinged.ping, limiter=self.waits, abandon_on_cancel=True)
        except _ERRORS as error:
            return f"the Docker engine does not answer within {_PING_S:g} s: {error}"
        self._answered_s = time.monotonic()
        return ""

    async def unknown(self, server: str, pool: str, known: Collection[str]) -> list[HostClaim]:
        def read() -> list[HostClaim]:
            found = self._client.containers.list(filters={"label": _CLAIM}, ignore_removed=True)
            claims = [claim_from_text(one.labels[_CLAIM]) for one in found if one.labels.get(_ID) not in known]
            return [one for one in claims if one is not None and (one.server, one.pool) == (server, pool)]

        return await self._persistently(read)

    async def look(self, claim: HostClaim) -> HostClaim | None:
        """A container that was made and never started is taken away."""

        def read() -> HostClaim | None:
            container = self._find(claim.claim_id)
            if container is None:
                return None
            if container.status == "created":
                self._remove(container)
                return None
            pid = _visible_pid(container)
            return replace(claim, container=str(container.id), pid=pid, pid_ticks=find(pid).ticks)

        return await self._persistently(read)

    def pids(self, claim: HostClaim) -> list[int]:
        """What the engine's host sees of it, where that is this PID name space."""
        try:
            container = self._find(claim.claim_id)
            rows = container.top(ps_args="-eo pid").get("Processes") or [] if container and claim.pid else []
        except _ERRORS:
            return []
        return sorted(int(row[0]) for row in rows)

    def glance(self, claims: Collection[HostClaim]) -> None:
        """The engine knows what belongs to a container."""

    async def clear(self, claim: HostClaim, grace_s: float, stuck: Callable[[str], None]) -> None:
        """A container has ended with all of its processes: the engine sees to that."""

    def sender(self, claim: HostClaim) -> Send:
        """In the background: the engine may take its time."""

        def send(number: signal.Signals) -> None:
            with contextlib.suppress(RuntimeError):  # it was closed
                self._signals.submit(self._signal, claim.claim_id, number)

        return send

    async def end(self, claim: HostClaim) -> End:
        """An engine that is started again is waited for: its containers may go on without it."""
        return await self._persistently(lambda: self._wait(claim.claim_id))

    def memory_mib(self, claim: HostClaim) -> int | None:
        """What its control group holds now, without the file cache that the kernel can take back."""
        try:
            container = self._find(claim.claim_id)
            stats = container.stats(stream=False, one_shot=True).get("memory_stats", {}) if container else {}
        except _ERRORS:
            return None
        if "usage" not in stats:
            return None
        detail = stats.get("stats", {})
        cache = detail.get("total_inactive_file", detail.get("inactive_file", 0))  # version 1 of cgroups, version 2
        return max(0, int(stats["usage"]) - int(cache)) // _MIB

    def follow(self, container_id: str, shown: Shown) -> None:
        """Shows what the container prints, until it ends or the engine breaks off. Blocks."""
        with contextlib.suppress(*_ERRORS):
            shown.follow(self._client.containers.get(container_id).logs(stream=True))

    async def show_rest(self, container_id: str, shown: Shown) -> None:
        """Once it has ended: what was not shown yet."""

        def read() -> None:
            container = self._client.containers.get(container_id)
            shown.complete(container.logs(tail=_TAIL), container.logs)

        await self._persistently(read)

    def discard(self, claim_id: str) -> None:
        """Takes away what was made for a run that could not be started. Blocks."""
        with contextlib.suppress(*_ERRORS):
            container = self._find(claim_id)
            if container is not None:
                self._remove(container)

    def _find(self, claim_id: str) -> Container | None:
        found = self._client.containers.list(all=True, filters={"label": f"{_ID}={claim_id}"}, ignore_removed=True)
        return found[0] if found else None

    def _remove(self, container: Container) -> None:
        with contextlib.suppress(docker.errors.APIError):  # somebody else was first
            container.remove(force=True)

    def _signal(self, claim_id: str, number: signal.Signals) -> None:
        try:
            container = self._find(claim_id)
            if container is not None and container.status == "running" and number == signal.SIGSTOP:
                container.pause()  # all of it, not only its first process
            elif container is not None and container.status in ("running", "paused") and number != signal.SIGSTOP:
                if container.status == "paused":  # a frozen process takes no signal
                    container.unpause()
                container.kill(signal=int(number))
        except docker.errors.APIError as error:
            if error.status_code not in (404, 409):  # it has gone meanwhile
                self._logger.warning("A container was not sent %s: %s", number.name, error)
        except _ERRORS as error:
            self._logger.warning("A container was not sent %s, for the engine does not answer: %s", number.name, error)

    def _wait(self, claim_id: str) -> End:
        container = self._find(claim_id)
        if container is None:
            return End()
        try:
            container.wait()
            container.reload()
        except docker.errors.NotFound:
            return End()
        state = container.attrs["State"]
        return End(exit_code(int(state["ExitCode"])), bool(state.get("OOMKilled")))

    async def _persistently(self, ask: Callable[[], _T]) -> _T:
        """What the engine answers, however long it is away."""
        said = False
        while True:
            try:
                return await anyio.to_thread.run_sync(ask, limiter=self.waits, abandon_on_cancel=True)
            except docker.errors.APIError as error:
                if error.status_code is not None and error.status_code < 500:
                    raise
                problem: Exception = error
            except _ERRORS as error:
                problem = error
            if not said:
                self._logger.warning("The Docker engine does not answer; it is asked again: %s", problem)
                said = True
            await anyio.sleep(_AGAIN_S)


def exit_code(status: int) -> int:
    """As in subprocess: a process that a signal ended has 128 and its number in a shell, and in Docker."""
    return -(status - 128) if 128 < status <= 128 + _SIGNALS else status


def _connect(timeout_s: float = 0.0) -> docker.DockerClient:
    """The engine of this very host: it has to have the devices that the worker gives away. Raises EngineError."""
    url = os.environ.get("DOCKER_HOST", "")
    parts = urlsplit(url)
    if url and parts.scheme != "unix" and parts.hostname not in ("127.0.0.1", "localhost", "::1"):
        raise EngineError(f"DOCKER_HOST is {url!r}: the engine must be on the host whose devices are given to its runs")
    try:
        client = docker.from_env(timeout=timeout_s or int(os.environ.get("DOCKER_CLIENT_TIMEOUT") or 60))
        client.ping()
    except _ERRORS as error:
        where = url or "unix:///var/run/docker.sock"
        hint = "start it, let this user use it (group docker), or set DOCKER_HOST"
        raise EngineError(f"no Docker engine answers at {where} ({error}): {hint}") from None
    return client


def _visible_pid(container: Container) -> int:
    """Of the container's first process, if that is a process of this PID name space; else 0."""
    pid = int(container.attrs.get("State", {}).get("Pid") or 0)
    try:
        groups = Path(f"/proc/{pid}/cgroup").read_text() if pid else ""
    except OSError:
        return 0
    return pid if str(container.id) in groups else 0
