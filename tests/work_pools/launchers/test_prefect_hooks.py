"""Fails when Prefect moves, renames or changes what the launcher relies on."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import re
import signal
from pathlib import Path

import prefect
import prefect.context
import pytest
from prefect import flow_engine
from prefect.logging import configuration
from prefect.settings import Settings, get_current_settings

from trimtab_work_pools.launchers import prefect_hooks


@pytest.mark.parametrize("name", prefect_hooks._NEEDED)
def test_what_is_imported_beforehand_is_there(name: str) -> None:
    assert importlib.import_module(name).__name__ == name


def test_settings_are_read_anew_as_at_the_first_import() -> None:
    assert isinstance(prefect.context.GLOBAL_SETTINGS_CONTEXT, prefect.context.SettingsContext)
    source = inspect.getsource(prefect.context)
    root = inspect.getsource(prefect.context.root_settings_context)
    assert root.count("Settings()") == root.count("settings := Settings()") == 1
    assert "prefect.settings.load_profiles()" in root
    # With no context there is, profiles are looked for where the environment says.
    assert "except NameError:" in inspect.getsource(prefect.context.SettingsContext.get)
    assert "GLOBAL_SETTINGS_CONTEXT: SettingsContext = root_settings_context()" in source
    assert "GLOBAL_SETTINGS_CONTEXT = root_settings_context()" in inspect.getsource(
        prefect.context.refresh_global_settings_context
    )


def test_prefect_does_nothing_else_with_the_environment_when_it_is_imported() -> None:
    source = inspect.getsource(prefect)
    calls = re.findall(r"^(\w+)\(\)$", source, re.MULTILINE)
    assert calls == ["_initialize_sdk_analytics", "_initialize_plugins"]
    assert not inspect.signature(prefect._initialize_plugins).parameters
    main = Path(str(importlib.util.find_spec("prefect.main").origin)).read_text()  # type: ignore[union-attr]
    assert "prefect.logging.configuration.setup_logging()" in main


def test_logging_is_decided_by_what_we_compare() -> None:
    assert "incremental" in inspect.signature(configuration.setup_logging).parameters
    used = set(re.findall(r"\$\{?(\w+)", configuration.DEFAULT_LOGGING_SETTINGS_PATH.read_text()))
    assert used == {"PREFECT_LOGGING_LEVEL", "PREFECT_SERVER_LOGGING_LEVEL", "PREFECT_INTERNAL_LOGGING_LEVEL"}
    settings: Settings = get_current_settings()
    assert settings.logging.config_path is not None
    assert settings.server.logging_level
    assert settings.internal.logging_level


def test_the_engine_is_a_module_that_is_run_with_the_run_in_the_environment() -> None:
    found = importlib.util.find_spec(prefect_hooks.ENGINE)
    assert found is not None
    source = Path(str(found.origin)).read_text()
    assert 'if __name__ == "__main__":' in source
    assert 'os.environ.get("PREFECT__FLOW_RUN_ID")' in source
    process_worker = importlib.util.find_spec("prefect.workers.process")
    assert process_worker is not None
    assert '"-m", "prefect.engine"' in Path(str(process_worker.origin)).read_text()


@pytest.mark.parametrize("engine", [flow_engine.FlowRunEngine, flow_engine.AsyncFlowRunEngine])
def test_the_engine_reports_success_in_one_place(engine: type) -> None:
    report = inspect.getsource(engine.handle_success)
    assert list(inspect.signature(engine.handle_success).parameters) == ["self", "result"]
    assert "self.set_state(terminal_state)" in report
    assert "self.handle_success(" in inspect.getsource(flow_engine)


def test_a_signal_that_came_while_a_report_failed_is_not_lost() -> None:
    came: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _frame: came.append(number))
    try:
        with pytest.raises(ZeroDivisionError), prefect_hooks._sigterm_waits():
            (os.kill(os.getpid(), signal.SIGTERM), came, 1 / len(came))
        assert came == [signal.SIGTERM]
        with prefect_hooks._sigterm_waits():
            os.kill(os.getpid(), signal.SIGTERM)
        assert came == [signal.SIGTERM], "the run has ended: there is nothing to end"
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_fork_of_a_run_does_not_speak_for_it() -> None:
    """It has the engine's handler of SIGTERM, by which the run would be reported as crashed."""
    from prefect.utilities.engine import capture_sigterm

    with capture_sigterm():
        engine_s = signal.getsignal(signal.SIGTERM)
        assert callable(engine_s)
        prefect_hooks._tell_no_ends()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        signal.signal(signal.SIGTERM, own := lambda *_: None)
        prefect_hooks._tell_no_ends()
        assert signal.getsignal(signal.SIGTERM) is own, "a handler of the flow's own stays"


@pytest.mark.parametrize("engine", [flow_engine.FlowRunEngine, flow_engine.AsyncFlowRunEngine])
def test_the_engine_reports_every_end_in_one_place(engine: type) -> None:
    """`remember_ends` puts itself before it."""
    assert list(inspect.signature(engine.set_state).parameters) == ["self", "state", "force"]  # type: ignore[attr-defined]
    assert "propose_state" in inspect.getsource(engine.set_state)  # type: ignore[attr-defined]


def test_every_request_of_prefects_clients_is_sent_in_one_place() -> None:
    """`renew_credentials` puts itself before it."""
    from prefect.client.base import PrefectHttpxAsyncClient, PrefectHttpxSyncClient
    from prefect.events.worker import EventsWorker

    for client in (PrefectHttpxAsyncClient, PrefectHttpxSyncClient):
        assert list(inspect.signature(client.send).parameters) == ["self", "request", "args", "kwargs"]
    assert isinstance(EventsWorker._instances, dict)
    prefect_hooks._forget_event_clients()
