"""The sender: from outbox and MLflow to the ledger, from the ledger to Prefect, until Prefect has stored it.

An event is marked as sent before it is, and forgotten only when Prefect's database has it. One that may have been lost
on the way is sent again, with the same id, after ``resend_after_s``: long enough for Prefect's own queue, because two
of the same id in one flush of a Prefect server on SQLite would fail the whole flush.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from trimtab_infra.metric_events.events import Noted, RunInfo, events_of
from trimtab_infra.metric_events.leading import Leads
from trimtab_infra.metric_events.ledger import Ledger, Outgoing
from trimtab_infra.metric_events.mlflow_reading import MlflowAway, MlflowReading
from trimtab_infra.metric_events.outbox import gap_noted, segments, settle_gap
from trimtab_infra.metric_events.prefect_writing import PAGE, PrefectAway, PrefectRefused, PrefectWriting
from trimtab_infra.metric_events.reconcile import look

__all__ = ["Sender", "Settings"]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """How the sender goes about it; times in seconds.

    ``coalesce_above`` is the number of waiting points above which one event tells of all points of a run and metric.
    ``in_flight`` bounds the events that Prefect holds in memory, where more than 10,000 are dropped without a word.
    """

    outbox: Path
    coalesce_above: int = 1000
    in_flight: int = 500
    batch: int = 100
    poll_s: float = 0.05
    confirm_every_s: float = 0.5
    resend_after_s: float = 30.0
    retry_s: float = 1.0
    reconcile_every_s: float = 30.0
    deep_every_s: float = 3600.0
    lookback_s: float = 14 * 86400.0
    first_lookback_s: float = 86400.0
    run_info_s: float = 60.0


class Sender:
    """Does one thing after the other, in one thread; ``tick`` is all of them once.

    Args:
        ledger, mlflow, prefect: opened by the caller, who also holds the lock that makes this the only sender.
    """

    def __init__(self, settings: Settings, ledger: Ledger, mlflow: MlflowReading, prefect: PrefectWriting) -> None:
        self._settings, self._ledger, self._mlflow, self._prefect = settings, ledger, mlflow, prefect
        self._runs: dict[str, tuple[RunInfo, float]] = {}
        self._leads = Leads()
        self._look: Iterator[int] | None = None
        self._deep = False
        self._due = {"confirm": 0.0, "reconcile": 0.0, "deep": 0.0, "prefect": 0.0, "mlflow": 0.0}

    def run(self, stop: threading.Event) -> None:
        """Work until told to stop."""
        while not stop.is_set():
            if not self.tick():
                stop.wait(self._settings.poll_s)

    def tick(self) -> bool:
        """All that is due, once; whether there was anything to do."""
        did = self._take_in()
        did |= self._toward_prefect(self._group_and_send)
        if self._is_due("confirm", self._settings.confirm_every_s):
            did |= self._toward_prefect(self._confirm)
        return self._reconcile() or did

    def _take_in(self) -> bool:
        """Read what the plugin has written."""
        found = False
        for segment in segments(self._settings.outbox):
            with suppress(FileNotFoundError):
                name = f"outbox:{segment.name}"
                start = int(self._ledger.cursor(name) or 0)
                points, end = segment.read(start)
                if end > start:
                    self._ledger.notice(points, "push", _now_ms(), cursor=(name, str(end)))
                    found = True
                elif segment.remove_if_read(end):
                    self._ledger.set_cursor(name, None)
        return found

    def _group_and_send(self) -> bool:
        grouped = self._group()
        return self._send() or grouped

    def _group(self) -> bool:
        """Decide which events tell of the waiting points, when there is room for more."""
        if len(self._ledger.unsent(self._settings.batch)) >= self._settings.batch:
            return False
        many = self._settings.coalesce_above
        waiting = self._ledger.waiting(many + 1)
        if len(waiting) > many:
            waiting = self._ledger.waiting(50 * (many + 1))
            did = self._replace(waiting, coalesce=True)
        else:
            did = self._replace(waiting[: self._settings.batch], coalesce=False)
        return did

    def _replace(self, waiting: list[tuple[int, Noted]], coalesce: bool) -> bool:
        """Put events in the place of points whose runs are known; the others wait for MLflow."""
        runs = self._infos({noted.point.run_id for _, noted in waiting})
        for pushed in (True, False):
            ready = [
                (place, noted)
                for place, noted in waiting
                if noted.point.run_id in runs and (noted.source == "push") is pushed
            ]
            events = events_of([noted for _, noted in ready], runs, coalesce)
            if ready:
                # What the reconciler found, an earlier ledger may have sent: ask Prefect first.
                self._ledger.group([place for place, _ in ready], events, look_first=not pushed)
        return any(noted.point.run_id in runs for _, noted in waiting)

    def _infos(self, run_ids: set[str]) -> dict[str, RunInfo]:
        """What is known of runs; as it was, where MLflow is away."""
        for run_id in sorted(run_ids):
            known = self._runs.get(run_id)
            fresh = known is not None and time.monotonic() - known[1] < self._settings.run_info_s
            if fresh or time.monotonic() < self._due["mlflow"]:
                continue
            try:
                self._runs[run_id] = (self._mlflow.run(run_id), time.monotonic())
            except MlflowAway as away:
                self._rest("mlflow", away)
        found = {run_id: self._runs[run_id][0] for run_id in run_ids if run_id in self._runs}
        if len(self._runs) > 10_000:
            self._runs.clear()
        return found

    def _send(self) -> bool:
        room = min(self._settings.batch, self._settings.in_flight - self._ledger.in_flight())
        events = self._ledger.unsent(room) if room > 0 else []
        if not events:
            return False
        events = self._not_there_yet(events)
        ids = [event.id for event in events]
        # Before it is done: killed in between, it counts as sent, and is looked for.
        self._ledger.mark_sent(ids, _now_ms())
        try:
            self._prefect.send([self._leads.mark(event.body) for event in events])
        except PrefectRefused:
            self._send_singly(events)
        except PrefectAway as away:
            if not away.reached:
                self._ledger.mark_sent(ids, None)
            raise
        return True

    def _not_there_yet(self, events: list[Outgoing]) -> list[Outgoing]:
        """Without those that Prefect has already."""
        asked = [event.id for event in events if event.look_first]
        there: set[str] = set()
        for start in range(0, len(asked), PAGE):
            there |= self._prefect.stored(asked[start : start + PAGE])
        self._ledger.mark_stored(sorted(there))
        return [event for event in events if event.id not in there]

    def _send_singly(self, events: list[Outgoing]) -> None:
        """One of them is at fault; alone, each gets its own answer."""
        for event in events:
            try:
                self._prefect.send([self._leads.mark(event.body)])
            except PrefectRefused as refused:
                _logger.error("an event of %s points was refused and is kept in the ledger: %s", event.points, refused)
                self._ledger.mark_refused(event, str(refused))

    def _confirm(self) -> bool:
        """Forget events that Prefect has stored; send anew those that it should have stored by now."""
        now = _now_ms()
        overdue = now - int(1000 * self._settings.resend_after_s)
        sent = self._ledger.sent_before(now, self._settings.in_flight + self._settings.batch)
        for start in range(0, len(sent), PAGE):
            page = sent[start : start + PAGE]
            there = self._prefect.stored([event.id for event in page])
            self._ledger.mark_stored(sorted(there))
            lost = [event.id for event in page if event.id not in there and (event.sent_ms or 0) < overdue]
            if lost:
                _logger.warning("%s events did not arrive and are sent again", len(lost))
                self._ledger.mark_sent(lost, None)
        return False

    def _reconcile(self) -> bool:
        """One step of a look at MLflow, or its beginning when one is due."""
        if time.monotonic() < self._due["mlflow"] or (self._look is None and not self._begin_look()):
            return False
        assert self._look is not None
        try:
            found = next(self._look, None)
        except MlflowAway as away:
            self._rest("mlflow", away)
            self._look = None
            # Not the whole interval later, and as deep as this one was to be.
            self._due["reconcile"] = 0.0
            self._due["deep"] = 0.0 if self._deep else self._due["deep"]
            return False
        if found is None:
            self._look = None
        elif found:
            _logger.info("%s metric points that the plugin had missed", found)
        return found is not None

    def _begin_look(self) -> bool:
        gap = gap_noted(self._settings.outbox)
        if not (self._is_due("reconcile", self._settings.reconcile_every_s) or gap):
            return False
        self._deep = gap or self._is_due("deep", self._settings.deep_every_s)
        if gap:
            settle_gap(self._settings.outbox)
        self._look = look(
            self._ledger,
            self._mlflow,
            self._take_in,
            _now_ms(),
            lookback_ms=int(1000 * self._settings.lookback_s),
            first_lookback_ms=int(1000 * self._settings.first_lookback_s),
            deep=self._deep,
        )
        return True

    def _toward_prefect(self, act: Callable[[], bool]) -> bool:
        if time.monotonic() < self._due["prefect"]:
            return False
        try:
            return act()
        except PrefectAway as away:
            self._rest("prefect", away)
            return False

    def _rest(self, who: str, why: Exception) -> None:
        """Leave a server that is away alone for a while."""
        _logger.warning("%s; trying again in %g s", why, self._settings.retry_s)
        self._due[who] = time.monotonic() + self._settings.retry_s

    def _is_due(self, what: str, every_s: float) -> bool:
        if time.monotonic() < self._due[what]:
            return False
        self._due[what] = time.monotonic() + every_s
        return True


def _now_ms() -> int:
    return int(time.time() * 1000)
