"""One batch of spooled metrics to MLflow over REST: taken, refused for good, or to be tried again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from math import isfinite, isnan
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request

from trimtab_flows.spool.journal import Entry

__all__ = ["Answer", "Send", "answer_of", "batches", "to_mlflow"]

#: MLflow's limit for one batch (``mlflow.utils.validation.MAX_METRICS_PER_BATCH``).
MAX_METRICS = 1000

_LOG_BATCH = "/api/2.0/mlflow/runs/log-batch"

#: Client errors that say nothing against the metrics: credentials that may be put right, time-outs, too many requests.
_MAY_PASS = frozenset({401, 403, 407, 408, 425, 429})


class Answer(Enum):
    """What became of a batch."""

    TAKEN = "taken"
    REFUSED = "refused"
    LATER = "later"


#: Sends entries of one run; returns the answer and what was said.
Send = Callable[[Sequence[Entry]], tuple[Answer, str]]


def answer_of(status: int, said: str) -> Answer:
    """What an HTTP answer means; only MLflow's own error text counts as a refusal, not a proxy's page."""
    if status == 200:
        return Answer.TAKEN
    refused = 400 <= status < 500 and status not in _MAY_PASS and '"error_code"' in said
    return Answer.REFUSED if refused else Answer.LATER


def to_mlflow(tracking_uri: str, timeout_s: float = 10) -> Send:
    """Sends to the server at an ``http(s)://`` address, with MLflow's own settings for credentials and certificates."""

    def send(entries: Sequence[Entry]) -> tuple[Answer, str]:
        body = {"run_id": entries[0].run_id, "metrics": [point for entry in entries for point in _points(entry)]}
        try:
            # No retries of MLflow's, which last minutes: the spool has its own, and the answer is looked at here.
            response = http_request(
                get_default_host_creds(tracking_uri),  # type: ignore[no-untyped-call]
                _LOG_BATCH,
                "POST",
                max_retries=0,
                timeout=timeout_s,
                raise_on_status=False,
                json=body,
            )
        except MlflowException as error:
            return Answer.LATER, str(error)
        return answer_of(response.status_code, response.text), response.text[:500]

    return send


def batches(entries: Sequence[tuple[Entry, int]]) -> list[list[tuple[Entry, int]]]:
    """Entries in their order, cut where the run changes or a batch would have more than 1,000 metrics."""
    found: list[list[tuple[Entry, int]]] = []
    room = 0
    for entry, mark in entries:
        if not found or found[-1][-1][0].run_id != entry.run_id or len(entry.metrics) > room:
            found.append([])
            room = MAX_METRICS
        found[-1].append((entry, mark))
        room -= len(entry.metrics)
    return found


def _points(entry: Entry) -> list[dict[str, Any]]:
    return [
        {"key": name, "value": _json(value), "timestamp": entry.timestamp_ms, "step": entry.step}
        for name, value in entry.metrics.items()
    ]


def _json(value: float) -> float | str:
    """JSON has no NaN and no infinity; protocol buffers read them as these words."""
    return value if isfinite(value) else "NaN" if isnan(value) else "Infinity" if value > 0 else "-Infinity"
