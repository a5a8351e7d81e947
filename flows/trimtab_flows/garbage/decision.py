"""What is needed, what is not, and how old: which files go. Pure.

Needed is what a root names, and what that was made from. Roots: registered model versions, manifests, the catalog, and
rules that say that something must be kept. What is not needed stays all the same until it is older than the grace, by
when it was written and by when it was last used: a run may just be about to record it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

__all__ = ["Doomed", "Fact", "Verdict", "judge", "needed"]


@dataclass(frozen=True)
class Fact:
    """A snapshot. ``live`` is the file that its descriptor names (None: there is no descriptor), ``others`` are files
    that nothing names, each with its bytes and when it was written.
    """

    digest: str
    live: str | None
    live_bytes: int
    touched_at: datetime
    others: tuple[tuple[str, int, datetime], ...] = ()


@dataclass(frozen=True)
class Doomed:
    """What goes: a whole snapshot, or (``whole`` is false) a file that no snapshot consists of."""

    digest: str
    keys: tuple[str, ...]
    bytes: int
    whole: bool


@dataclass(frozen=True)
class Verdict:
    """What goes; of the rest, how many are kept and by what: the kind of root, or ``too young``."""

    doomed: tuple[Doomed, ...]
    kept: tuple[tuple[str, int], ...]

    @property
    def bytes(self) -> int:
        return sum(one.bytes for one in self.doomed)


def needed(roots: Mapping[str, str], edges: Iterable[tuple[str, tuple[str, ...]]]) -> dict[str, str]:
    """Every node that a root is, or was made from, with the reason of the first root that leads there.

    Args:
        roots: node -> why it is needed.
        edges: (output, inputs).
    """
    inputs: dict[str, list[str]] = {}
    for output, sources in edges:
        inputs.setdefault(output, []).extend(sources)
    found: dict[str, str] = {}
    waiting = list(roots.items())[::-1]
    while waiting:
        node, why = waiting.pop()
        if node not in found:
            found[node] = why
            waiting += [(source, why) for source in inputs.get(node, ())]
    return found


def judge(facts: Iterable[Fact], kept_by: Mapping[str, str], now: datetime, grace: timedelta) -> Verdict:
    """Which of them go.

    Args:
        facts: all snapshots.
        kept_by: digest -> why it is needed (``needed``).
        grace: what was written or used since then stays.
    """
    doomed: list[Doomed] = []
    kept: dict[str, int] = {}
    limit = now - grace
    for fact in sorted(facts, key=lambda fact: fact.digest):
        strays = [(key, size) for key, size, written_at in fact.others if written_at < limit]
        if fact.live is not None:
            if fact.digest not in kept_by and fact.touched_at < limit:
                doomed.append(Doomed(fact.digest, (fact.live,), fact.live_bytes, whole=True))
            else:
                why = kept_by.get(fact.digest, "too young")
                kept[why] = kept.get(why, 0) + 1
        if strays:
            keys, sizes = zip(*strays, strict=True)
            doomed.append(Doomed(fact.digest, keys, sum(sizes), whole=False))
    return Verdict(tuple(doomed), tuple(sorted(kept.items())))
