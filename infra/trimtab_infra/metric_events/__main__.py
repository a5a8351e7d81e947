"""`python -m trimtab_infra.metric_events send | status`: the sender as a process, and what it has done."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from trimtab_infra.metric_events.ledger import Ledger

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)

Outbox = Annotated[
    Path, typer.Option(envvar="TRIMTAB_METRIC_OUTBOX", help="Folder that the MLflow plugin writes to; the ledger too.")
]


@app.command()
def send(
    outbox: Outbox,
    tracking_uri: Annotated[str, typer.Option(envvar="MLFLOW_TRACKING_URI", help="The MLflow server.")],
    coalesce_above: Annotated[int, typer.Option(min=1, help="Waiting points above which events are merged.")] = 1000,
    resend_after_s: Annotated[float, typer.Option(min=1, help="When an event that did not arrive is sent anew.")] = 30,
    reconcile_every_s: Annotated[float, typer.Option(min=0.1, help="Seconds between quick looks at MLflow.")] = 30,
    deep_every_s: Annotated[float, typer.Option(min=0.1, help="Seconds between looks at every history.")] = 3600,
    lookback_days: Annotated[
        float, typer.Option(min=0, help="Runs that began before are looked at while running.")
    ] = 14,
    first_lookback_hours: Annotated[
        float, typer.Option(min=0, help="In the first look of a new ledger, older points are no news.")
    ] = 24,
) -> None:
    """Deliver metric points to the Prefect server of this process's settings until interrupted."""
    settings = {
        "coalesce_above": coalesce_above,
        "resend_after_s": resend_after_s,
        "reconcile_every_s": reconcile_every_s,
        "deep_every_s": deep_every_s,
        "lookback_s": lookback_days * 86400,
        "first_lookback_s": first_lookback_hours * 3600,
    }
    with _only_one(outbox):
        _send(outbox.absolute(), tracking_uri, settings)


def _send(outbox: Path, tracking_uri: str, settings: dict[str, Any]) -> None:
    """Imported here, with the lock held: Prefect and MLflow take 2 s, and a second sender is told at once."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    from trimtab_infra.metric_events.mlflow_reading import MlflowReading
    from trimtab_infra.metric_events.plugin import prefixes
    from trimtab_infra.metric_events.prefect_writing import PrefectWriting
    from trimtab_infra.metric_events.sender import Sender, Settings

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    # One line for each request is too much.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    # Prefect's own retries would hold up the outbox for minutes; the sender comes back by itself.
    quick = temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0})
    with quick, get_client(sync_client=True, httpx_settings={"timeout": 15}) as client:
        ledger = Ledger(_ledger_file(outbox))
        try:
            reading = MlflowReading(tracking_uri, prefixes())
            logging.info("metric events: from %s and %s to %s", outbox, tracking_uri, client.api_url)
            Sender(Settings(outbox, **settings), ledger, reading, PrefectWriting(client)).run(stop)
        finally:
            ledger.close()


@app.command()
def status(outbox: Outbox) -> None:
    """Show how many points are in which state, as JSON. Exit code 2 if there is no ledger."""
    if not _ledger_file(outbox).exists():
        raise typer.Exit(_refused(f"{outbox} has no ledger; has a sender run with this folder?"))
    ledger = Ledger(_ledger_file(outbox))
    typer.echo(json.dumps(asdict(ledger.counts())))
    ledger.close()


def _ledger_file(outbox: Path) -> Path:
    return outbox / "ledger.sqlite"


def _refused(text: str) -> int:
    typer.echo(f"metric-events: {text}", err=True)
    return 2


@contextmanager
def _only_one(outbox: Path) -> Iterator[None]:
    """Two senders would send every event twice."""
    try:
        outbox.mkdir(parents=True, exist_ok=True)
        handle = os.open(outbox / "sender.lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise typer.Exit(_refused(f"{outbox} cannot be used ({error.strerror}); name a folder with --outbox")) from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise typer.Exit(_refused(f"another sender is working on {outbox}; one is enough")) from None
    try:
        yield
    finally:
        os.close(handle)


if __name__ == "__main__":
    sys.exit(app())
