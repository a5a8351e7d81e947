"""Which snapshot stands for which window of which table: an append-only list of immutable entries in the store.

A window that is ingested again (rows mended, a late correction) gets a new entry; the newest one counts, the earlier
ones stay. Newest is what was recorded last: each entry has a number of its own, which its writer takes in the store and
only one can take. Clocks of writers do not count; those differ.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime

from trimtab_blocks.stores import Store
from trimtab_flows.windows import Window

__all__ = ["Catalog", "Entry", "NotIngested"]


#: Begins the names of numbered entries. Those of before had the time of their writer alone, and sort before them.
_NUMBERED = "n"


class NotIngested(LookupError):
    """A window of a table that nothing was recorded for."""


@dataclass(frozen=True)
class Entry:
    """The snapshot of one window of one table: its rows, those held back from it, the model that made it, if any."""

    subject: str
    table: str
    window: str
    digest: str
    rows: int
    recorded_at: str
    flow_run_id: str | None = None
    made_by: str | None = None
    quarantined: int = 0


class Catalog:
    """Entries of one subject (a recipe's name), by table and window.

    Args:
        now: the writer's clock, for people; it orders nothing.
    """

    def __init__(self, store: Store, subject: str, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.store = store
        self.subject = subject
        self._now = now

    def record(
        self,
        table: str,
        window: Window,
        digest: str,
        rows: int,
        flow_run_id: str | None = None,
        made_by: str | None = None,
        quarantined: int = 0,
    ) -> Entry:
        """Make ``digest`` the snapshot that counts for this window. Recording the same one again changes nothing."""
        now = self._now()
        entry = Entry(
            self.subject, table, window.label, digest, rows, now.isoformat(), flow_run_id, made_by, quarantined
        )
        newest = self.find(table, window)
        if newest is not None and newest == replace(
            entry, recorded_at=newest.recorded_at, flow_run_id=newest.flow_run_id
        ):
            return newest
        number = self._take_number(table, window)
        key = f"{self._prefix(table, window)}{_NUMBERED}{number:012d}-{now:%Y%m%dT%H%M%S%f}-{digest[:12]}.json"
        self.store.write_once(key, json.dumps(asdict(entry), indent=1).encode())
        return entry

    def find(self, table: str, window: Window) -> Entry | None:
        """The entry that counts for this window, or None."""
        history = self.history(table, window)
        return history[-1] if history else None

    def get(self, table: str, window: Window) -> Entry:
        """The entry that counts for this window.

        Raises:
            NotIngested: there is none.
        """
        entry = self.find(table, window)
        if entry is None:
            raise NotIngested(
                f"{self.subject}: no {table} of {window} in the store; run the ingest deployment for this window first"
            )
        return entry

    def history(self, table: str, window: Window) -> list[Entry]:
        """All entries of this window, oldest first."""
        return [self._read(key) for key in self.store.keys(self._prefix(table, window))]

    def _take_number(self, table: str, window: Window) -> int:
        """The next number of this window; taken for good, also if the entry is never written."""
        number = max((_number_of(key) for key in self.store.keys(self._prefix(table, window))), default=0) + 1
        while not self.store.write_once(f"catalog-numbers/{self._place(table, window)}{number:012d}", b"taken"):
            number += 1
        return number

    def _read(self, key: str) -> Entry:
        return Entry(**json.loads(self.store.read(key)))

    def _prefix(self, table: str, window: Window) -> str:
        return f"catalog/{self._place(table, window)}"

    def _place(self, table: str, window: Window) -> str:
        return f"{self.subject}/{table}/{window.label}/"


def _number_of(key: str) -> int:
    """0 of an entry without one."""
    name = key.rpartition("/")[2]
    return int(name.partition("-")[0].removeprefix(_NUMBERED)) if name.startswith(_NUMBERED) else 0
