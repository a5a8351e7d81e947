"""Bring the stack up, take it down, say how it is: one facade over state, processes and services."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from trimtab_infra.errors import NoProject, PartFailed, StackDown
from trimtab_infra.stack import ports, processes
from trimtab_infra.stack.services import MLFLOW, POOL, PREFECT, SERVICES, WORKER, Service, environment, url
from trimtab_infra.stack.state import State, StateFolder

__all__ = ["PartStatus", "Stack"]

#: Seconds a part may take to become ready; a cold disk and two busy cores took 40 s.
READY_WITHIN_S = 180

Say = Callable[[str], None]


@dataclass(frozen=True)
class PartStatus:
    """How one part of the stack is."""

    title: str
    state: str
    url: str | None
    pid: int | None
    log: str | None


class Stack:
    """The local stack of one state folder.

    Args:
        folder: the state folder; made by ``up``.
        project: folder with the prefect.yaml whose deployments the stack serves, and with the user's recipes.
    """

    def __init__(self, folder: Path, project: Path) -> None:
        self.folder = StateFolder(folder)
        self.project = project.absolute()

    def up(self, say: Say, asked: Mapping[str, int] | None = None) -> None:
        """Start what is not running, deploy, and return when all of it is ready. Interrupted, it stops all of it.

        Args:
            say: called with a line for each thing that is done.
            asked: ports by part, where they must be certain ones.

        Raises:
            NoProject: the project has no prefect.yaml.
            ForeignState, PortTaken, StackBusy: the state folder or a port cannot be used.
            PartFailed: a part did not start, or the deployments were refused.
        """
        if not (self.project / "prefect.yaml").is_file():
            raise NoProject(f"{self.project} has no prefect.yaml; go to your project, or name it with --project")
        self.folder.prepare()
        with self.folder.locked():
            try:
                self._up(say, asked or {})
            except BaseException:
                self._stop_all()
                raise

    def down(self, wipe: bool = False) -> bool:
        """Stop everything that belongs to this stack; the data stays unless it is to be wiped.

        Returns:
            False if nothing was running.

        Raises:
            ForeignState: the folder is not ours. StackBusy: another command is working on it.
        """
        if not self.folder.file.exists():
            if wipe:
                self.folder.wipe()
            return False
        with self.folder.locked():
            stopped = self._stop_all()
            if wipe:
                self.folder.wipe()
        return stopped

    def status(self) -> tuple[PartStatus, ...]:
        """How each part is: ready, starting (a process that does not answer yet), stopped."""
        state = self.folder.read()
        return tuple(self._part_status(service, state) for service in reversed(SERVICES))

    def environment(self) -> dict[str, str]:
        """What a client of the stack runs with.

        Raises:
            StackDown: the stack is not up.
        """
        down = [part.title for part in self.status() if part.state != "ready"]
        if down:
            raise StackDown(
                f"the stack of {self.folder.path} is not up ({', '.join(down)} not running); run `trimtab up` first"
            )
        return environment(self.folder, self.folder.read())

    def urls(self) -> dict[str, str]:
        """Addresses of the servers, by part."""
        state = self.folder.read()
        return {part: url(state, part) for part in (PREFECT, MLFLOW)}

    def _up(self, say: Say, asked: Mapping[str, int]) -> None:
        state = self.folder.read()
        running = {service.name for service in SERVICES if processes.find(state.parts.get(service.name))}
        if not running:
            # Runs of a stack whose parts were killed may still be there, and would run beside those made anew.
            processes.sweep(state.stack_id)
        state = self._choose_ports(state, running, asked)
        self.folder.write(state)
        began = time.time()
        for service in (self._service(PREFECT), self._service(MLFLOW)):
            if service.name not in running:
                state = self._start(service, state)
        self._wait(self._service(PREFECT), state, began, say)
        if WORKER not in running:
            for line in self._configure(state).splitlines():
                say(line)
            state = self._start(self._service(WORKER), state)
        self._deploy(state, say)
        self._wait(self._service(MLFLOW), state, began, say)
        self._wait(self._service(WORKER), state, 0 if WORKER in running else began, say)

    def _service(self, name: str) -> Service:
        return next(service for service in SERVICES if service.name == name)

    def _choose_ports(self, state: State, running: set[str], asked: Mapping[str, int]) -> State:
        chosen = {name: port for name, port in state.ports.items() if name in running}
        for service in SERVICES:
            if service.usual_port is None or service.name in chosen:
                continue
            usual = state.ports.get(service.name, service.usual_port)
            chosen[service.name] = ports.choose(
                service.name, asked.get(service.name), usual, set(chosen.values())
            )
        return replace(state, ports=chosen)

    def _start(self, service: Service, state: State) -> State:
        log = self.folder.logs / f"{service.name}.log"
        part = processes.spawn(
            service.command(self.folder, state), environment(self.folder, state), self.project, log
        )
        started = replace(state, parts={**state.parts, service.name: part})
        self.folder.write(started)
        return started

    def _wait(self, service: Service, state: State, began: float, say: Say) -> None:
        part = state.parts[service.name]
        deadline = time.monotonic() + READY_WITHIN_S
        while not service.ready(state, began):
            if processes.find(part) is None:
                raise PartFailed(f"{service.title} stopped while starting; the end of {part.log}:\n{self._tail(part.log)}")
            if time.monotonic() > deadline:
                raise PartFailed(f"{service.title} is not ready after {READY_WITHIN_S} s; see {part.log}")
            time.sleep(0.1)
        where = f" at {url(state, service.name)}" if service.usual_port else ""
        say(f"{service.title} is up{where} ({time.time() - began if began else 0:.0f} s)")

    def _configure(self, state: State) -> str:
        arguments = (POOL, str(self.folder.store), url(state, MLFLOW))
        command = [sys.executable, "-m", "trimtab_infra.stack.configure", *arguments]
        return self._run(command, state, "configure")

    def _deploy(self, state: State, say: Say) -> None:
        """What a user does: ``prefect deploy --all``, in the project's folder."""
        began = time.monotonic()
        self._run([sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"], state, "deploy")
        say(f"Deployments of {self.project / 'prefect.yaml'} are made ({time.monotonic() - began:.0f} s)")

    def _run(self, command: list[str], state: State, name: str) -> str:
        """Run a command of the stack to its end; its output goes to a log."""
        log = self.folder.logs / f"{name}.log"
        settings = {**environment(self.folder, state), "PWD": str(self.project)}
        done = subprocess.run(command, env=settings, cwd=self.project, capture_output=True, text=True, check=False)
        log.write_text(done.stdout + done.stderr)
        if done.returncode:
            raise PartFailed(f"`{' '.join(command[1:])}` failed; the end of {log}:\n{self._tail(str(log))}")
        return done.stdout

    def _stop_all(self) -> bool:
        state = self.folder.read()
        stopped = 0
        for service in SERVICES:
            process = processes.find(state.parts.get(service.name))
            if process is not None:
                processes.stop(process, service.grace_s)
                stopped += 1
            if service.name == WORKER and state.stack_id:
                stopped += self._stop_runs(state)
        if state.stack_id:
            stopped += processes.sweep(state.stack_id)
            self.folder.write(replace(state, parts={}))
        return stopped > 0

    def _stop_runs(self, state: State) -> int:
        """End the processes of flow runs before the servers they talk to."""
        servers = [processes.find(state.parts.get(name)) for name in (PREFECT, MLFLOW)]
        spared = {p.pid for server in servers if server for p in (server, *server.children(recursive=True))}
        runs = [process for process in processes.members(state.stack_id) if process.pid not in spared]
        processes.kill(runs)
        return len(runs)

    def _part_status(self, service: Service, state: State) -> PartStatus:
        part = state.parts.get(service.name)
        process = processes.find(part)
        address = url(state, service.name) if service.usual_port and service.name in state.ports else None
        if process is None or part is None:
            return PartStatus(service.title, "stopped", address, None, part.log if part else None)
        ready = service.ready(state, part.started)
        return PartStatus(service.title, "ready" if ready else "starting", address, part.pid, part.log)

    def _tail(self, log: str) -> str:
        return processes.tail(Path(log))
