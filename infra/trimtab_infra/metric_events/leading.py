"""Marks the metric events that automations have to look at: of a burst about a model, one in a while."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from trimtab_flows.automations import LEADS, LEADS_EVERY_S

__all__ = ["Leads"]

#: Bursts that are remembered. To forget one marks an event more than needed.
_REMEMBERED = 10_000


class Leads:
    """Gives each event the label ``trimtab.leads``: ``no`` if another that ``leads`` tells of the same model, stage and
    kind of metric, noticed less than ``LEADS_EVERY_S`` before or after it.

    Prefect writes to its database for every event that an automation matches, for each automation; a thousand in a
    minute are more than a server on SQLite can take beside its other work. What is marked ``no`` is seen by the run
    that the marked one sets off, if that waits for at least as long.

    It is marked as it is sent, and anew when it is sent again: the other one may have been lost with it.
    """

    def __init__(self) -> None:
        self._last: dict[tuple[str, str, str], tuple[datetime, str]] = {}

    def mark(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The event with the label."""
        resource = body["resource"]
        kind, _, _ = resource["trimtab.metric"].partition("/")
        burst = (resource["prefect.resource.id"], resource["trimtab.stage"], kind)
        noticed, (last, name) = datetime.fromisoformat(body["occurred"]), self._last.get(burst, (None, ""))
        leads = last is None or name == body["id"] or abs(noticed - last) >= timedelta(seconds=LEADS_EVERY_S)
        if leads:
            if len(self._last) >= _REMEMBERED:
                self._last.clear()
            self._last[burst] = (noticed, body["id"])
        return {**body, "resource": {**resource, LEADS: "yes" if leads else "no"}}
