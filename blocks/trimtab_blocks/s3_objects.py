"""Objects in a bucket: looked for, listed, written once, and read back verified."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from botocore.exceptions import ClientError, FlexibleChecksumError

from trimtab_blocks.errors import NoConditionalWrites, StoreUnavailable
from trimtab_blocks.s3_errors import CONFLICT, MISSING, PRECONDITION, code_of
from trimtab_blocks.s3_requests import Requests
from trimtab_blocks.s3_sinks import Sink
from trimtab_blocks.s3_transfer import Source, Stored, Target, download, upload, upload_in_parts

__all__ = ["PROBE", "abort", "fetch", "find", "listing", "uploads", "write"]

#: An object that exists only to be refused: no valid key has a part that begins with a dot.
PROBE = ".trimtab-conditional-writes"
#: Times a write is begun when others get in its way, and times a blob is fetched whose content does not fit.
_BEGINNINGS, _LOOKS = 3, 2
#: What this process has found out about servers and need not ask again: (fact, client, bucket, name).
_KNOWN: set[tuple[object, ...]] = set()


def find(target: Target, ask: Requests) -> Stored | None:
    """What the server says of an object, or None where there is none.

    Raises:
        ClientError: it does not say; for one, because there is no such bucket.
    """
    bucket = ("bucket", target.client, target.bucket)
    try:
        found = Stored.of(ask(lambda: target.client.head_object(**target.address)))
    except ClientError as error:
        found = None
        if (code_of(error) not in MISSING or bucket not in _KNOWN) and _is_there(target, ask):
            if code_of(error) not in MISSING:
                raise
            _KNOWN.add(bucket)
            found = find(target, ask)  # it has just been written
    _KNOWN.add(bucket)
    return found


def _is_there(target: Target, ask: Requests) -> bool:
    """What a HEAD without success meant: its answer has no body that says why, that to a GET has.

    Raises:
        ClientError: neither; for one, there is no such bucket.
    """
    try:
        ask(lambda: target.client.get_object(**target.address, Range="bytes=0-0"))["Body"].close()
    except ClientError as error:
        if code_of(error) not in MISSING:
            raise
        return False
    return True


def listing(client: Any, ask: Requests, bucket: str, prefix: str) -> Iterator[dict[str, Any]]:
    """All objects that begin with the prefix (Key, Size, LastModified), page by page, in the server's order."""
    page: dict[str, Any] = {"IsTruncated": True, "NextContinuationToken": None}
    while page["IsTruncated"]:
        token = page["NextContinuationToken"]
        further = {"ContinuationToken": token} if token else {}
        page = ask(lambda further=further: client.list_objects_v2(Bucket=bucket, Prefix=prefix, **further))  # type: ignore[misc]
        yield from page.get("Contents", ())


def uploads(client: Any, ask: Requests, bucket: str, prefix: str) -> Iterator[dict[str, Any]]:
    """Uploads in parts that are under way, or were given up."""
    page: dict[str, Any] = {"IsTruncated": True}
    while page["IsTruncated"]:
        markers = {"KeyMarker": page.get("NextKeyMarker"), "UploadIdMarker": page.get("NextUploadIdMarker")}
        further = {name: marker for name, marker in markers.items() if marker}
        page = ask(lambda further=further: client.list_multipart_uploads(Bucket=bucket, Prefix=prefix, **further))  # type: ignore[misc]
        yield from page.get("Uploads", ())


def write(target: Target, probe: Target, ask: Requests, source: Source) -> bool:
    """Store an object unless its name is taken; whether this call did.

    Raises:
        NoConditionalWrites: the server would overwrite what is there.
        StoreUnavailable, ClientError: it could not be stored.
    """
    in_parts = source.size > target.part_bytes
    _assure_conditions(probe, ask, in_parts)
    if in_parts and find(target, ask):
        return False  # found out before the bytes are sent, not after
    writer = uuid.uuid4().hex
    for _ in range(_BEGINNINGS):
        try:
            (upload_in_parts if in_parts else upload)(target, ask, source, writer)
        except ClientError as error:
            if code_of(error) not in PRECONDITION | CONFLICT:
                raise
            found = find(target, ask)
            if found:  # by this write, if its first answer was lost and it was sent again
                return found.writer == writer
        else:
            return True
    raise StoreUnavailable(
        f"{ask.what}: the server says that the key is taken, yet nothing is stored under it; either other writers "
        "keep getting in the way, or the key is also the beginning of other keys, which some servers refuse"
    )


def _assure_conditions(probe: Target, ask: Requests, in_parts: bool) -> None:
    """Once a process: the server refuses to overwrite an object that it was told to keep."""
    fact = (f"conditions {in_parts}", probe.client, probe.bucket, probe.name)
    if fact in _KNOWN:
        return
    if in_parts:
        _assure_conditions(probe, ask, in_parts=False)  # and the probe's object is there
    try:
        for _ in range(1 if in_parts else 2):  # the first may be the one that makes the object
            with Source(b"probe") as source:
                (upload_in_parts if in_parts else upload)(replace(probe, asked=()), ask, source, "probe")
    except ClientError as error:
        if code_of(error) in PRECONDITION:
            _KNOWN.add(fact)
            return
        if code_of(error) != "NotImplemented":
            raise
    raise NoConditionalWrites(
        f"{ask.what}: the server does not honour conditional writes (If-None-Match) of objects"
        f"{' in parts' if in_parts else ''}, so two writers could overwrite each other; use another server, or a "
        "version of this one that does"
    )


def fetch(target: Target, ask: Requests, sink: Sink) -> tuple[str, str | None]:
    """Fill the sink with an object; its SHA-256, and None, or what is wrong with it."""
    found, wrong = "", None
    for _ in range(_LOOKS):  # once more, in case that it was altered on its way only
        try:
            stored, found = download(target, ask, sink)
        except FlexibleChecksumError:
            wrong = "the server's own checksum does not fit what it sent"
            continue
        except ClientError as error:
            if code_of(error) not in PRECONDITION:
                raise
            wrong = "it was replaced while it was being read"
            continue
        if stored.sha256 == found:
            return found, None
        wrong = f"its SHA-256 is {found}, and it was written with {stored.sha256}"
        if stored.sha256 is None:
            wrong = "it carries no SHA-256 of Trimtab, so another program put it there"
    return found, wrong


def abort(client: Any, ask: Requests, bucket: str, begun: dict[str, Any]) -> bool:
    """Give up an upload in parts; False if it has just ended by itself."""
    try:
        ask(lambda: client.abort_multipart_upload(Bucket=bucket, Key=begun["Key"], UploadId=begun["UploadId"]))
    except ClientError as error:
        if code_of(error) != "NoSuchUpload":
            raise
        return False
    return True
