"""Every list of a server is read to its end: the helpers, where they are used, and over 1,000 of each for real."""

from __future__ import annotations

import ast
import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import mlflow
import pytest
from mlflow.tracking import MlflowClient
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.events.schemas.automations import Automation, AutomationCore, EventTrigger
from prefect.flows import flow
from prefect.settings import PREFECT_API_URL, temporary_settings

from infra.metric_events.servers import Server, mlflow_server, prefect_server
from trimtab_blocks.paging import PAGE, all_by_offset, by_link, by_offset, by_token
from trimtab_flows import history, runtime, tracking
from trimtab_flows.retrain_runs import waiting_runs
from trimtab_infra.metric_events.mlflow_reading import MlflowReading

ROOT = Path(__file__).parent.parent
MANY = 1203

#: Calls that give a list of a server, a page at a time.
LISTS = {
    *("search_model_versions", "search_runs", "search_registered_models", "search_experiments", "search_logged_models"),
    *("read_flow_runs", "read_deployments", "read_automations", "read_work_queues", "read_work_pools", "read_flows"),
    *(
        "read_task_runs",
        "read_logs",
        "read_variables",
        "read_artifacts",
        "read_latest_artifacts",
        "read_block_documents",
    ),
    *("read_workers_for_work_pool", "read_global_concurrency_limits", "read_concurrency_limits", "list_objects_v2"),
    *("list_multipart_uploads", "list_object_versions", "read_events"),
}
HELPERS = {"by_token", "by_offset", "all_by_offset", "by_link"}
#: Functions that are a helper of their own, or read by ids of which there are no more than a page.
ALLOWED = {
    "s3_objects.py:listing": "the helper of S3",
    "s3_objects.py:uploads": "the helper of S3",
    "tracking.py:find_run": "the first is wanted",
    "tracking.py:_next_order": "the newest is wanted",
    "replay.py:find_training": "the first is wanted",
    "demo.py:_activity": "a few are shown",
    "recover.py:recover": "the first page again, until none is left",
    "learning.py:_read": "the newest are wanted",
    "control_plane.py:ask": "one, to see whether the server answers",
    "control_plane.py:cancelling": "by id, a page of ids at a time",
    "control_plane.py:waiting": "up to a limit, in the order that they are due",
    "control_plane.py:waiting_of": "by id, a page of ids at a time",
    "demands.py:know": "by id, a page of ids at a time",
    "fleet.py:_why_deployment": "a few are shown",
    "gang.py:_states": "two, by id",
    "left_errors.py:_logged": "the newest are wanted",
    "left_errors.py:_of_tasks": "the newest are wanted",
}


def lists_of(file: Path) -> Iterator[tuple[str, str]]:
    """Function and called name of each list that is asked for outside of a helper's argument."""

    def walk(node: ast.AST, function: str, helped: bool) -> Iterator[tuple[str, str]]:
        for child in ast.iter_child_nodes(node):
            inside, here = function, helped
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                inside = child.name if not helper_uses(node, child.name) else function
                here = helped or helper_uses(node, child.name)
            if isinstance(child, ast.Call):
                name = getattr(child.func, "attr", getattr(child.func, "id", ""))
                here = helped or name in HELPERS
                if name in LISTS and not helped:
                    yield inside, name
            yield from walk(child, inside, here)

    def helper_uses(scope: ast.AST, name: str) -> bool:
        """Whether a function is handed to a helper in the scope that it is defined in."""
        calls = [each for each in ast.walk(scope) if isinstance(each, ast.Call)]
        return any(
            getattr(call.func, "attr", getattr(call.func, "id", "")) in HELPERS
            and any(isinstance(argument, ast.Name) and argument.id == name for argument in call.args)
            for call in calls
        )

    yield from walk(ast.parse(file.read_bytes()), "", False)


def test_every_list_is_read_through_a_helper() -> None:
    found = {
        f"{file.name}:{function}": f"{file.relative_to(ROOT)}: {function} calls {name}"
        for top in ("flows", "blocks", "infra", "work_pools")
        for file in (ROOT / top).rglob("*.py")
        for function, name in lists_of(file)
    }
    others = [said for where, said in found.items() if where not in ALLOWED]
    assert not others, f"read these through trimtab_blocks.paging, or say in ALLOWED why a page is enough: {others}"
    assert sorted(set(ALLOWED) - set(found)) == []


def pages(rows: list[dict[str, Any]]) -> Callable[[int], list[dict[str, Any]]]:
    return lambda offset: rows[offset : offset + PAGE]


@pytest.mark.parametrize("count", [0, 1, PAGE - 1, PAGE, PAGE + 1, 2 * PAGE, 1003])
def test_each_once_and_in_order(count: int) -> None:
    rows = [{"id": number} for number in range(count)]
    assert list(by_offset(pages(rows))) == rows


def test_a_list_that_grows_and_shrinks_while_it_is_read_misses_nothing_that_stays() -> None:
    rows = [{"id": number} for number in range(1000)]

    def ask(offset: int) -> list[dict[str, Any]]:
        page = rows[offset : offset + PAGE]
        del rows[:7]  # ended meanwhile
        rows.append({"id": rows[-1]["id"] + 1})
        return page

    found = [row["id"] for row in by_offset(ask)]
    assert len(found) == len(set(found))
    assert set(found) >= {row["id"] for row in rows if row["id"] < 1000}


@pytest.fixture(scope="module")
def mlflow_with_many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Runs, versions, models and experiments: one made by MLflow, the others copied from its rows."""
    folder = tmp_path_factory.mktemp("mlflow")
    server = mlflow_server(folder).start()
    try:
        fill_mlflow(server, folder)
        yield server
    finally:
        server.stop()


def fill_mlflow(server: Server, folder: Path) -> None:
    api = MlflowClient(server.url)
    experiment = api.create_experiment("first")
    run = api.create_run(experiment, tags={"trimtab.stage": "train", "trimtab.done": "yes"})
    api.create_registered_model("many")
    api.create_model_version("many", "s3://bucket/model", run_id=run.info.run_id)
    server.stop()
    (database,) = folder.rglob("*.db")
    with closing(sqlite3.connect(database)) as db, db:
        for number in range(2, MANY + 1):
            fresh = uuid4().hex
            copy(db, "experiments", "name = 'first'", name=f"experiment {number}", experiment_id=10_000_000 + number)
            copy(db, "runs", f"run_uuid = '{run.info.run_id}'", run_uuid=fresh, start_time=number)
            copy(db, "tags", f"run_uuid = '{run.info.run_id}'", run_uuid=fresh)
            copy(db, "registered_models", "name = 'many'", name=f"model {number}")
            copy(db, "model_versions", "name = 'many' and version = 1", version=number)
    server.start()
    for step in range(0, 2 * MANY, 1000):
        batch = [mlflow.entities.Metric("loss", 0.5, 1, each) for each in range(step, min(step + 1000, 2 * MANY))]
        api.log_batch(run.info.run_id, metrics=batch)


def copy(db: sqlite3.Connection, table: str, which: str, **changed: Any) -> None:
    """Rows of a table once more, with other values in some columns."""
    columns = [row[1] for row in db.execute(f"pragma table_info({table})")]
    values = ", ".join(f":{name}" if name in changed else f'"{name}"' for name in columns)
    names = ", ".join(f'"{name}"' for name in columns)
    db.execute(f"insert into {table} ({names}) select {values} from {table} where {which}", changed)


def test_over_a_thousand_of_mlflows(mlflow_with_many: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "connect_mlflow", lambda: mlflow_with_many.url)
    experiments = tracking.all_experiments()
    assert len(set(experiments)) == len(experiments) == MANY + 1  # and MLflow's own Default
    assert [int(version.version) for version in history.versions("many")] == list(range(1, MANY + 1))
    assert len(list(tracking.all_versions())) == MANY
    runs = tracking.runs_of_stage("first", "train")
    assert len({run.info.run_id for run in runs}) == MANY
    api = tracking.client()
    models = by_token(lambda token: api.search_registered_models(page_token=token))
    assert len({model.name for model in models}) == MANY
    training = next(run for run in runs if run.info.start_time and run.info.start_time > MANY)
    assert len(api.get_metric_history(training.info.run_id, "loss")) == 2 * MANY
    seen = {each.info.run_id for each in MlflowReading(mlflow_with_many.url, ()).runs(0)}
    assert len(seen) == MANY


@pytest.fixture(scope="module")
def prefect_with_many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SyncPrefectClient]:
    """Scheduled retrain runs, automations and events: one made through the API, the others copied, or sent."""
    folder = tmp_path_factory.mktemp("prefect")
    server = prefect_server(folder).start()
    try:
        with as_client(server) as client:
            made, automation = first_of_each(client)
        server.stop()
        (database,) = folder.rglob("prefect.db")
        with closing(sqlite3.connect(database)) as db, db:
            for number in range(1, MANY):
                copy(db, "flow_run", f"id = '{made}'", id=str(uuid4()), name=f"run-{number}", idempotency_key=None)
                copy(db, "automation", f"id = '{automation}'", id=str(uuid4()), name=f"many: {number}")
            db.execute("update flow_run set state_type = 'SCHEDULED', state_name = 'Scheduled', state_id = null")
        server.start()
        with as_client(server) as client:
            yield client
    finally:
        server.stop()


@contextmanager
def as_client(server: Server) -> Iterator[SyncPrefectClient]:
    with temporary_settings({PREFECT_API_URL: f"{server.url}/api"}), get_client(sync_client=True) as client:
        yield client


def first_of_each(client: SyncPrefectClient) -> tuple[UUID, UUID]:
    """A retrain run, and an automation."""

    @flow(name="retrain")
    def retrain() -> None: ...

    made = client.create_flow_run(retrain, tags=["trimtab", "many"])
    trigger = EventTrigger(expect={"x"})
    core = AutomationCore(name="many: 0", tags=["trimtab:many"], trigger=trigger, actions=[])
    return made.id, client.create_automation(core)


def test_over_a_thousand_of_prefects(prefect_with_many: SyncPrefectClient) -> None:
    client = prefect_with_many
    runs = waiting_runs(client, "many")
    assert len({run.id for run in runs}) == len(runs) == MANY

    async def automations() -> list[Automation]:
        async with get_client() as awaited:
            return await all_by_offset(lambda offset: awaited.read_automations(limit=PAGE, offset=offset))

    found = asyncio.run(automations())
    assert len({each.name for each in found}) == len(found) == MANY


def test_over_a_thousand_events(prefect_with_many: SyncPrefectClient) -> None:
    client = prefect_with_many
    body = {"occurred": "2026-01-01T00:00:00+00:00", "event": "many", "payload": {}}
    sent = [{**body, "id": str(uuid4()), "resource": {"prefect.resource.id": f"many.{n}"}} for n in range(MANY)]
    client.request("POST", "/events", json=sent)
    asked = {"filter": {"event": {"name": ["many"]}, "occurred": {"since": "2025-12-31T00:00:00+00:00"}}, "limit": 50}

    def ask(link: str | None) -> Any:
        path = link and link.removeprefix(str(client.api_url).rstrip("/"))
        return (client.request("GET", path) if path else client.request("POST", "/events/filter", json=asked)).json()

    while len(found := list(by_link(ask))) < MANY:
        pass
    assert {event["id"] for event in found} == {event["id"] for event in sent}
