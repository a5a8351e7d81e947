"""The MLflow server plugin: `mlflow server --app-name trimtab-metrics`, or `trimtab-metrics-basic-auth`.

After a request that logged metrics was answered with 200, the wanted points go to the outbox. Whatever goes wrong
here is noted in the server's log and in the outbox as a gap, and never reaches the client.

Settings, of the server's environment:
    TRIMTAB_METRIC_OUTBOX: folder of the outbox (default ``metric-outbox``, in the server's working directory)
    TRIMTAB_METRIC_PREFIXES: names that become events, by how they begin, comma separated (``drift/,performance/``)
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from flask import Flask, Response, request

from trimtab_blocks.settings import read as read_settings
from trimtab_infra.metric_events.outbox import Outbox, note_gap
from trimtab_infra.metric_events.points import PREFIXES, logged_points, wanted

__all__ = ["create_app", "create_app_with_basic_auth", "outbox_folder", "prefixes"]

_LOGGING = ("/mlflow/runs/log-metric", "/mlflow/runs/log-batch")

_logger = logging.getLogger(__name__)


def create_app() -> Any:
    """MLflow's own app, with the plugin."""
    from mlflow.server import app

    _watch(app)
    return _served(app)


def create_app_with_basic_auth() -> Any:
    """MLflow's basic-auth app, with the plugin; its settings are those of ``--app-name basic-auth``."""
    from mlflow.server import app
    from mlflow.server.auth import create_app as with_auth

    # Registered first, it is asked last: only requests that basic-auth let through are looked at.
    _watch(app)
    return with_auth(app)


def outbox_folder() -> Path:
    """Where the outbox is."""
    return read_settings().metric_outbox.absolute()


def prefixes() -> tuple[str, ...]:
    """How names that become events begin."""
    said = read_settings().metric_prefixes
    return tuple(part.strip() for part in said.split(",") if part.strip()) or PREFIXES


def _served(app: Flask) -> Any:
    """As MLflow serves it: behind FastAPI under uvicorn, as it is under gunicorn and waitress."""
    if os.environ.get("_MLFLOW_SGI_NAME") != "uvicorn":
        return app
    from mlflow.server.fastapi_app import create_fastapi_app

    return create_fastapi_app(app)


def _watch(app: Flask) -> None:
    """Look at every request after it was answered."""
    folder, names = outbox_folder(), prefixes()
    outbox = Outbox(folder)

    def note(response: Response) -> Response:
        if response.status_code != 200 or not request.path.endswith(_LOGGING):
            return response
        try:
            found = wanted(logged_points(request.path, request.get_data(cache=True)), names)
            if found and not outbox.put(found):
                _logger.warning("the metric outbox %s is full; the reconciler will find what it missed", folder)
        except Exception:
            # The client's metrics are logged, whatever is wrong here.
            note_gap(folder)
            _logger.exception("metrics were logged and not noted in %s; the reconciler will find them", folder)
        return response

    app.after_request(note)
