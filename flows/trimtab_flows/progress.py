"""Metrics of a training while it goes on, logged from inside a recipe's ``train``: to the disk first, then to MLflow.

::

    from trimtab_flows import progress

    for step, batch in enumerate(batches):
        progress.log({"loss": loss(batch)}, step)

They are points of the training's MLflow run. A training neither waits for MLflow nor fails by it, and loses nothing
while MLflow is away: what it has not taken when the process ends is sent by the next training on this host.
"""

from __future__ import annotations

import getpass
import logging
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from trimtab_blocks.settings import read as read_settings
from trimtab_flows.spool import MetricSpool, replay

__all__ = ["log", "logging_to", "spool_folder"]

_logger = logging.getLogger(__name__)
_training: ContextVar[MetricSpool | None] = ContextVar("trimtab_training_metrics", default=None)

#: Seconds that the end of a training waits for MLflow to take what is left.
_WAITS_S = 30


def log(metrics: Mapping[str, float], step: int = 0) -> None:
    """Log metrics of a step of the training that is going on; outside of one, nothing.

    A disk that is full, MLflow away for so long that the spool is, or a call from another process than that of the
    training costs the metrics, and not the training.
    """
    spool = _training.get()
    if spool is None:
        return
    try:
        spool.log(metrics, step)
    except (OSError, RuntimeError) as error:
        _logger.warning("metrics of step %s are lost: %s", step, error)


@contextmanager
def logging_to(run_id: str, waits_s: float = _WAITS_S) -> Iterator[None]:
    """Take what ``log`` is told in the body for an MLflow run, and send what trainings before it have left here."""
    folder = spool_folder()
    if folder.is_dir():
        replay(folder)
    spool = MetricSpool(folder, run_id)
    token = _training.set(spool)
    try:
        yield
    finally:
        _training.reset(token)
        left = spool.close(waits_s).left
        if left:
            _logger.warning("MLflow has not taken %s metrics of run %s; they wait in %s", left, run_id, folder)


def spool_folder() -> Path:
    """Where metrics wait: the setting ``metric_spool``, or a folder of this user's in the temporary one."""
    named = read_settings().metric_spool
    return named or Path(tempfile.gettempdir()) / f"trimtab-{getpass.getuser()}" / "metric-spool"
