"""What every test may use: the real stack, brought up once, and an environment that points at it."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import docker_engine
from trimtab_infra.stack import processes
from trimtab_infra.stack.stack import Stack

ROOT = Path(__file__).parent.parent

#: Seconds for a test whose set-up starts servers; two busy cores took 100.
STARTS_SERVERS_S = 300


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first test that needs the stack waits for it, and any of them may be the first."""
    for item in items:
        if "stack" in getattr(item, "fixturenames", ()) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(STARTS_SERVERS_S))


@pytest.fixture(scope="session")
def outside() -> dict[str, str]:
    """The environment of a person's own shell: nothing of the session's stack in it, and our commands on the path."""
    own = {
        name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_", "TRIMTAB_"))
    }
    return {**own, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{own.get('PATH', os.defpath)}"}


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The project's own stack: Prefect, MLflow, a worker, and the deployments of its prefect.yaml."""
    running = Stack(tmp_path_factory.mktemp("stack") / "state", ROOT)
    running.up(print)
    stack_id = running.folder.read().stack_id
    yield running
    running.down()
    left = processes.members(stack_id)
    assert not left, f"still running after down: {left}"


@pytest.fixture(scope="module")
def environment(stack: Stack) -> Iterator[dict[str, str]]:
    """This process as a client of the stack: Prefect, MLflow and processes started from here use it."""
    from prefect.context import SettingsContext, get_settings_context
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker
    from prefect.settings import Settings

    before = dict(os.environ)
    settings = stack.environment()
    os.environ.clear()
    os.environ.update(settings)
    try:
        with SettingsContext(profile=get_settings_context().profile, settings=Settings()):
            yield settings
            # Or they would look for a server that is gone, for a minute, when the tests have ended.
            APILogWorker.drain_all()
            EventsWorker.drain_all()
    finally:
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(scope="session")
def engine() -> Iterator[docker_engine.Engine]:
    """A Docker engine with the base image."""
    with contextlib.ExitStack() as stack:
        try:
            found = stack.enter_context(docker_engine.running())
        except docker_engine.NoEngine as why:
            pytest.skip(str(why))
        yield found
