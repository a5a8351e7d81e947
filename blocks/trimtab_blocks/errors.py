"""What can go wrong with a store, in sentences for people.

StoreError
├── BlobNotFound (KeyError)               nothing is stored under this key
├── InvalidKey (ValueError)               the key cannot name a blob in any store
├── CorruptBlob (ValueError)              what is stored is not what was written
└── StoreUnavailable (OSError)            the store itself cannot be read or written
    ├── StoreNotFound (LookupError)       the bucket does not exist
    ├── AccessRefused (PermissionError)   wrong credentials, or no right to do this
    ├── ClockSkew                         this machine's clock and the server's differ too much
    ├── StoreUnreachable (ConnectionError)  no answer, or only excuses, until the patience ran out
    └── NoConditionalWrites               the server overwrites what it was told to keep
"""

from __future__ import annotations

__all__ = [
    "AccessRefused",
    "BlobNotFound",
    "ClockSkew",
    "CorruptBlob",
    "InvalidKey",
    "NoConditionalWrites",
    "StoreError",
    "StoreNotFound",
    "StoreUnavailable",
    "StoreUnreachable",
]


class StoreError(Exception):
    """Something about a store or a key in it; the message is the only argument."""

    def __str__(self) -> str:
        return str(self.args[0]) if len(self.args) == 1 else super().__str__()


class BlobNotFound(StoreError, KeyError):
    """Nothing is stored under this key."""

    def __init__(self, key: str, store: object) -> None:
        self.key = key
        super().__init__(f"nothing is stored under {key!r} in {store}")


class InvalidKey(StoreError, ValueError):
    """The key cannot name a blob in any store."""


class CorruptBlob(StoreError, ValueError):
    """What is stored under a key is not what was written there."""

    def __init__(self, key: str, store: object, reason: str) -> None:
        self.key, self.reason = key, reason
        super().__init__(
            f"the blob {key!r} in {store} is not what was written and was not used: {reason}; "
            "restore it from a copy, or remove it there and make it again"
        )


class StoreUnavailable(StoreError, OSError):
    """The store itself cannot be read or written."""


class StoreNotFound(StoreUnavailable, LookupError):
    """The bucket does not exist."""


class AccessRefused(StoreUnavailable, PermissionError):
    """The server does not know these credentials, or they lack a right."""


class ClockSkew(StoreUnavailable):
    """This machine's clock and the server's differ too much for a signed request."""


class StoreUnreachable(StoreUnavailable, ConnectionError):
    """The server gave no answer, or none that can be used, for as long as the store was told to wait."""


class NoConditionalWrites(StoreUnavailable):
    """The server overwrites an object that it was told to keep, so nothing can be written once on it."""
