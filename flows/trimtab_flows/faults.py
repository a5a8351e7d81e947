"""Decides which faults may pass by themselves, so that a task is worth trying again."""

from __future__ import annotations

from typing import Any

import httpx
from mlflow.exceptions import MlflowException
from prefect.client.schemas.objects import State
from prefect.states import get_state_exception

__all__ = ["RETRIES", "can_pass", "is_transient"]

_TRANSIENT_CODES = frozenset(
    {"INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "IO_ERROR", "DEADLINE_EXCEEDED"}
)


def is_transient(error: BaseException) -> bool:
    """True for a lost connection, a busy or broken service, or an I/O error; false for what trying again cannot mend.

    A missing file, a refused permission and every ValueError (so every refused contract) are final.
    """
    if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError | NotADirectoryError):
        return False
    if isinstance(error, MlflowException):
        # MLflow wraps what its HTTP client raised after its own retries as INTERNAL_ERROR.
        return error.error_code in _TRANSIENT_CODES
    return isinstance(error, OSError | ConnectionError | TimeoutError | httpx.TransportError)


def can_pass(task: Any, task_run: Any, state: State[Any]) -> bool:
    """Prefect's ``retry_condition_fn``: whether a failed task run is worth another try."""
    error = get_state_exception(state)
    return is_transient(error) if isinstance(error, BaseException) else False


#: What every task that touches a disk or a service is decorated with: three more tries, after 1, 4 and 16 s, each
#: stretched at random by up to half so that many workers do not come back at once.
RETRIES: dict[str, Any] = {
    "retries": 3,
    "retry_delay_seconds": [1, 4, 16],
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": can_pass,
}
