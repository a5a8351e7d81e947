"""Everything private of Prefect that the launcher touches.

A new interpreter reads Prefect's settings, sets up its logging and its plugins when it first imports Prefect
(prefect/context.py, prefect/main.py, prefect/__init__.py). A forked process has imported it already, with the parent's
settings, so it does these steps again, in the same order, with its own environment. Analytics are left out: they do
something only in an interactive terminal.
`tests/work_pools/launchers/test_prefect_hooks.py` fails when Prefect moves one of them.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import runpy
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import certifi
import httpx
import pydantic

from trimtab_work_pools.host.outbox import Outbox, Outcome
from trimtab_work_pools.host.process_tree import MARK

__all__ = [
    "ENGINE",
    "HOST_DIR",
    "cafile",
    "import_all",
    "own_environment",
    "rebuild",
    "remember_ends",
    "renew_credentials",
    "report_before_signals",
    "run_engine",
]

HOST_DIR = "TRIMTAB_HOST_DIR"
_REFUSED = (401, 403)
_EXIT_WITHIN_S = 10.0

#: What the stock process worker runs with `python -m`.
ENGINE = "prefect.engine"

#: What the engine imports before the first line of a flow, some of it late. Not the engine itself: it is run as
#: the main module. None of these starts a thread or opens a socket, which the parent checks all the same.
_NEEDED = (
    "prefect.main",
    "prefect.flow_engine",
    "prefect.task_engine",
    "prefect.flows",
    "prefect.tasks",
    "prefect.task_runners",
    "prefect.client.orchestration",
    "prefect.client.schemas",
    "prefect.deployments.steps",
    "prefect.deployments.steps.core",
    "prefect.deployments.steps.pull",
    "prefect.events.clients",
    "prefect.events.worker",
    "prefect.events.utilities",
    "prefect.logging.handlers",
    "prefect.plugins",
    "prefect.runner.storage",
    "prefect._internal.metrics",
    "prefect._internal.control_listener",
    "anyio._backends._asyncio",
    "encodings.idna",
    "rich._emoji_codes",
)

#: What rich reads when Prefect's logging makes a console.
_CONSOLE = ("NO_COLOR", "FORCE_COLOR", "TERM", "COLORTERM", "COLUMNS", "LINES", "TTY_COMPATIBLE", "TTY_INTERACTIVE")


@dataclass
class _Imported:
    """What is known of this process's Prefect since `import_all`."""

    logging: tuple[object, ...] = ()
    remembered: bool = False
    """How the run ended was written down, for the server did not take it."""


_imported = _Imported()


def own_environment(environ: Mapping[str, str], home: str) -> dict[str, str]:
    """What the parent runs with: a Prefect that has no settings, no plugins, and sends nothing.

    Args:
        environ: environment of the launcher's process.
        home: a folder of the parent's own, in the place of the user's Prefect profiles.
    """
    kept = {name: value for name, value in environ.items() if not name.startswith("PREFECT_")}
    # Analytics would send an event from a thread as soon as Prefect is imported.
    return kept | {"PREFECT_HOME": home, "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}


def cafile() -> str:
    """The certificates that Prefect's clients trust, with this process's settings."""
    from prefect.settings import PREFECT_API_SSL_CERT_FILE

    return str(PREFECT_API_SSL_CERT_FILE.value() or certifi.where())


def import_all() -> None:
    """Import what a run needs, and build what Prefect builds when it is first used."""
    for name in _NEEDED:
        importlib.import_module(name)
    if sys.version_info < (3, 14):
        # Prefect looks whether a flow's parameters are of its old types; it works up to Python 3.13.
        importlib.import_module("pydantic.v1")
    for model in list(_subclasses(pydantic.BaseModel)):
        if model.__module__.startswith("prefect.") and not model.__pydantic_complete__:
            model.model_rebuild(raise_errors=False)
    _imported.logging = _logging_conditions()


def _subclasses(of: type[pydantic.BaseModel]) -> Iterator[type[pydantic.BaseModel]]:
    for known in of.__subclasses__():
        yield known
        yield from _subclasses(known)


def rebuild() -> None:
    """Make this process's Prefect what it would be if it were imported now, with the present environment.

    Raises:
        Exception: of any kind that Prefect has for settings that are no settings.
    """
    import prefect
    import prefect.context
    from prefect.logging.configuration import setup_logging
    from prefect.settings import Profile

    # As at the first import: or the profiles would be those of the parent's home.
    del prefect.context.GLOBAL_SETTINGS_CONTEXT
    # Prefect reads the settings twice over, first to find the profiles; the second time costs as much, for the same.
    names = vars(prefect.context)
    kind = names["Settings"]
    settings = kind()
    prefect.context.GLOBAL_SETTINGS_CONTEXT = prefect.context.SettingsContext(
        profile=Profile(name="", settings={}), settings=settings
    )
    names["Settings"] = lambda: settings
    try:
        prefect.context.refresh_global_settings_context()
    finally:
        names["Settings"] = kind
    # It takes 0.09 s, a third of the time to the first line, and most runs change nothing about it.
    if _logging_conditions() != _imported.logging:
        setup_logging(incremental=False)
    prefect._initialize_plugins()


def _logging_conditions() -> tuple[object, ...]:
    """All that decides how Prefect's logging is set up; where it is equal, so is the outcome."""
    from prefect.settings import get_current_settings

    settings = get_current_settings()
    file = settings.logging.config_path
    return (
        file.read_text() if file.exists() else None,
        settings.logging.model_dump(exclude={"config_path"}),
        (settings.server.logging_level, settings.internal.logging_level),
        {name: value for name, value in os.environ.items() if name.startswith("PREFECT_LOGGING_") or name in _CONSOLE},
        sys.stderr.isatty(),
    )


def report_before_signals(flow_run_id: str) -> None:
    """Have SIGTERM wait while the engine reports that the code of this run has completed.

    The report takes as long as the server is away. A run that is stopped meanwhile would be run again, though all of
    its work is done; whoever stops it kills it if its time is over.
    """
    from prefect.flow_engine import AsyncFlowRunEngine, FlowRunEngine

    report, report_async = FlowRunEngine.handle_success, AsyncFlowRunEngine.handle_success

    def handle_success(self: Any, result: Any) -> Any:
        with _sigterm_waits() if str(self.flow_run.id) == flow_run_id else contextlib.nullcontext():
            return report(self, result)

    async def handle_success_async(self: Any, result: Any) -> Any:
        with _sigterm_waits() if str(self.flow_run.id) == flow_run_id else contextlib.nullcontext():
            return await report_async(self, result)

    FlowRunEngine.handle_success = handle_success  # type: ignore[method-assign]
    AsyncFlowRunEngine.handle_success = handle_success_async  # type: ignore[method-assign]


def remember_ends(outbox: Outbox, claim_id: str) -> None:
    """Have the engine write down how a run ended where the server does not take the report; its worker delivers it.

    Without this the run, whose work is done, would be run again. A failure that is to be tried again is none of these:
    there the server has a say.
    """
    from prefect.client.schemas.objects import FlowRun, State
    from prefect.flow_engine import AsyncFlowRunEngine, FlowRunEngine
    from prefect.settings import PREFECT_API_URL
    from prefect.states import to_state_create

    set_state, set_state_async = FlowRunEngine.set_state, AsyncFlowRunEngine.set_state

    def remembered(engine: Any, state: State[Any], error: Exception) -> bool:
        run: FlowRun | None = engine.flow_run
        if run is None or not _is_the_end(run, state):
            return False
        made = to_state_create(state)
        made.state_details.flow_run_id = run.id
        told = made.model_dump(mode="json", serialize_as_any=True)
        try:
            outbox.put(Outcome(str(run.id), claim_id, run.run_count, str(PREFECT_API_URL.value()).rstrip("/"), told))
        except OSError:
            return False
        _imported.remembered = True
        engine.logger.error("This run has ended as %s. Its worker reports that later: %s", state.name, error)
        run.state, run.state_name, run.state_type = state, state.name, state.type
        return True

    def set_state_or_remember(self: Any, state: State[Any], force: bool = False) -> State[Any]:
        try:
            return set_state(self, state, force=force)
        except httpx.HTTPError as error:
            if not remembered(self, state, error):
                raise
        self.call_hooks(state)
        return state

    async def set_state_or_remember_async(self: Any, state: State[Any], force: bool = False) -> State[Any]:
        try:
            return await set_state_async(self, state, force=force)
        except httpx.HTTPError as error:
            if not remembered(self, state, error):
                raise
        await self.call_hooks(state)
        return state

    FlowRunEngine.set_state = set_state_or_remember  # type: ignore[method-assign]
    AsyncFlowRunEngine.set_state = set_state_or_remember_async  # type: ignore[method-assign]


def _is_the_end(run: Any, state: Any) -> bool:
    if state.is_completed():
        return True
    retries = run.empirical_policy.retries or 0
    return bool(state.is_failed() and run.run_count > retries)


def renew_credentials() -> None:
    """Have the clients of this process look for other credentials when the server refuses theirs, and ask again."""
    from prefect.client.base import PrefectHttpxAsyncClient, PrefectHttpxSyncClient

    send, send_async = PrefectHttpxSyncClient.send, PrefectHttpxAsyncClient.send
    if getattr(send, "renews", False):
        return

    def send_renewed(self: Any, request: httpx.Request, *args: Any, **kwargs: Any) -> httpx.Response:
        try:
            return _accepted(send(self, request, *args, **kwargs))
        except httpx.HTTPStatusError as error:
            if not _renewed(self, request, error):
                raise
        return _accepted(send(self, request, *args, **kwargs))

    async def send_renewed_async(self: Any, request: httpx.Request, *args: Any, **kwargs: Any) -> httpx.Response:
        try:
            return _accepted(await send_async(self, request, *args, **kwargs))
        except httpx.HTTPStatusError as error:
            if not _renewed(self, request, error):
                raise
        return _accepted(await send_async(self, request, *args, **kwargs))

    send_renewed.renews = True  # type: ignore[attr-defined]
    PrefectHttpxSyncClient.send = send_renewed  # type: ignore[method-assign]
    PrefectHttpxAsyncClient.send = send_renewed_async  # type: ignore[method-assign]


def _accepted(response: httpx.Response) -> httpx.Response:
    from trimtab_work_pools.server.credentials import CREDENTIALS

    if response.status_code not in _REFUSED:
        CREDENTIALS.was_accepted()
    return response


def _renewed(client: Any, request: httpx.Request, error: httpx.HTTPStatusError) -> bool:
    """Whether the request may be sent again: there are other credentials by now."""
    from trimtab_work_pools.server.credentials import CREDENTIALS

    if error.response.status_code not in _REFUSED:
        return False
    header = CREDENTIALS.other_than(request.headers.get("Authorization", ""))
    if header is None:
        CREDENTIALS.was_refused(error.response.status_code, str(client.base_url))
        return False
    request.headers["Authorization"] = client.headers["Authorization"] = header
    _forget_event_clients()
    return True


def _forget_event_clients() -> None:
    """A client of events has the credentials that it was made with; the next event makes a new one."""
    from prefect.events.worker import EventsWorker

    services: Any = EventsWorker
    with services._instance_cache_lock:
        for key, made in list(services._instances.items()):
            if isinstance(made, EventsWorker):
                del services._instances[key]


def _leave_soon() -> None:
    """At its exit Prefect tries to send what is left of logs and events, for minutes where it is refused. The run has
    ended, and its devices are waited for.
    """
    late = threading.Timer(_EXIT_WITHIN_S, os._exit, [0])
    late.daemon = True
    late.start()


def _tell_no_ends() -> None:
    """In a fork of a run (a worker of a data loader): SIGTERM ends it, and not, by the engine's handler that it has
    inherited, the run: it would report that the run has crashed, also of one that has completed.
    """
    handler = signal.getsignal(signal.SIGTERM)
    if str(getattr(handler, "__module__", "")).startswith(("prefect.", "trimtab_work_pools.launchers.")):
        with contextlib.suppress(ValueError):
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextlib.contextmanager
def _sigterm_waits() -> Iterator[None]:
    """One that comes meanwhile is sent again if the body fails; else the run has ended, and it has nothing to end."""
    if threading.current_thread() is not threading.main_thread():  # no signal is handled there
        yield
        return
    came: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _frame: came.append(number))
    done = False
    try:
        yield
        done = True
    finally:
        signal.signal(signal.SIGTERM, before)
        if came and not done:
            os.kill(os.getpid(), signal.SIGTERM)


def run_engine(flow_run_id: str) -> None:
    """Do what `python -m prefect.engine` does, by running that module as the main one.

    Raises:
        SystemExit: with the engine's exit code. TerminationSignal, and what else the engine lets through.
    """
    from trimtab_work_pools.server.credentials import CREDENTIALS

    os.environ["PREFECT__FLOW_RUN_ID"] = flow_run_id
    # As in a new interpreter, where a module that imports the engine gets a second copy of it.
    sys.modules.pop(ENGINE, None)
    report_before_signals(flow_run_id)
    if HOST_DIR in os.environ:
        remember_ends(Outbox(Path(os.environ[HOST_DIR])), os.environ.get(MARK, ""))
    CREDENTIALS.silent = True
    renew_credentials()
    os.register_at_fork(after_in_child=_tell_no_ends)
    sys.argv[:] = [ENGINE]
    sys.orig_argv[:] = [sys.executable, "-m", ENGINE]
    try:
        runpy.run_module(ENGINE, run_name="__main__", alter_sys=True)
    finally:
        if _imported.remembered:
            _leave_soon()
