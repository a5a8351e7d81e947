"""Bring the stack up, take it down, say how it is: one facade over state, processes and services."""

from __future__ import annotations

import sys
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from trimtab_infra.errors import NoProject, PortLost, StackDown
from trimtab_infra.stack import ports, processes
from trimtab_infra.stack.services import (
    GOES_ON,
    MLFLOW,
    POOL,
    PREFECT,
    SENDER,
    SERVICES,
    WORKER,
    Service,
    environment,
    is_ready,
    url,
)
from trimtab_infra.stack.starting import Say, Watch, service
from trimtab_infra.stack.state import State, StateFolder

__all__ = ["PartStatus", "Stack"]

#: How often ports are chosen anew, where several stacks start at the same time and each finds the same ones free.
_TRIES = 3

#: Seconds a part that runs and does not answer gets to come back, before it is replaced.
_RETURNS_WITHIN_S = 45


@dataclass(frozen=True)
class PartStatus:
    """How one part of the stack is; ``since`` is when its process started, in seconds since the epoch."""

    title: str
    state: str
    url: str | None
    pid: int | None
    since: float | None
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
        """Start what is not running, deploy, and return when all of it is ready.

        Interrupted or failed, it stops what it started; parts that were running before go on.

        Args:
            say: called with a line for each thing that is done.
            asked: ports by part, where they must be certain ones.

        Raises:
            NoProject: the project has no prefect.yaml.
            ForeignState, PortTaken, StackBusy: the state folder or a port cannot be used.
            PartFailed: a part did not start, or the deployments were refused.
        """
        self.check_project()
        self.folder.claim()
        with self.folder.locked():
            state = self.folder.prepare()
            running = {one.name for one in SERVICES if processes.find(state.parts.get(one.name))}
            for tries_left in reversed(range(_TRIES)):
                try:
                    self._up(say, asked or {}, running)
                    return
                except PortLost as lost:
                    self._stop({one.name for one in SERVICES} - running)
                    if not tries_left:
                        raise
                    say(f"{lost}; trying again")
                except BaseException:
                    self._stop({one.name for one in SERVICES} - running)
                    raise

    def check_project(self) -> None:
        """Raises NoProject if the project has no prefect.yaml."""
        if not (self.project / "prefect.yaml").is_file():
            raise NoProject(f"{self.project} has no prefect.yaml; go to your project, or name it with --project")

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
            stopped = self._stop([one.name for one in SERVICES])
            if wipe:
                self.folder.wipe()
        return stopped > 0

    def status(self) -> tuple[PartStatus, ...]:
        """How each part is: ready, starting (a process that does not answer yet), stopped."""
        state = self.folder.read()
        return tuple(_part_status(one, state) for one in reversed(SERVICES))

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

    def _up(self, say: Say, asked: Mapping[str, int], running: set[str]) -> None:
        # What killed parts left behind still holds their ports, and still executes runs that are about to go on.
        self._stop({one.name for one in SERVICES} - running)
        state = self.folder.read()
        for name in (PREFECT, MLFLOW):
            if name in running and not _goes_on(name, state):
                self._stop([name])
                running.discard(name)
        state = self._choose_ports(asked, running)
        watch = Watch(say)
        for name in (PREFECT, MLFLOW):
            if name not in running:
                state = self._start(service(name), state)
            watch.add(name, state, fresh=name not in running)
        watch.wait(PREFECT)
        if WORKER not in running or not _goes_on(WORKER, state):
            self._stop([WORKER])
            running.discard(WORKER)
            state = self._configure_and_start_worker(watch, state, say)
        watch.add(WORKER, state, fresh=WORKER not in running)
        self._deploy(watch, state, say)
        watch.wait(MLFLOW, WORKER)
        if SENDER not in running:
            state = self._start(service(SENDER), self.folder.read())
        watch.add(SENDER, state, fresh=SENDER not in running)
        watch.wait(SENDER)

    def _choose_ports(self, asked: Mapping[str, int], running: set[str]) -> State:
        """Decide where the servers listen. A worker that knows other addresses is stopped, and learns the new ones."""
        state = self.folder.read()
        usual = {one.name: state.ports.get(one.name, one.usual_port) for one in SERVICES if one.usual_port is not None}
        kept = {name: port for name, port in state.ports.items() if name in running}
        chosen = ports.choose(usual, asked, kept)
        if chosen != state.ports:
            self._stop([WORKER, SENDER])
            running -= {WORKER, SENDER}
        state = replace(self.folder.read(), ports=chosen)
        self.folder.write(state)
        return state

    def _configure_and_start_worker(self, watch: Watch, state: State, say: Say) -> State:
        """To be called while no process of the stack executes a run: interrupted ones are given their next state."""
        command = [sys.executable, "-m", "trimtab_infra.stack.configure", POOL, str(self.folder.store)]
        log = watch.run([*command, url(state, MLFLOW)], self.folder, state, self.folder.path, "configure")
        for line in log.splitlines():
            if line.startswith(GOES_ON):
                say(line)
        return self._start(service(WORKER), self.folder.read())

    def _start(self, one: Service, state: State) -> State:
        log = self.folder.logs / f"{one.name}.log"
        # The servers stay out of the project: a module of the user's must not stand in for one of theirs.
        cwd = self.project if one.name == WORKER else self.folder.path
        part = processes.spawn(one.command(self.folder, state), environment(self.folder, state), cwd, log)
        started = replace(state, parts={**state.parts, one.name: part})
        self.folder.write(started)
        return started

    def _deploy(self, watch: Watch, state: State, say: Say) -> None:
        """What a user does: ``prefect deploy --all``, in the project's folder."""
        began = time.monotonic()
        command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
        watch.run(command, self.folder, state, self.project, "deploy")
        say(f"Deployments of {self.project / 'prefect.yaml'} are made ({time.monotonic() - began:.1f} s)")

    def _stop(self, names: Collection[str]) -> int:
        """Stop parts, and every process of the stack that no other part answers for; returns how many ended."""
        state = self.folder.read()
        if not state.stack_id:
            return 0
        with processes.uninterrupted():
            left = set(state.parts)
            stopped = 0
            # The worker and its runs before the servers that they talk to.
            for group in ({WORKER} & set(names), set(names) - {WORKER}):
                left -= group
                stopped += _end(state, group, left) if group else 0
            self.folder.write(replace(state, parts={name: state.parts[name] for name in left}))
        return stopped


def _goes_on(name: str, state: State) -> bool:
    """Whether a part that runs answers, or comes to within a while.

    A worker that has seen the server go asks ever more rarely, and gives up in the end; so does one that is stuck.
    """
    deadline = time.monotonic() + _RETURNS_WITHIN_S
    while processes.find(state.parts.get(name)) and time.monotonic() < deadline:
        if is_ready(service(name), state):
            return True
        time.sleep(0.2)
    return False


def _end(state: State, names: Collection[str], left: Collection[str]) -> int:
    """Stop parts, then every process that belongs to none of the parts that are left."""
    found = {one: processes.find(state.parts.get(one.name)) for one in SERVICES if one.name in names}
    going = {process: one.grace_s for one, process in found.items() if process is not None}
    processes.stop(going)
    spared = {member.pid for name in left for member in processes.family(processes.find(state.parts.get(name)))}
    strays = processes.kill(process for process in processes.members(state.stack_id) if process.pid not in spared)
    return len(going) + strays


def _part_status(one: Service, state: State) -> PartStatus:
    part = state.parts.get(one.name)
    address = url(state, one.name) if one.name in state.ports else None
    if part is None or processes.find(part) is None:
        return PartStatus(one.title, "stopped", address, None, None, part.log if part else None)
    ready = is_ready(one, state)
    return PartStatus(one.title, "ready" if ready else "starting", address, part.pid, part.started, part.log)
