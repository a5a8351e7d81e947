"""What a tiering policy consists of: the tiers with their prices, and rules by recipe and table. Values, checked."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

__all__ = ["DataRule", "StorageTier", "TierName", "TieringRules"]

TierName = Literal["hot", "warm", "cold"]
_ORDER: tuple[TierName, ...] = ("hot", "warm", "cold")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StorageTier(_Strict):
    """A tier: where it is, and what it costs. Prices are in the policy's currency."""

    name: TierName
    store: str | None = Field(
        default=None,
        description="Block of the store, like trimtab-s3-store/cold; the hot tier is the flows' own store.",
    )
    gib_month: float = Field(ge=0, description="Keeping a GiB for a month.")
    gib_read: float = Field(default=0, ge=0, description="Reading a GiB.")
    gib_write: float = Field(default=0, ge=0, description="Bringing a GiB in.")
    min_days: int = Field(default=0, ge=0, description="Days that are paid for, even if data leaves earlier.")
    wait_s: float = Field(default=0, ge=0, description="Seconds until the first byte of a read comes.")
    gib_s: float = Field(default=0, ge=0, description="Seconds that a GiB takes to read.")


class DataRule(_Strict):
    """What may be done with the snapshots of some tables of some recipes. Days count from the last use."""

    subject: str = Field(default="*", description="Name of the recipe; * and ? stand for any characters.")
    table: str = Field(default="*", description="Name in the catalog: features, predictions, raw.flights ...")
    warm_after_days: int | None = Field(default=None, ge=0, description="May be warm when unused for so long.")
    cold_after_days: int | None = Field(default=None, ge=0, description="May be cold when unused for so long.")
    delete_after_days: int | None = Field(
        default=None, ge=1, description="Goes when unused for so long and nothing but the catalog needs it."
    )
    keep_days: int | None = Field(default=None, ge=1, description="Must be kept so long after it was made.")
    hold: bool = Field(default=False, description="Must be kept until this is taken away (a legal hold).")
    why: str = Field(default="", description="The law or the contract behind keep_days or hold.")

    @model_validator(mode="after")
    def _fits_together(self) -> DataRule:
        if (self.keep_days is not None or self.hold) and not self.why:
            raise ValueError("keep_days and hold need a `why`: the law or the contract that asks for it")
        return self

    def matches(self, subject: str, table: str) -> bool:
        """Whether this rule is about a table."""
        return fnmatchcase(subject, self.subject) and fnmatchcase(table, self.table)


class TieringRules(_Strict):
    """Tiers, and rules in order: the first that matches a table counts."""

    currency: str = Field(default="USD", min_length=1, max_length=8)
    tiers: tuple[StorageTier, ...]
    rules: tuple[DataRule, ...] = ()
    horizon_months: int = Field(default=12, ge=1, le=120, description="Months in which a move must have paid.")
    fetch_limit: float | None = Field(
        default=None, ge=0, description="A run that would fetch colder data for more than this is refused."
    )

    @field_validator("tiers")
    @classmethod
    def _are_tiers(cls, tiers: tuple[StorageTier, ...]) -> tuple[StorageTier, ...]:
        names = [tier.name for tier in tiers]
        if "hot" not in names or names != [name for name in _ORDER if name in names]:
            raise ValueError(
                f"tiers must be hot first, then warm, cold, each once at most; they are {', '.join(names)}"
            )
        for tier in tiers:
            if tier.name == "hot" and tier.store is not None:
                raise ValueError("the hot tier has no `store`: it is the store that the flows use")
            if tier.name != "hot" and (tier.store is None or tier.store.count("/") != 1):
                raise ValueError(f"tier {tier.name} needs a `store`, like trimtab-s3-store/{tier.name}")
        return tiers

    def tier(self, name: str) -> StorageTier:
        """The tier of this name. Raises KeyError if there is none."""
        for tier in self.tiers:
            if tier.name == name:
                return tier
        raise KeyError(name)

    def rule_for(self, subject: str, table: str) -> DataRule:
        """The rule that counts; one that allows nothing, where none matches."""
        return next((rule for rule in self.rules if rule.matches(subject, table)), DataRule())
