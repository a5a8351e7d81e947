"""What a failed request to an S3 server means: worth another try or not, and the sentence a person needs. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from botocore import exceptions as botocore
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from trimtab_blocks.errors import (
    AccessRefused,
    ClockSkew,
    NoConditionalWrites,
    StoreNotFound,
    StoreUnavailable,
    StoreUnreachable,
)

__all__ = [
    "CONFLICT",
    "MISSING",
    "PRECONDITION",
    "REQUEST_ERRORS",
    "TAMPERED",
    "code_of",
    "explain",
    "is_passing",
    "reason",
    "said",
]

#: What a request, or reading its answer, may raise.
REQUEST_ERRORS = (botocore.ClientError, botocore.BotoCoreError, ResponseParserError, HTTPError, OSError)

#: Codes of answers that are part of the normal course.
MISSING = frozenset({"NoSuchKey", "404", "NotFound"})
PRECONDITION = frozenset({"PreconditionFailed", "412"})
#: Two writers of one key at the same time: S3 asks to begin the write again.
CONFLICT = frozenset({"ConditionalRequestConflict", "OperationAborted", "NoSuchUpload"})
#: The server received other bytes than those that were sent.
TAMPERED = frozenset({"BadDigest", "XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch", "InvalidDigest"})

_PASSING = frozenset(
    {
        *("SlowDown", "RequestTimeout", "RequestTimeoutException", "InternalError", "ServiceUnavailable"),
        *("Throttling", "ThrottlingException", "TooManyRequests", "RequestLimitExceeded", "BandwidthLimitExceeded"),
        *("IncompleteBody", *TAMPERED),
    }
)
_NO_CREDENTIALS = (
    botocore.NoCredentialsError,
    botocore.PartialCredentialsError,
    botocore.CredentialRetrievalError,
    botocore.TokenRetrievalError,
    botocore.ProfileNotFound,
)
_NO_ANSWER = (
    *(botocore.HTTPClientError, botocore.ConnectionError, botocore.IncompleteReadError, ResponseParserError),
    *(HTTPError, ConnectionError, TimeoutError),
)
#: An answer of the server that no code in ``_MEANING`` stands for, by its HTTP status.
_STATUS = {"400": "BadRequest", "401": "AccessDenied", "403": "AccessDenied", "301": "PermanentRedirect"}

_RIGHTS = (
    "they need s3:GetObject, s3:PutObject, s3:AbortMultipartUpload, s3:ListBucket and s3:ListBucketMultipartUploads "
    "(without s3:ListBucket S3 says this of a key that is not there as well)"
)
_REGION = "the bucket is in another region{region}: set `region` of the block to it"

#: Code of the server: what it is for our callers, and what to do about it.
_MEANING: dict[str, tuple[type[StoreUnavailable], str]] = {
    "NoSuchBucket": (
        StoreNotFound,
        "the bucket does not exist: correct `bucket` or `endpoint_url`, or make the bucket",
    ),
    "InvalidBucketName": (StoreNotFound, "no bucket can have this name: correct `bucket`"),
    "AccessDenied": (AccessRefused, f"the credentials have no right to: {_RIGHTS}"),
    "AllAccessDisabled": (AccessRefused, "all access to this bucket is disabled"),
    "SignatureDoesNotMatch": (AccessRefused, "the secret access key is not the one of this access key id"),
    "InvalidAccessKeyId": (AccessRefused, "the server does not know this access key id"),
    "ExpiredToken": (AccessRefused, "the session token has expired: get new credentials"),
    "InvalidToken": (AccessRefused, "the session token is not valid: get new credentials"),
    "RequestTimeTooSkewed": (ClockSkew, "the clocks differ too much ({clocks}): set this machine's clock, by NTP"),
    "PermanentRedirect": (StoreUnavailable, _REGION),
    "AuthorizationHeaderMalformed": (StoreUnavailable, _REGION),
    "NotImplemented": (NoConditionalWrites, "the server does not know what it was asked for"),
    "EntityTooLarge": (StoreUnavailable, "the blob is larger than the server takes"),
    "InvalidArgument": (
        StoreUnavailable,
        "the server refused an argument; if it is about encryption, see `kms_key_id`",
    ),
    "QuotaExceeded": (StoreUnavailable, "the quota of the bucket is used up"),
}


def code_of(error: BaseException) -> str:
    """The server's word for the failure, such as ``NoSuchKey``; its HTTP status where it gave none; else ''."""
    if not isinstance(error, botocore.ClientError):
        return ""
    return str(error.response.get("Error", {}).get("Code", ""))


def _status_of(error: BaseException) -> int:
    if not isinstance(error, botocore.ClientError):
        return 0
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def is_passing(error: BaseException) -> bool:
    """Whether the same request may succeed later: no answer, half an answer, or "not now"."""
    if isinstance(error, botocore.ClientError):
        status, code = _status_of(error), code_of(error)
        return code in _PASSING or status == 429 or (status >= 500 and code not in _MEANING)
    return isinstance(error, _NO_ANSWER) and not isinstance(error, botocore.SSLError)


def said(answer: Mapping[str, Any], name: str) -> Any:
    """A part of an answer; an answer that broke off within its head may lack it, and is worth another try.

    Raises:
        IncompleteReadError: it does.
    """
    if name not in answer:
        raise botocore.IncompleteReadError(actual_bytes=0, expected_bytes=1)
    return answer[name]


def reason(error: BaseException) -> str:
    """A failure in a few words, bounded."""
    if isinstance(error, botocore.ClientError):
        words = str(error.response.get("Error", {}).get("Message", ""))
        return f"the server answers {_status_of(error)} {code_of(error)}: {words}"[:300].rstrip(": ")
    return (str(error) or type(error).__name__)[:300]


def explain(error: BaseException, what: str, waited_s: float | None = None) -> StoreUnavailable:
    """The error for people; ``what`` says what was tried: "cannot read 'a' in S3 store ..."."""
    if waited_s is not None:
        return StoreUnreachable(f"{what}: no success within {waited_s:g} s: {reason(error)}")
    if isinstance(error, _NO_CREDENTIALS):
        return AccessRefused(
            f"{what}: no credentials ({reason(error)}); set `access_key_id` and `secret_access_key` of the block, or "
            "give this process some by the standard chain: AWS_ACCESS_KEY_ID ..., ~/.aws, a role of the machine"
        )
    if isinstance(error, botocore.SSLError):
        return StoreUnavailable(
            f"{what}: {reason(error)}; if the server has a certificate of your own authority, name that authority's "
            "file in `ca_bundle` of the block"
        )
    code = code_of(error)
    kind, hint = _MEANING.get(_STATUS.get(code, code), (StoreUnavailable, ""))
    if code.startswith("KMS"):
        kind, hint = AccessRefused, "see `kms_key_id` and the rights to use that key"
    told = hint.format(region=_region(error), clocks=_clocks(error)) if hint else ""
    return kind("; ".join(part for part in (f"{what}: {reason(error)}", told) if part))


def _headers(error: BaseException) -> dict[str, Any]:
    if not isinstance(error, botocore.ClientError):
        return {}
    return dict(error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {}))


def _region(error: BaseException) -> str:
    found = _headers(error).get("x-amz-bucket-region", "")
    return f", {found}" if found else ""


def _clocks(error: BaseException) -> str:
    here = f"{datetime.now(UTC):%a, %d %b %Y %H:%M:%S} GMT"
    return f"here {here}, the server {_headers(error).get('date', 'does not say')}"
