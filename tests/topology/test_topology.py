"""The main job on the production topology, with one API server killed in the middle."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from blocks.s3_server import BUCKET, why_not
from topology.parts import Part, missing
from topology.production import Production

ROOT = Path(__file__).parents[2]
SMOKE = ROOT / "infra" / "smoke.sh"

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def possible() -> None:
    """Skips where a program is missing."""
    absent = missing()
    if absent:
        pytest.skip(f"needs {', '.join(absent)} (apt-get install postgresql redis-server nginx-light)")
    if reason := why_not():
        pytest.skip(reason)


@pytest.fixture(scope="module")
def small(
    possible: None, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Production]:
    """The stack with the deployments of a recipe that trains in milliseconds; three workers for the long tests."""
    long = any(item.path == request.path and item.get_closest_marker("long") for item in request.session.items)
    project = tmp_path_factory.mktemp("project")
    shutil.copy(ROOT / "tests" / "toy_recipe.py", project)
    made = Production(tmp_path_factory.mktemp("production"), project, workers=3 if long else 1)
    made.run("trimtab_infra", "init", "toy_recipe:toy", cwd=project)
    if not long:  # making a deployment takes a second and more, and one of them is used
        keep_only(project / "prefect.yaml", "trimtab_flows.lifecycle.lifecycle")
    try:
        made.up()
        yield made
    finally:
        made.down()


def keep_only(file: Path, entrypoint: str) -> None:
    """Leaves out the other deployments of a prefect.yaml."""
    project = yaml.safe_load(file.read_text())
    project["deployments"] = [one for one in project["deployments"] if one["entrypoint"] == entrypoint]
    file.write_text(yaml.safe_dump(project, sort_keys=False))


def take_through(stack: Production, recipe: str, name: str, as_of: str) -> str:
    """Starts the lifecycle as a person in the UI would; id of its run."""
    deployment = stack.ask(f"/deployments/name/lifecycle/{name}")["id"]
    parameters = {"recipe": recipe, "as_of": as_of}
    return str(stack.ask(f"/deployments/{deployment}/create_flow_run", {"parameters": parameters})["id"])


def completed(stack: Production) -> int:
    """Flow runs that have completed, sub-flows included."""
    done = {"flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}}
    return int(stack.patiently("/flow_runs/count", done))


def await_completed(stack: Production, number: int, seconds: float) -> None:
    end = time.monotonic() + seconds
    while completed(stack) < number:
        assert time.monotonic() < end, f"{completed(stack)} runs completed, not {number}"
        time.sleep(0.1)


def smoke(*urls: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([SMOKE, *urls], capture_output=True, text=True, check=False)


def addresses(stack: Production) -> list[str]:
    ports = stack.ports
    return [
        stack.url("gateway"),
        stack.url("mlflow"),
        stack.s3.url,
        f"redis://127.0.0.1:{ports['redis']}",
        f"postgresql://127.0.0.1:{ports['postgresql']}",
    ]


def test_the_lifecycle_outlives_an_api_server_and_leaves_its_data_in_s3(small: Production) -> None:
    asked = smoke(*addresses(small))
    assert (asked.returncode, asked.stdout.count("ok ")) == (0, 5), asked.stdout + asked.stderr

    run = take_through(small, "toy_recipe:toy", "toy", "2024-04-02T00:00:00")
    await_completed(small, 1, 240)
    small.parts["api-a"].kill()
    assert small.await_run(run, 400) == "COMPLETED", small.parts["node-0"].tail()
    assert small.finished("monitor") == ["monitor 2024-03"]
    assert small.finished("train") == ["train 2024-01..2024-02"]

    keys = [one["Key"] for one in small.s3.client().list_objects_v2(Bucket=BUCKET)["Contents"]]
    for beginning in ("store/snapshots/", "store/manifests/", "store/lineage/", "mlflow/"):
        assert any(key.startswith(beginning) for key in keys), keys


def test_smoke_says_which_part_is_not_sound(small: Production) -> None:
    asked = smoke(*addresses(small), "http://127.0.0.1:9")
    assert asked.returncode == 1
    assert [line for line in asked.stdout.splitlines() if line.startswith("BAD")] == [asked.stdout.splitlines()[-1]]
    assert smoke("ftp://127.0.0.1").returncode == 2
    assert smoke().returncode == 2


def again(stack: Production, name: str) -> str:
    """Kills a part and starts it at once; what then works again, which is waited for."""
    if name == "s3":
        stack.s3.kill()
        stack.s3.start()
        return "it stores an object"
    part = stack.parts[name]
    if part.process is not None and part.process.poll() is None:
        part.kill()
    part.start()
    if name in ("redis", "postgresql", "services"):
        marker = f"{name}-{part.started_at.timestamp()}"
        Part(name, [], {}, part.folder, lambda: stack.keeps_events(marker)).ready()
        return "an event gets through to the database"
    part.ready()
    if name == "mlflow":
        return "it answers from its database"
    if name.startswith("node"):
        return "it tells Prefect that it is there"
    return "it answers itself"


def node_of(stack: Production, run: str) -> str:
    """The worker that has a run, by the claim on its disk."""
    for node in (name for name in stack.parts if name.startswith("node")):
        for claim in (stack.folder / f"host-{node}").rglob("*"):
            if run in claim.name or (claim.suffix == ".json" and run in claim.read_text()):
                return node
    raise AssertionError(f"no worker has {run}")


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_lifecycle_outlives_each_part_and_all_come_back(small: Production) -> None:
    """Each is killed in the middle of a lifecycle, and started at once. Prints the table of infra/PRODUCTION.md."""
    rows = [(f"start of {name}", seconds) for name, seconds in small.took.items() if name.startswith("the whole")]
    if (part := small.parts["api-a"]).process is not None and part.process.poll() is not None:
        part.start()  # an earlier test killed it
        part.ready()
    run = take_through(small, "toy_recipe:toy", "toy", "2024-03-02T00:00:00")
    assert small.await_run(run, 400).startswith("COMPLETED"), small.parts["node-0"].tail()
    expected = []
    names = ("nothing", "api-a", "api-b", "mlflow", "s3", "redis", "postgresql", "services", "gateway", "worker")
    try:
        for month, name in enumerate(names, start=3):
            done = completed(small)
            run = take_through(small, "toy_recipe:toy", "toy", f"{2024 + month // 12}-{month % 12 + 1:02}-02T00:00:00")
            await_completed(small, done + 1, 120)
            part = node_of(small, run) if name == "worker" else name
            began = time.monotonic()
            if name.startswith("api"):
                small.parts[name].kill()
                small.patiently("/flows/count", {})  # of the other one: nobody has to start anything
                rows.append((f"{name} killed: the one address answers", time.monotonic() - began))
            if name != "nothing":
                works = again(small, part)
                rows.append((f"{name} killed and started: {works}", time.monotonic() - began))
            ended = small.await_run(run, 400)
            rows.append(
                (f"{name} killed: the lifecycle in progress ends ({ended.split()[0]})", time.monotonic() - began)
            )
            assert ended.startswith("COMPLETED"), f"{name}: {ended}\n{small.parts['node-0'].tail()}"
            expected.append(f"monitor 2024-{month:02}")
            assert small.finished("monitor") == expected, f"after {name} was killed"
    finally:
        print("\n| what | s |\n|---|---|")
        for what, seconds in rows:
            print(f"| {what} | {seconds:.1f} |")
        print(f"(load of the machine: {os.getloadavg()[0]:.0f} on {os.cpu_count()} processors)")


@pytest.mark.long
def test_what_was_made_there_can_be_followed_and_made_again(small: Production) -> None:
    assert "train" in small.run("trimtab_infra", "lineage", "toy/1")
    said = small.run("trimtab_infra", "replay", "toy/1", cwd=small.project)
    assert "Bit for bit the same" in said
    seen = small.call("trimtab_infra", "doctor")
    assert seen.returncode == 0, seen.stdout
    assert "S3 store s3://" in seen.stdout


@pytest.fixture
def flights(possible: None, tmp_path: Path) -> Iterator[Production]:
    """The stack with the project's own prefect.yaml."""
    made = Production(tmp_path, ROOT)
    try:
        made.up()
        yield made
    finally:
        made.down()


@pytest.mark.long
def test_the_main_job_outlives_an_api_server(flights: Production) -> None:
    run = take_through(flights, "trimtab_flows.recipes.flights:flights", "flights", "2013-07-02T00:00:00")
    await_completed(flights, 1, 300)
    flights.parts["api-b"].kill()
    assert flights.await_run(run, 500).startswith("COMPLETED"), flights.parts["node-0"].tail()
    assert flights.finished("monitor") == [f"monitor 2013-0{month}" for month in (3, 4, 5, 6)]
    assert flights.finished("train") == ["train 2013-01..2013-02", "train 2013-01..2013-06"]
