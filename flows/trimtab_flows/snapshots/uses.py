"""When each snapshot was last used: one empty blob a day and snapshot, which is cheap, and whole whoever dies.

    used/<day>/<digest>

Whoever reads a snapshot, or relies on one that is there already, marks it first. Garbage collection looks for marks
after it has made a snapshot unreachable, so one of the two always sees the other (``garbage.removing``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from trimtab_blocks.stores import Store

__all__ = ["LastUse", "Uses"]

_PREFIX = "used/"
#: Marks that this process has set today: (store, day, digest).
_set_already: set[tuple[str, date, str]] = set()


@dataclass(frozen=True)
class LastUse:
    """The last day (UTC) a snapshot was used on, and on how many days of the last 90 it was."""

    day: date
    days_of_90: int


class Uses:
    """The marks in a store."""

    def __init__(self, store: Store, today: Callable[[], date] = lambda: datetime.now(UTC).date()) -> None:
        self.store = store
        self._today = today

    def mark(self, digest: str) -> None:
        """This snapshot is used today."""
        day = self._today()
        entry = (str(self.store), day, digest)
        if entry in _set_already:
            return
        self.store.write_once(_key(day, digest), b"")
        _set_already.difference_update([old for old in _set_already if old[1] < day])
        _set_already.add(entry)

    def all(self) -> dict[str, list[date]]:
        """Days on which each snapshot was used, oldest first."""
        found: dict[str, list[date]] = {}
        for key in self.store.keys(_PREFIX):
            _, day, digest = key.split("/")
            found.setdefault(digest, []).append(date.fromisoformat(day))
        return found

    def last(self) -> dict[str, LastUse]:
        """The last use of each snapshot that was ever used."""
        since = self._today() - timedelta(days=90)
        return {digest: LastUse(days[-1], sum(1 for day in days if day > since)) for digest, days in self.all().items()}

    def used_since(self, digest: str, day: date) -> bool:
        """Whether the snapshot was used on this day or later; asked of the store, each day until tomorrow."""
        days = (self._today() - day).days + 1  # a clock ahead of this one may have tomorrow already
        return any(self.store.exists(_key(day + timedelta(days=later), digest)) for later in range(days + 1))

    def forget(self, marks: Iterable[tuple[str, date]]) -> None:
        """Remove marks."""
        for digest, day in marks:
            self.store.remove(_key(day, digest))


def _key(day: date, digest: str) -> str:
    return f"{_PREFIX}{day.isoformat()}/{digest}"
