"""The main job as a person runs it: the command line, real servers, a real worker, and kill -9 in the middle."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from trimtab_infra.stack import processes
from trimtab_infra.stack.state import StateFolder

ROOT = Path(__file__).parent.parent
TRIMTAB = [sys.executable, "-m", "trimtab_infra"]
MONITORED = [f"monitor 2013-0{month}" for month in (3, 4, 5, 6)]

pytestmark = pytest.mark.timeout(900)


def trimtab(*arguments: str, cwd: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*TRIMTAB, *arguments], cwd=cwd, env=env, capture_output=True, text=True, check=False)


def finished_stages(state: Path, stage: str) -> list[str]:
    """Names of the finished MLflow runs of a stage, sorted."""
    query = """
        select r.name from runs r
        join tags s on s.run_uuid = r.run_uuid and s.key = 'trimtab.stage' and s.value = ?
        join tags d on d.run_uuid = r.run_uuid and d.key = 'trimtab.done'
    """
    with closing(sqlite3.connect(state / "mlflow" / "mlflow.db")) as connection:
        return sorted(name for (name,) in connection.execute(query, (stage,)))


def unfinished_runs(state: Path) -> list[tuple[str, str]]:
    """Prefect flow runs that are in no final state."""
    query = (
        "select name, state_type from flow_run where state_type not in ('COMPLETED', 'FAILED', 'CRASHED', 'CANCELLED')"
    )
    with closing(sqlite3.connect(state / "prefect" / "prefect.db")) as connection:
        return list(connection.execute(query))


def stack_members(state: Path) -> list[str]:
    return [" ".join(each.cmdline()) for each in processes.members(StateFolder(state).read().stack_id)]


@pytest.fixture(scope="module")
def four_months(
    tmp_path_factory: pytest.TempPathFactory, outside: dict[str, str]
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """State and outcome of the main job from March to June, when a retraining is due."""
    state = tmp_path_factory.mktemp("job") / "state"
    return state, trimtab("demo", "--state", str(state), "--through", "2013-06", cwd=ROOT, env=outside)


def test_the_main_job_ends_with_its_table_and_where_to_look(four_months) -> None:
    state, done = four_months
    assert done.returncode == 0, done.stdout + done.stderr
    for text in ("2013-03", "2013-06", "promoted", "Bit for bit the same", "Prefect UI", "MLflow UI"):
        assert text in done.stdout
    report = (state / "report.html").read_text()
    assert "2013-06" in report
    assert "promoted" in report
    assert finished_stages(state, "monitor") == MONITORED
    assert finished_stages(state, "train") == ["train 2013-01..2013-02", "train 2013-01..2013-06"]
    assert unfinished_runs(state) == []


def test_nothing_is_left_running(four_months) -> None:
    assert stack_members(four_months[0]) == []


def test_a_second_run_repeats_no_finished_stage(four_months, outside: dict[str, str]) -> None:
    state, _ = four_months
    again = trimtab("demo", "--state", str(state), "--through", "2013-06", cwd=ROOT, env=outside)
    assert again.returncode == 0, again.stdout + again.stderr
    assert finished_stages(state, "monitor") == MONITORED
    assert len(finished_stages(state, "train")) == 2


@pytest.mark.long
@pytest.mark.parametrize("place", ["retrain", "load", "train", "score"])
def test_killed_in_a_stage_it_goes_on_from_there(place: str, tmp_path: Path, outside: dict[str, str]) -> None:
    for name in ("toy_recipe.py", "interrupted_recipe.py"):
        shutil.copy(ROOT / "tests" / name, tmp_path)
    assert trimtab("init", "interrupted_recipe:interrupted", cwd=tmp_path, env=outside).returncode == 0
    job = ["demo", "--recipe", "interrupted_recipe:interrupted", "--deployment", "interrupted", "--through", "2024-04"]
    state = tmp_path / ".trimtab"
    pipe = tmp_path / f"stop-at-{place}"
    os.mkfifo(pipe)
    first = subprocess.Popen(
        [*TRIMTAB, *job], cwd=tmp_path, env=outside, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        assert pipe.read_text() == "reached"
        before = finished_stages(state, "train"), finished_stages(state, "monitor")
    finally:
        first.kill()
        first.wait()
        processes.kill(processes.members(StateFolder(state).read().stack_id))
    pipe.unlink()
    done = trimtab(*job, cwd=tmp_path, env=outside)
    assert done.returncode == 0, done.stdout + done.stderr
    trained, monitored = finished_stages(state, "train"), finished_stages(state, "monitor")
    assert trained == ["train 2024-01..2024-02", "train 2024-01..2024-04"]
    assert monitored == ["monitor 2024-03", "monitor 2024-04"]
    assert set(before[0]) <= set(trained)
    assert set(before[1]) <= set(monitored)
    assert unfinished_runs(state) == []
    assert stack_members(state) == []
