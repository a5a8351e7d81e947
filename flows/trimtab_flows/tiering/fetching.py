"""What colder data costs and how long it takes, told before it is fetched; too dear a fetch is refused."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from prefect import get_run_logger
from prefect.exceptions import MissingContextError

from trimtab_blocks.keys import digest_of
from trimtab_blocks.tiered import HOT, Fetch, TieredStore
from trimtab_blocks.tiering_rules import TieringRules
from trimtab_flows.snapshots.library import SnapshotLibrary
from trimtab_flows.tiering.decision import Fetching, fetching

__all__ = ["Teller", "TooDear", "quote", "say", "tell"]


class TooDear(PermissionError):
    """Fetching costs more than the policy lets a run spend."""


def quote(store: TieredStore, policy: TieringRules, digests: Iterable[str]) -> Fetching:
    """Price and time of reading these snapshots. Nothing of them is read.

    Raises:
        SnapshotNotFound, InvalidDigest: one of them is not there.
    """
    library = SnapshotLibrary(store)
    wanted = []
    for digest in dict.fromkeys(digests):
        tier = store.tier_of(library.file_of(digest)) or HOT
        wanted.append((tier, library.describe(digest).bytes))
    return fetching(wanted, policy)


def say(found: Fetching, policy: TieringRules) -> str:
    """The price as a sentence."""
    size = f"{found.bytes / 2**30:.2f} GiB" if found.bytes >= 2**27 else f"{found.bytes / 2**20:.1f} MiB"
    return (
        f"{found.snapshots} of the snapshots ({size}) lie {' and '.join(found.tiers)}: fetching them costs about "
        f"{found.price:.4f} {policy.currency} and takes about {found.seconds:.0f} s"
    )


def tell(found: Fetching, policy: TieringRules) -> None:
    """Say it in the run's log.

    Raises:
        TooDear: it costs more than the policy's ``fetch_limit``.
    """
    if not found.snapshots:
        return
    _logger().warning("%s", say(found, policy))
    if policy.fetch_limit is not None and found.price > policy.fetch_limit:
        raise TooDear(
            f"{say(found, policy)}; the tiering policy lets a run spend {policy.fetch_limit:g} {policy.currency}: "
            "raise its fetch_limit, or bring the data back first (trimtab data fetch)"
        )


class Teller:
    """Tells the price of fetches: of many together where that is known before, else of each."""

    def __init__(self, policy: TieringRules) -> None:
        self._policy = policy
        self._told: set[str] = set()

    def before(self, store: TieredStore, digests: Iterable[str]) -> None:
        """These are about to be read. Raises TooDear, and as ``quote``."""
        wanted = list(digests)
        tell(quote(store, self._policy, wanted), self._policy)
        self._told.update(wanted)

    def __call__(self, fetch: Fetch) -> None:
        """This blob is about to be read. Raises TooDear."""
        if digest_of(fetch.key) not in self._told:
            tell(fetching([(fetch.tier, fetch.bytes)], self._policy), self._policy)


def _logger() -> logging.Logger | logging.LoggerAdapter[logging.Logger]:
    try:
        return get_run_logger()
    except MissingContextError:
        return logging.getLogger("trimtab.tiering")
