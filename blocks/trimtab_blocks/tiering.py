"""The tiering policy as a Prefect block, and the stores that it names."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from prefect.blocks.core import Block
from pydantic import Field

from trimtab_blocks.s3 import S3Store
from trimtab_blocks.stores import DirectoryStore, Store
from trimtab_blocks.tiered import Fetch, TieredStore
from trimtab_blocks.tiering_rules import TieringRules

__all__ = ["TieringPolicy", "UnknownTierStore"]

_KINDS: dict[str, type[Block]] = {kind.get_block_type_slug(): kind for kind in (DirectoryStore, S3Store)}


class UnknownTierStore(LookupError):
    """A policy names a block that is not there, or is no store."""


class TieringPolicy(Block):
    """When data may lie in colder storage, what that saves, and what must be kept."""

    _block_type_name: ClassVar[str] = "Trimtab tiering policy"
    _block_type_slug: ClassVar[str] = "trimtab-tiering-policy"
    _description: ClassVar[str] = "When data may move to colder storage or go, what that saves, and what must be kept."

    rules: TieringRules = Field(description="Tiers with their prices, and rules by recipe and table.")

    def over(self, hot: Store, before_fetch: Callable[[Fetch], object]) -> TieredStore:
        """The store with this policy's colder tiers behind it; the tier that is cheapest to keep is looked in last.

        Raises:
            UnknownTierStore: a tier's block is not there.
        """
        colder = {tier.name: _load(tier.store or "") for tier in self.rules.tiers if tier.name != "hot"}
        return TieredStore(hot, {str(name): store for name, store in colder.items()}, before_fetch)


def _load(name: str) -> Store:
    slug, _, document = name.partition("/")
    if slug not in _KINDS:
        raise UnknownTierStore(
            f"the tiering policy names {name!r}; a tier's store is one of {', '.join(_KINDS)}, /NAME"
        )
    try:
        store = _KINDS[slug].load(document)
    except ValueError as error:
        raise UnknownTierStore(
            f"the tiering policy names the block {name}, which is not there: save it first"
        ) from error
    assert isinstance(store, Store)
    return store
