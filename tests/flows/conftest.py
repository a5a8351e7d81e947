"""Flows called in this process, against the session's real servers."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from trimtab_infra.stack.stack import Stack


@pytest.fixture(scope="session")
def connected(stack: Stack) -> Iterator[None]:
    """Prefect's settings and MLflow's address in this process are the stack's."""
    from prefect.settings.context import temporary_settings

    environment = stack.environment()
    settings = {
        "api.url": environment["PREFECT_API_URL"],
        "ui_url": environment["PREFECT_UI_URL"],
        "home": environment["PREFECT_HOME"],
        "results.local_storage_path": environment["PREFECT_LOCAL_STORAGE_PATH"],
    }
    before = dict(os.environ)
    os.environ.update({name: value for name, value in environment.items() if name.startswith("MLFLOW_")})
    with temporary_settings(settings):
        yield
    os.environ.clear()
    os.environ.update(before)
