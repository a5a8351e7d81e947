"""One writer at a time makes an object of parts visible.

Amazon's S3 looks whether the name is free and takes it in one step, also for an object in parts. SeaweedFS 4.48 does so
for objects in one request only: of four that completed an object in parts at the same moment, more than one was told
that it had won in 34 of 60 races. So a writer on such a server first claims the name, with an object in one request.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

from botocore.exceptions import ClientError

from trimtab_blocks.errors import StoreUnreachable
from trimtab_blocks.s3_errors import CONFLICT, MISSING, PRECONDITION, REQUEST_ERRORS, code_of, said
from trimtab_blocks.s3_requests import Requests

__all__ = ["Claim", "claimed"]

_PAUSE_S = 0.1


@dataclass(frozen=True)
class Claim:
    """Where the writers of one name meet, and after how long one of them counts as dead."""

    client: Any
    bucket: str
    name: str
    life_s: float = 60.0

    @property
    def address(self) -> dict[str, str]:
        return {"Bucket": self.bucket, "Key": self.name}


@dataclass(frozen=True)
class _Holder:
    """Who holds a claim, by which version of the object, and for how long already, by the server's own clock."""

    writer: str
    etag: str
    age_s: float


@contextmanager
def claimed(claim: Claim | None, ask: Requests, writer: str) -> Iterator[None]:
    """Hold the claim; without one, nothing. Who dies with it keeps the others waiting for ``life_s``.

    Raises:
        StoreUnreachable: others held it for longer than this operation waits.
    """
    if claim is None:
        yield
        return
    _take(claim, ask, writer)
    since = time.monotonic()
    try:
        yield
    finally:
        if time.monotonic() - since < claim.life_s:  # or it may be another's by now
            with suppress(*REQUEST_ERRORS):  # without the right to delete, it ends by its age
                claim.client.delete_object(**claim.address)


def _take(claim: Claim, ask: Requests, writer: str) -> None:
    deadline = time.monotonic() + claim.life_s + ask.patience_s
    condition = {"IfNoneMatch": "*"}
    while not _put(claim, ask, writer, condition):
        holder = _look(claim, ask)
        if holder and holder.writer == writer:  # the answer to our own was lost
            return
        condition = {"IfMatch": holder.etag} if holder and holder.age_s > claim.life_s else {"IfNoneMatch": "*"}
        if time.monotonic() > deadline:
            raise StoreUnreachable(f"{ask.what}: other writers of this key held it for all this time")
        if holder and "IfNoneMatch" in condition:
            time.sleep(_PAUSE_S)  # S3 tells nobody that an object is gone


def _put(claim: Claim, ask: Requests, writer: str, condition: dict[str, str]) -> bool:
    try:
        ask(lambda: claim.client.put_object(**claim.address, Body=writer.encode(), **condition))
    except ClientError as error:
        if code_of(error) not in PRECONDITION | CONFLICT | MISSING:
            raise
        return False
    return True


def _look(claim: Claim, ask: Requests) -> _Holder | None:
    def read() -> _Holder:
        answer = claim.client.get_object(**claim.address)
        headers = said(answer, "ResponseMetadata")["HTTPHeaders"]
        changed: datetime = said(answer, "LastModified")
        age = parsedate_to_datetime(said(headers, "date")) - changed
        return _Holder(answer["Body"].read().decode(errors="replace"), said(answer, "ETag"), age.total_seconds())

    try:
        return ask(read)
    except ClientError as error:
        if code_of(error) not in MISSING:
            raise
        return None
