"""Trimtab's configuration: blocks on the Prefect server (where the data is, where MLflow is), settings of a process.

A block is imported when it is asked for: settings are read by programs that need no Prefect, and start without it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trimtab_blocks.mlflow import MlflowTracking
    from trimtab_blocks.policy import RetrainPolicy
    from trimtab_blocks.s3 import S3Store
    from trimtab_blocks.stores import DirectoryStore

__all__ = ["DirectoryStore", "MlflowTracking", "RetrainPolicy", "S3Store"]

_MODULES = {"DirectoryStore": "stores", "MlflowTracking": "mlflow", "RetrainPolicy": "policy", "S3Store": "s3"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
