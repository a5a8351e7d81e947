"""Requests to an S3 server that outlast its being away, hanging or saying "not now", for as long as they are told."""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

from prefect.exceptions import MissingContextError
from prefect.logging import get_logger, get_run_logger
from pydantic import SecretStr

from trimtab_blocks.s3_errors import REQUEST_ERRORS, explain, is_passing, reason

__all__ = ["Connection", "Requests", "client_of"]

_Answer = TypeVar("_Answer")

#: Pauses between tries double from the first to the longest, each times a random 0.5 to 1, so that the many clients of
#: a server that comes back do not all ask at once.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 10.0


@dataclass(frozen=True)
class Connection:
    """What a client of one server is made of. Its ``repr`` masks the credentials."""

    endpoint_url: str | None = None
    region: str | None = None
    ca_bundle: str | None = None
    addressing: str = "auto"
    access_key_id: SecretStr | None = None
    secret_access_key: SecretStr | None = None
    session_token: SecretStr | None = None
    connect_timeout_s: float = 5.0
    read_timeout_s: float = 30.0
    parallel: int = 8


def client_of(connection: Connection) -> Any:
    """A boto3 client, one a process for equal connections: it is safe for threads, but its sockets outlive no fork."""
    return _client(connection, os.getpid())


@lru_cache(maxsize=32)
def _client(connection: Connection, process: int) -> Any:
    import boto3  # takes 0.2 s, which a process that never meets S3 is spared
    from botocore.config import Config

    for name in ("botocore.auth", "botocore.endpoint"):
        logging.getLogger(name).addFilter(_tells_no_token)

    config = Config(
        connect_timeout=connection.connect_timeout_s,
        read_timeout=connection.read_timeout_s,
        # Trying again is up to Requests: two loops around each other would keep no deadline.
        retries={"mode": "standard", "total_max_attempts": 1},
        s3={"addressing_style": connection.addressing},
        max_pool_connections=2 * connection.parallel,
        request_checksum_calculation="when_required",  # ours are given explicitly
        response_checksum_validation="when_supported",
        tcp_keepalive=True,
    )
    return boto3.session.Session().client(
        "s3",
        endpoint_url=connection.endpoint_url,
        region_name=connection.region,
        verify=connection.ca_bundle,
        aws_access_key_id=_revealed(connection.access_key_id),
        aws_secret_access_key=_revealed(connection.secret_access_key),
        aws_session_token=_revealed(connection.session_token),
        config=config,
    )


def _tells_no_token(record: logging.LogRecord) -> bool:
    """botocore logs whole requests at level DEBUG, and a session token is a header of them."""
    return "security-token" not in record.getMessage().lower()


def _revealed(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret else None


class Requests:
    """The requests of one operation on a store, from any of its threads.

    Args:
        what: the operation, as an error begins: "cannot write 'a' in S3 store s3://b".
        patience_s: how long each request is tried again, from its first failure; one more try may then be under way.
    """

    def __init__(self, what: str, patience_s: float) -> None:
        self.what = what
        self.patience_s = patience_s
        self._log = _logger()  # found here: the threads of a transfer do not know the run they belong to
        self._told = threading.Event()

    def __call__(self, request: Callable[[], _Answer]) -> _Answer:
        """Its answer.

        Raises:
            StoreUnreachable: none came in time.
            ClientError, BotoCoreError: another try would give the same.
        """
        since: float | None = None
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                return request()
            except REQUEST_ERRORS as error:
                if not is_passing(error):
                    raise
                now = time.monotonic()
                since = now if since is None else since
                left_s = since + self.patience_s - now
                if left_s <= 0:
                    raise explain(error, self.what, self.patience_s) from error
                self._tell(error)
            time.sleep(min(left_s, pause_s * random.uniform(0.5, 1.0)))
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _tell(self, error: BaseException) -> None:
        if not self._told.is_set():
            self._told.set()
            self._log.warning("%s for now: %s; trying again for up to %g s", self.what, reason(error), self.patience_s)


def _logger() -> Any:
    """That of the flow run, where this is one, so that the wait shows in its logs."""
    try:
        return get_run_logger()
    except MissingContextError:
        return get_logger("trimtab.s3")
