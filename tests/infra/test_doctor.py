"""`trimtab doctor`: what each check makes of what it sees, and the command against the real stack and against none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from trimtab_infra.doctor.backing import databases
from trimtab_infra.doctor.findings import Finding, fine, safely
from trimtab_infra.doctor.host import bytecode, space
from trimtab_infra.doctor.packages import BREAKS, judge
from trimtab_infra.doctor.services import apart_s
from trimtab_infra.stack.stack import Stack

INSTALLED = {"prefect": "3.8.8", "mlflow": "3.17.2", "fastapi": "0.150.0"}
REQUIRES = ["prefect>=3.8.8,<3.9", "mlflow>=3.17.2,<3.18", "fastapi>=0.139,<0.151", "pytest>=9; extra == 'dev'"]


@pytest.mark.parametrize(
    ("installed", "says"),
    [
        (INSTALLED, "ok packages 3 requirements are met (prefect 3.8.8, mlflow 3.17.2, fastapi 0.150.0)"),
        (INSTALLED | {"fastapi": "0.160.1"}, "FAULT fastapi 0.160.1: Prefect 3.8.8's server does not start with it"),
        (INSTALLED | {"mlflow": "3.17.1"}, "FAULT mlflow 3.17.1, and Trimtab needs <3.18,>=3.17.2"),
        (
            {"prefect": "3.8.8", "mlflow": "3.17.2"},
            "FAULT fastapi not installed -> pip install 'fastapi<0.151,>=0.139'",
        ),
    ],
)
def test_packages(installed: dict[str, str], says: str) -> None:
    (found,) = judge(REQUIRES, installed, BREAKS)
    assert " ".join(str(found).split()).startswith(says)


def test_what_breaks_is_told_although_nothing_requires_it() -> None:
    (found,) = judge([], {"fastapi": "0.151"})
    assert (found.verdict, found.todo) == ("FAULT", "pip install 'fastapi!=0.151'")


def test_a_disk_that_is_full_or_closed() -> None:
    here = Path("/data")
    assert space("disk", here, 60 << 30, True).verdict == "ok"
    assert space("disk", here, 2 << 30, True).verdict == "note"
    assert space("disk", here, 1 << 20, True).verdict == "FAULT"
    assert "cannot be written" in space("disk", here, 60 << 30, False).seen


def test_byte_code_that_nobody_writes() -> None:
    unset = {"PYTHONDONTWRITEBYTECODE": "1"}
    assert [one.verdict for embedded in (True, False) for one in bytecode(unset, embedded)] == ["note", "FAULT"]
    assert [one.verdict for one in bytecode(unset | {"PYTHONPYCACHEPREFIX": "/cache"}, False)] == ["ok"]


@pytest.mark.parametrize(
    ("server", "here", "took", "apart"),
    [(100, 100.9, 0.0, 0), (100, 101.5, 0.5, 0), (100, 111.0, 0.0, 10), (100, 90.0, 3.0, 10)],
)
def test_clocks_are_apart_only_where_they_surely_are(server: float, here: float, took: float, apart: float) -> None:
    assert apart_s(server, here, took) == pytest.approx(apart)


def test_a_database_with_the_wrong_driver_or_that_is_away_is_named_without_its_password() -> None:
    (away, wrong) = databases(
        {
            "MLFLOW_BACKEND_STORE_URI": "postgresql://mlflow:hunter2@db/mlflow",
            "PREFECT_API_DATABASE_CONNECTION_URL": "postgresql+asyncpg://prefect:hunter2@127.0.0.1:9/prefect",
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": "sqlite+aiosqlite:////tmp/prefect.db",
        }
    )
    assert "write postgresql+psycopg2://" in wrong.todo
    assert "no answer from 127.0.0.1:9/prefect" in away.seen
    assert "hunter2" not in f"{wrong}{away}"


def test_a_check_that_breaks_is_a_line_and_the_others_go_on() -> None:
    def breaks() -> list[Finding]:
        raise RuntimeError("two\nlines")

    (found,) = safely("gpu", breaks)  # type: ignore[arg-type]
    assert str(found).split()[:4] == ["FAULT", "gpu", "RuntimeError:", "two"]
    assert "\n" not in str(found)
    assert list(safely("gpu", lambda: iter([fine("gpu", "x")]))) == [fine("gpu", "x")]


def doctor(env: dict[str, str], *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "trimtab_infra", "doctor", *options]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stdout + done.stderr
    return done


def test_a_stack_that_is_well(stack: Stack, outside: dict[str, str]) -> None:
    done = doctor(outside, "--state", str(stack.folder.path))
    assert done.returncode == 0, done.stdout + done.stderr
    seen = {line.split()[1]: line for line in done.stdout.splitlines()}
    urls = stack.urls()
    assert f"3.8.8 at {urls['prefect']}/api, we may write" in seen["prefect"]
    assert f"at {urls['mlflow']}, we may write" in seen["mlflow"]
    assert f"directory store {stack.folder.store}, we may write" in seen["store"]
    assert not list((stack.folder.store / "doctor").glob("*")), "it left something behind"


def test_a_stack_that_is_away_is_said_what_to_do_about(outside: dict[str, str], tmp_path: Path) -> None:
    done = doctor(outside, "--state", str(tmp_path / "none"))
    assert "is not running -> trimtab up starts it" in done.stdout
    env = outside | {"TRIMTAB_STACK": "production", "PREFECT_API_URL": "http://127.0.0.1:9/api", "TRIMTAB_POLL": "x"}
    done = doctor(env)
    assert done.returncode == 1
    assert "no setting is called TRIMTAB_POLL" in done.stdout
    assert "no answer from http://127.0.0.1:9/api/ (" in done.stdout
    assert "correct PREFECT_API_URL" in done.stdout
