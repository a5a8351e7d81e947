"""Which snapshot stands for which window of which table: an append-only list of immutable entries in the store.

A window that is ingested again (rows mended, a late correction) gets a new entry; the newest one counts, the earlier
ones stay.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime

from trimtab_blocks.stores import Store
from trimtab_flows.windows import Window

__all__ = ["Catalog", "Entry", "NotIngested"]


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
    """Entries of one subject (a recipe's name), by table and window."""

    def __init__(self, store: Store, subject: str) -> None:
        self.store = store
        self.subject = subject

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
        now = datetime.now(UTC)
        entry = Entry(
            self.subject, table, window.label, digest, rows, now.isoformat(), flow_run_id, made_by, quarantined
        )
        newest = self.find(table, window)
        if newest is not None and newest == replace(
            entry, recorded_at=newest.recorded_at, flow_run_id=newest.flow_run_id
        ):
            return newest
        key = f"{self._prefix(table, window)}{now:%Y%m%dT%H%M%S%f}-{digest[:12]}.json"
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

    def _read(self, key: str) -> Entry:
        return Entry(**json.loads(self.store.read(key)))

    def _prefix(self, table: str, window: Window) -> str:
        return f"catalog/{self.subject}/{table}/{window.label}/"
