"""The benchmarks: `python -m trimtab_infra.bench NAME`, also mounted as `trimtab bench NAME`."""

from __future__ import annotations

import typer

from trimtab_infra.bench.act import act
from trimtab_infra.bench.cost import cost
from trimtab_infra.bench.decentral import decentral
from trimtab_infra.bench.fleet import fleet
from trimtab_infra.bench.live import live
from trimtab_infra.bench.metric_events import metric_events
from trimtab_infra.bench.placement import placement
from trimtab_infra.bench.queue import queue
from trimtab_infra.bench.trigger import trigger

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Measure the planner and the retraining policy.")
app.command("placement")(placement)
app.command("live")(live)
app.command("fleet")(fleet)
app.command("cost")(cost)
app.command("queue")(queue)
app.command("decentral")(decentral)
app.command("trigger")(trigger)
app.command("metric-events")(metric_events)
app.command("act")(act)


@app.callback()
def bench() -> None:
    """Measure the planner against recorded traces, and the retraining policy on recorded series."""
