"""The ledger: a SQLite file that says which points are known, which events wait, and which Prefect has stored.

Every step is one transaction, so that a kill at any place leaves either the step before or the step after. Known points
are kept for good, as 16 bytes each: it is they that make a point one event however often it is noticed.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab_infra.metric_events.events import Event, Noted
from trimtab_infra.metric_events.points import Point

__all__ = ["Counts", "Ledger", "Outgoing"]

_TABLES = """
CREATE TABLE IF NOT EXISTS known (id BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS latest (
    run_id TEXT, key TEXT, step INTEGER, timestamp_ms INTEGER, PRIMARY KEY (run_id, key)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS pending (
    seq INTEGER PRIMARY KEY, run_id TEXT, body TEXT, source TEXT, noticed_ms INTEGER, out_of_order INTEGER);
CREATE TABLE IF NOT EXISTS outgoing (
    seq INTEGER PRIMARY KEY, id TEXT UNIQUE, body TEXT, points INTEGER, look_first INTEGER, sent_ms INTEGER);
CREATE TABLE IF NOT EXISTS refused (id TEXT PRIMARY KEY, body TEXT, reason TEXT);
CREATE TABLE IF NOT EXISTS cursors (name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS counts (name TEXT PRIMARY KEY, value INTEGER) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class Outgoing:
    """An event on its way; ``sent_ms`` is None until it was sent, ``look_first`` if Prefect may have it already."""

    id: str
    body: dict[str, Any]
    points: int
    look_first: bool
    sent_ms: int | None


@dataclass(frozen=True)
class Counts:
    """Of points but for ``events``: known = waiting + on_the_way + stored + refused + skipped."""

    known: int = 0
    waiting: int = 0
    on_the_way: int = 0
    stored: int = 0
    refused: int = 0
    skipped: int = 0
    events: int = 0


class Ledger:
    """One process has it open at a time (the sender holds a lock).

    Args:
        path: the file; made if it is not there.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.is_new = not path.exists()
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        # In WAL mode NORMAL loses at most the last transactions in a power cut, and never consistency: the points are
        # then read again from the outbox or found by the reconciler, with the same ids.
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.executescript(_TABLES)

    def close(self) -> None:
        self._db.close()

    def notice(
        self,
        points: Iterable[Point],
        source: str,
        now_ms: int,
        cursor: tuple[str, str] | None = None,
        skip: bool = False,
    ) -> int:
        """Take in the points that are new; returns how many were. The cursor moves in the same transaction.

        Args:
            skip: know them, and tell nobody: what was there before the ledger.
        """
        with self._transaction():
            new = [self._out_of_order(point) for point in points if self._learn(point)]
            if skip:
                self._count("skipped", len(new))
            else:
                self._db.executemany(
                    "INSERT INTO pending (run_id, body, source, noticed_ms, out_of_order) VALUES (?, ?, ?, ?, ?)",
                    [(point.run_id, point.to_json(), source, now_ms, late) for point, late in new],
                )
            self._count("known", len(new))
            if cursor:
                self._set_cursor(*cursor)
        return len(new)

    def waiting(self, limit: int) -> list[tuple[int, Noted]]:
        """Points that no event tells of yet, by their place, oldest first."""
        rows = self._db.execute(
            "SELECT seq, body, source, noticed_ms, out_of_order FROM pending ORDER BY seq LIMIT ?", (limit,)
        )
        return [(seq, Noted(Point.from_json(body), source, at, bool(late))) for seq, body, source, at, late in rows]

    def group(self, places: Sequence[int], events: Sequence[Event], look_first: bool) -> None:
        """Replace waiting points by the events that tell of them: decided once, so that a repeat is the same event."""
        with self._transaction():
            self._db.executemany("DELETE FROM pending WHERE seq = ?", [(place,) for place in places])
            self._db.executemany(
                "INSERT OR IGNORE INTO outgoing (id, body, points, look_first) VALUES (?, ?, ?, ?)",
                [(str(event.id), json.dumps(event.body), event.points, look_first) for event in events],
            )

    def unsent(self, limit: int) -> list[Outgoing]:
        """Events to be sent, oldest first."""
        return self._outgoing("sent_ms IS NULL ORDER BY seq LIMIT ?", limit)

    def sent_before(self, before_ms: int, limit: int) -> list[Outgoing]:
        """Events sent before a time that Prefect has not been seen to store, oldest first."""
        return self._outgoing("sent_ms <= ? ORDER BY sent_ms, seq LIMIT ?", before_ms, limit)

    def in_flight(self) -> int:
        """Events that were sent and not yet seen in Prefect."""
        return int(self._one("SELECT count(*) FROM outgoing WHERE sent_ms IS NOT NULL"))

    def mark_sent(self, ids: Sequence[str], now_ms: int | None) -> None:
        """They may have reached Prefect at this time; None: they are to be sent anew."""
        with self._transaction():
            self._db.executemany(
                "UPDATE outgoing SET sent_ms = ?, look_first = 0 WHERE id = ?", [(now_ms, one) for one in ids]
            )

    def mark_stored(self, ids: Sequence[str]) -> None:
        """Prefect has them."""
        with self._transaction():
            for one in ids:
                row = self._db.execute("DELETE FROM outgoing WHERE id = ? RETURNING points", (one,)).fetchone()
                if row:
                    self._count("stored", row[0])
                    self._count("events", 1)

    def mark_refused(self, event: Outgoing, reason: str) -> None:
        """Prefect will never take it; it is kept with the reason."""
        with self._transaction():
            self._db.execute("DELETE FROM outgoing WHERE id = ?", (event.id,))
            self._db.execute(
                "INSERT OR REPLACE INTO refused VALUES (?, ?, ?)", (event.id, json.dumps(event.body), reason)
            )
            self._count("refused", event.points)

    def cursor(self, name: str) -> str | None:
        """A cursor's value, or None before it is set."""
        row = self._db.execute("SELECT value FROM cursors WHERE name = ?", (name,)).fetchone()
        return str(row[0]) if row else None

    def set_cursor(self, name: str, value: str | None) -> None:
        """Set a cursor, or forget it."""
        with self._transaction():
            self._set_cursor(name, value)

    def counts(self) -> Counts:
        """How many points there are in each state."""
        kept = dict(self._db.execute("SELECT name, value FROM counts"))
        waiting = int(self._one("SELECT count(*) FROM pending"))
        on_the_way = int(self._one("SELECT coalesce(sum(points), 0) FROM outgoing"))
        return Counts(waiting=waiting, on_the_way=on_the_way, **kept)

    def _learn(self, point: Point) -> bool:
        return self._db.execute("INSERT OR IGNORE INTO known VALUES (?)", (point.id.bytes,)).rowcount > 0

    def _out_of_order(self, point: Point) -> tuple[Point, bool]:
        """The point, and whether one of a later step was noticed before it."""
        at = self._db.execute(
            "SELECT step FROM latest WHERE run_id = ? AND key = ?", (point.run_id, point.key)
        ).fetchone()
        late = at is not None and point.step < at[0]
        if not late:
            self._db.execute(
                "INSERT OR REPLACE INTO latest VALUES (?, ?, ?, ?)",
                (point.run_id, point.key, point.step, point.timestamp_ms),
            )
        return point, late

    def _outgoing(self, where: str, *values: int) -> list[Outgoing]:
        rows = self._db.execute(f"SELECT id, body, points, look_first, sent_ms FROM outgoing WHERE {where}", values)
        return [Outgoing(one, json.loads(body), points, bool(look), sent) for one, body, points, look, sent in rows]

    def _set_cursor(self, name: str, value: str | None) -> None:
        if value is None:
            self._db.execute("DELETE FROM cursors WHERE name = ?", (name,))
        else:
            self._db.execute("INSERT OR REPLACE INTO cursors VALUES (?, ?)", (name, value))

    def _count(self, name: str, more: int) -> None:
        self._db.execute(
            "INSERT INTO counts VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = value + excluded.value",
            (name, more),
        )

    def _one(self, question: str) -> Any:
        with closing(self._db.execute(question)) as rows:
            return rows.fetchone()[0]

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")
