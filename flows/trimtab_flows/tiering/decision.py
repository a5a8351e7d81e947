"""Which snapshots move to which tier, which go, what that saves and why. Pure.

A snapshot may lie where the rules of all its tables allow it, and where it lies already. Of those tiers it goes to the
one that costs least over the policy's horizon: keeping it, reading it as often as it was read lately, and the move
itself, with what the tier it leaves charges for leaving early. A draw goes to the tier that is dearer to keep.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from trimtab_blocks.tiering_rules import DataRule, StorageTier, TieringRules

__all__ = ["DELETE", "Fetching", "Move", "Plan", "Stored", "decide", "fetching", "retained"]

DELETE = "delete"
_GIB = 2**30
_MONTH_DAYS = 365.25 / 12


@dataclass(frozen=True)
class Stored:
    """A snapshot as it lies now.

    Attributes:
        tier: where its data is; ``since`` when it came there.
        made_at: when the snapshot was made; ``used_at``: when it was last used, or made.
        reads_per_month: on how many days of a month it was used, lately.
        tables: (subject, table) of each entry of the catalog that names it.
        needed_by: what needs it beside the catalog, in words; "": nothing.
    """

    digest: str
    bytes: int
    tier: str
    since: datetime
    made_at: datetime
    used_at: datetime
    reads_per_month: float = 0.0
    tables: tuple[tuple[str, str], ...] = ()
    needed_by: str = ""


@dataclass(frozen=True)
class Move:
    """A snapshot goes to another tier, or to ``delete``. Money is in the policy's currency."""

    digest: str
    bytes: int
    source: str
    target: str
    saves_month: float
    costs_once: float
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """Moves, the largest saving first; what deletion spares, and why; the cost of a month before and after."""

    moves: tuple[Move, ...]
    spared: tuple[tuple[str, str], ...]
    month_before: float
    month_after: float
    costs_once: float
    snapshots: int

    @property
    def saves_month(self) -> float:
        return self.month_before - self.month_after


def decide(stored: Iterable[Stored], policy: TieringRules, now: datetime) -> Plan:
    """The plan for everything that is stored."""
    moves: list[Move] = []
    spared: list[tuple[str, str]] = []
    before = after = 0.0
    count = 0
    for one in sorted(stored, key=lambda one: one.digest):
        count += 1
        monthly = _month(one, policy.tier(one.tier))
        before += monthly
        move, why_kept = _delete(one, policy, now, monthly)
        if why_kept:
            spared.append((one.digest, why_kept))
        move = move or _move(one, policy, now)
        after += monthly - (move.saves_month if move else 0.0)
        if move:
            moves.append(move)
    moves.sort(key=lambda move: (-move.saves_month, move.digest))
    return Plan(tuple(moves), tuple(spared), before, after, sum(move.costs_once for move in moves), count)


def retained(one: Stored, policy: TieringRules, now: datetime) -> str:
    """Which rule says that this must be kept, in words; "": none."""
    for rule in _rules(one, policy):
        if rule.hold:
            return f"held: {rule.why}"
        if rule.keep_days is not None and now < one.made_at + timedelta(days=rule.keep_days):
            return f"kept until {one.made_at + timedelta(days=rule.keep_days):%Y-%m-%d}: {rule.why}"
    return ""


@dataclass(frozen=True)
class Fetching:
    """What reading colder data would cost and take, told before it is done."""

    bytes: int
    price: float
    seconds: float
    tiers: tuple[str, ...]
    snapshots: int


def fetching(wanted: Iterable[tuple[str, int]], policy: TieringRules) -> Fetching:
    """The price and time of reading (tier, bytes) of each snapshot, one after another; hot ones count nothing."""
    colder = [(policy.tier(name), size) for name, size in wanted if name != "hot"]
    return Fetching(
        sum(size for _, size in colder),
        sum(tier.gib_read * size / _GIB for tier, size in colder),
        sum(tier.wait_s + tier.gib_s * size / _GIB for tier, size in colder),
        tuple(dict.fromkeys(str(tier.name) for tier, _ in colder)),
        len(colder),
    )


def _rules(one: Stored, policy: TieringRules) -> list[DataRule]:
    return [policy.rule_for(subject, table) for subject, table in one.tables or (("", ""),)]


def _strictest(days: Iterable[int | None]) -> int | None:
    """The longest of them; None: one of the rules does not allow it at all."""
    found = list(days)
    return None if None in found else max(day for day in found if day is not None)


def _idle_days(one: Stored, now: datetime) -> float:
    return (now - max(one.used_at, one.made_at)) / timedelta(days=1)


def _delete(one: Stored, policy: TieringRules, now: datetime, monthly: float) -> tuple[Move | None, str]:
    """The deletion; or, of one that is due, why it does not happen."""
    after = _strictest(rule.delete_after_days for rule in _rules(one, policy))
    if after is None or _idle_days(one, now) < after:
        return None, ""
    why_kept = retained(one, policy, now) or (f"needed by {one.needed_by}" if one.needed_by else "")
    if why_kept:
        return None, why_kept
    reason = f"unused for {_idle_days(one, now):.0f} days; goes after {after}, and nothing but the catalog needs it"
    early = _leaving_early(one, policy.tier(one.tier), now)
    return Move(one.digest, one.bytes, one.tier, DELETE, monthly, early, (reason,)), ""


def _move(one: Stored, policy: TieringRules, now: datetime) -> Move | None:
    here = policy.tier(one.tier)
    best = min(
        _allowed(one, policy, now),
        key=lambda tier: (round(_total(one, here, tier, policy, now), 12), _place(tier, policy)),
    )
    if best == here:
        return None
    saves = _month(one, here) - _month(one, best)
    once = _total(one, here, best, policy, now) - policy.horizon_months * _month(one, best)
    reasons = [f"unused for {_idle_days(one, now):.0f} days", f"read on {one.reads_per_month:.1f} days a month"]
    pays = once / saves if saves > 0 else 0.0
    reasons.append(f"pays after {pays:.1f} months" if once else "costs nothing to move")
    return Move(one.digest, one.bytes, one.tier, best.name, saves, once, tuple(reasons))


def _allowed(one: Stored, policy: TieringRules, now: datetime) -> list[StorageTier]:
    rules = _rules(one, policy)
    idle = _idle_days(one, now)
    limits = {
        "warm": _strictest(rule.warm_after_days for rule in rules),
        "cold": _strictest(rule.cold_after_days for rule in rules),
    }
    due = {name for name, after in limits.items() if after is not None and idle >= after}
    return [tier for tier in policy.tiers if tier.name == "hot" or tier.name in due or tier.name == one.tier]


def _place(tier: StorageTier, policy: TieringRules) -> int:
    return policy.tiers.index(tier)


def _month(one: Stored, tier: StorageTier) -> float:
    """Keeping it for a month, and reading it as often as lately."""
    return (tier.gib_month + tier.gib_read * one.reads_per_month) * one.bytes / _GIB


def _total(one: Stored, here: StorageTier, there: StorageTier, policy: TieringRules, now: datetime) -> float:
    """Over the horizon, with the move."""
    moving = 0.0
    if there != here:
        moving = (here.gib_read + there.gib_write) * one.bytes / _GIB + _leaving_early(one, here, now)
    return policy.horizon_months * _month(one, there) + moving


def _leaving_early(one: Stored, here: StorageTier, now: datetime) -> float:
    left_days = max(0.0, here.min_days - (now - one.since) / timedelta(days=1))
    return here.gib_month * left_days / _MONTH_DAYS * one.bytes / _GIB
