"""What `trimtab bench act` does on its stack, in a process of its own: the stack's address is in the environment."""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from mlflow.tracking import MlflowClient
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowFilter, FlowFilterName
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort

from trimtab_blocks.paging import PAGE, by_offset
from trimtab_blocks.policy import RetrainPolicy, keep
from trimtab_flows.automations import rules
from trimtab_flows.windows import Window
from trimtab_infra.act.automations import apply
from trimtab_infra.errors import PartFailed

RECIPE, MODEL, POLICY = "trimtab_infra.bench.act_recipe:steady", "steady", "bench"
_WITHIN_S = 240
#: Threads that log a storm's points.
_CLIENTS = 4
#: Seconds from a storm's last event to the end of all that came of it.
_STORM_WITHIN_S = 600

Found = TypeVar("Found")


def until(look: Callable[[], Found | None], what: str, within_s: float = _WITHIN_S) -> Found:
    """What a look finds, as soon as it finds something.

    Raises:
        PartFailed: it did not in time.
    """
    end = time.monotonic() + within_s
    while (found := look()) is None:
        if time.monotonic() > end:
            raise PartFailed(f"{what}: not within {within_s:g} s")
        time.sleep(0.1)
    return found


class Bench:
    """A model on the stack, taken from month to month."""

    def __init__(self, client: SyncPrefectClient) -> None:
        self._client, self._mlflow = client, MlflowClient()
        found = self._mlflow.get_experiment_by_name("elsewhere")
        self._experiment = found.experiment_id if found else self._mlflow.create_experiment("elsewhere")
        self._month = Window.parse("2024-03")

    def prepare(self, gather_s: float) -> None:
        """A champion, a monitored window, the policy's block and the automations."""
        keep(POLICY, RetrainPolicy(max_age=None, cooldown=0, priority="high"))
        self.next_month()
        asyncio.run(apply(MODEL, rules(MODEL, RECIPE, POLICY, gather_s=gather_s)))

    def next_month(self) -> None:
        """Take the model through a month in which it does well, and wait until nothing is under way."""
        as_of = self._month.end_time + timedelta(days=1)
        deployment = self._client.read_deployment_by_name(f"lifecycle/{MODEL}")
        parameters = {"recipe": RECIPE, "as_of": as_of.isoformat(), "policy": POLICY}
        run = self._client.create_flow_run_from_deployment(deployment.id, parameters=parameters)
        until(lambda: self._ended(run.id), "the month before")
        self._month = self._month.following("month")

    def _ended(self, run_id: Any) -> bool | None:
        state = self._client.read_flow_run(run_id).state
        if state is not None and state.is_final() and not state.is_completed():
            raise PartFailed(f"a run ended {state.name}: {state.message}")
        return True if state is not None and state.is_final() else None

    def runs(self, flow: str, since: datetime) -> list[FlowRun]:
        """Runs of a flow made since a moment, oldest first."""
        named = FlowFilter(name=FlowFilterName(any_=[flow]))
        found = by_offset(
            lambda offset: self._client.read_flow_runs(
                flow_filter=named, sort=FlowRunSort.ID_DESC, limit=PAGE, offset=offset
            )
        )
        new = [run for run in found if run.created is not None and run.created >= since]
        return sorted(new, key=lambda run: run.created or since)

    def quiet(self, since: datetime, for_s: float, within_s: float = _WITHIN_S) -> None:
        """Wait until no decision, dispatch or retraining has been under way for so long."""
        calm = time.monotonic()
        end = calm + within_s
        while time.monotonic() - calm < for_s:
            runs = [run for flow in ("decide", "dispatch", "retrain") for run in self.runs(flow, since)]
            if any(run.state_type not in (StateType.COMPLETED, StateType.CANCELLED) for run in runs):
                calm = time.monotonic()
            if time.monotonic() > end:
                over = (StateType.COMPLETED, StateType.CANCELLED)
                left = [f"{run.name} {run.state_name}" for run in runs if run.state_type not in over]
                raise PartFailed(f"there is no end to it: {', '.join(left)}")
            time.sleep(0.3)

    def round(self) -> dict[str, float]:
        """A metric of a bad month, logged by a plain client; seconds from there to each stage."""
        run = self._mlflow.create_run(self._experiment, tags={"trimtab.model": MODEL})
        began = datetime.now(UTC)
        self._log(run.info.run_id, 0)
        decided = until(lambda: next(iter(self.runs("decide", began)), None), "a run that decides")
        retrained = until(lambda: next(iter(self.runs("retrain", began)), None), "a run that retrains")
        until(lambda: self._ended(retrained.id), "the retraining")
        self.quiet(began, 1)
        decided, retrained = (self._client.read_flow_run(each.id) for each in (decided, retrained))
        arrived = self._events("filter", self._logged(run.info.run_id))["events"]
        self._mlflow.delete_run(run.info.run_id)
        stages = {
            "event_received": min(datetime.fromisoformat(event["received"]) for event in arrived),
            "decide_created": decided.created,
            "decide_started": decided.start_time,
            "retrain_created": retrained.created,
            "retrain_started": retrained.start_time,
        }
        return {name: at.timestamp() - began.timestamp() for name, at in stages.items() if at is not None}

    def _log(self, run_id: str, step: int) -> None:
        for key, value in (("performance/rows", 5000.0), ("performance/auc", 0.5), ("drift/psi/prediction", 0.6)):
            self._mlflow.log_metric(run_id, key, value, step=step)

    def storm(self, points: int, over_s: float) -> dict[str, Any]:
        """So many drift points, evenly over a time; what runs came of them."""
        run = self._mlflow.create_run(self._experiment, tags={"trimtab.model": MODEL})
        began, start = datetime.now(UTC), time.monotonic()
        self._log(run.info.run_id, 0)

        def log(step: int) -> None:
            time.sleep(max(0.0, start + over_s * (step + 1) / (points - 3) - time.monotonic()))
            self._mlflow.log_metric(run.info.run_id, f"drift/psi/x{step % 10}", 1 + step / points, step=step)

        # One client alone is too slow for 17 calls a second on a busy machine.
        with ThreadPoolExecutor(_CLIENTS) as threads:
            list(threads.map(log, range(points - 3)))
        logged_s = time.monotonic() - start
        asked = self._logged(run.info.run_id)
        told = until(lambda: self._told(asked, points), f"{points} events")
        all_told_s = time.monotonic() - start
        self.quiet(began, 12, within_s=_STORM_WITHIN_S)
        found = {flow: self.runs(flow, began) for flow in ("decide", "dispatch", "retrain")}
        for each in found["dispatch"]:
            named = f"{each.parameters.get('decision')}, attempt {each.parameters.get('attempt')}"
            cause = ", ".join(self._cause(each)) or "nothing that Prefect tells of"
            sys.stderr.write(f"dispatch {each.id} of {named}, made {each.created}, {each.state_name}: {cause}\n")
        counts = {flow: len(runs) for flow, runs in found.items()}
        decided = sum(run.state_type == StateType.COMPLETED for run in found["decide"])
        self._mlflow.delete_run(run.info.run_id)
        times = {"logged_s": round(logged_s, 1), "all_told_s": round(all_told_s, 1)}
        return {"points": points, **times, "events": told, **counts, "decided": decided}

    def _logged(self, run_id: str) -> dict[str, Any]:
        related = {"id": [f"mlflow.run.{run_id}"]}
        return {"filter": {"event": {"name": ["trimtab.metric.logged"]}, "related": related}}

    def _cause(self, run: FlowRun) -> list[str]:
        """The event that an automation made a run of, and the firing: two runs of one event are fired twice."""
        executed = {"event": {"name": ["prefect.automation.action.executed"]}}
        asked = {"filter": {**executed, "related": {"id": [f"prefect.flow-run.{run.id}"]}}}
        found = []
        for event in self._events("filter", asked)["events"]:
            roles = {each["prefect.resource.role"]: each["prefect.resource.id"] for each in event["related"]}
            found.append(f"{roles.get('triggering-event')}, firing {event['payload'].get('invocation')}")
        return found

    def _told(self, asked: dict[str, Any], points: int) -> int | None:
        found = sum(each["count"] for each in self._events("count-by/event", asked))
        return found if found >= points else None

    def _events(self, question: str, asked: dict[str, Any]) -> Any:
        address: Any = f"/events/{question}"
        return self._client.request("POST", address, json=asked).json()


def percentiles(rounds: Sequence[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Median and largest of each stage, in seconds."""
    return {
        name: {
            "p50": round(statistics.median(each[name] for each in rounds), 2),
            "max": round(max(each[name] for each in rounds), 2),
        }
        for name in rounds[0]
    }


def main() -> None:
    """Arguments: rounds, points of the storm, its seconds, seconds that metrics are gathered for."""
    rounds, points, over_s, gather_s = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])
    with get_client(sync_client=True) as client:
        bench = Bench(client)
        bench.prepare(gather_s)
        seen = []
        for number in range(rounds):
            seen.append(bench.round())
            sys.stderr.write(
                f"round {number + 1} of {rounds}: {seen[-1]['retrain_started']:.1f} s to the retrain run\n"
            )
            bench.next_month()
        figures: dict[str, Any] = {"metric_to_s": percentiles(seen)} if seen else {}
        if points:
            sys.stderr.write(f"a storm of {points} points in {over_s:g} s ...\n")
            figures["storm"] = bench.storm(points, over_s)
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    try:
        main()
    except PartFailed as failed:
        sys.exit(f"bench act: {failed}")
