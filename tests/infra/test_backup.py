"""Backup and restore: of a real stack while it runs, and what is refused."""

from __future__ import annotations

import shutil
import sqlite3
import tarfile
from contextlib import closing
from pathlib import Path

import pytest

from conftest import STARTS_SERVERS_S
from infra.conftest import Command
from trimtab_infra.stack.stack import Stack

pytestmark = pytest.mark.timeout(STARTS_SERVERS_S)


@pytest.fixture(scope="module")
def taken(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Command]:
    """A backup of the session's stack, which runs, and a command for that stack."""
    command = Command(stack.project, stack.folder.path)
    blob = stack.folder.store / "backup-test" / "blob"
    blob.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(b"immutable")
    file = tmp_path_factory.mktemp("backup") / "trimtab.tar.gz"
    done = command("backup", str(file))
    shutil.rmtree(blob.parent)
    assert done.returncode == 0, done.stderr
    assert str(file) in done.stdout
    assert [one.name for one in file.parent.iterdir()] == [file.name]
    return file, command


def test_a_backup_of_a_running_stack_is_whole(taken: tuple[Path, Command], tmp_path: Path) -> None:
    file, command = taken
    state = tmp_path / "restored"
    done = command("restore", str(file), "--state", str(state))
    assert done.returncode == 0, done.stderr
    assert (state / "store" / "backup-test" / "blob").read_bytes() == b"immutable"
    for name, table in {"prefect/prefect.db": "deployment", "mlflow/mlflow.db": "experiments"}.items():
        with closing(sqlite3.connect(state / name)) as restored:
            assert restored.execute("pragma integrity_check").fetchone() == ("ok",)
            assert restored.execute(f"select count(*) from {table}").fetchone()[0] >= 1
    there, here = Stack(state, command.project).folder.read(), command.stack.folder.read()
    assert there.ports == here.ports
    assert there.stack_id != here.stack_id
    # What is there is not replaced unless that is said.
    assert "say --overwrite" in command.refused("restore", str(file), "--state", str(state))
    assert command("restore", str(file), "--state", str(state), "--overwrite").returncode == 0


def test_what_is_refused(taken: tuple[Path, Command], tmp_path: Path) -> None:
    file, command = taken
    assert "is running; run `trimtab down` first" in command.refused("restore", str(file), "--overwrite")
    assert "is there already" in command.refused("backup", str(file))
    assert "nothing to back up" in command.refused("backup", str(tmp_path / "b"), "--state", str(tmp_path / "none"))
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").touch()
    assert "left alone" in command.refused("restore", str(file), "--state", str(mine), "--overwrite")
    assert (mine / "thesis.tex").exists()


def test_a_backup_that_is_not_whole_is_refused_and_nothing_is_made(taken: tuple[Path, Command], tmp_path: Path) -> None:
    file, command = taken
    state = tmp_path / "state"

    def refused(bad: Path) -> str:
        said = command.refused("restore", str(bad), "--state", str(state))
        assert not state.exists()
        assert not list(tmp_path.glob(".state*"))
        return said

    cut = tmp_path / "cut.tar.gz"
    cut.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert "cannot be read as a backup" in refused(cut)
    with tarfile.open(file) as tar:
        tar.extractall(tmp_path / "opened", filter="data")
    (tmp_path / "opened" / "store" / "backup-test" / "blob").write_bytes(b"altered!!")
    altered = tmp_path / "altered.tar.gz"
    with tarfile.open(altered, "w:gz") as tar:
        tar.add(tmp_path / "opened", arcname=".")
    assert "store/backup-test/blob is not what was backed up" in refused(altered)
    assert "there is no" in refused(tmp_path / "nothing")
    (tmp_path / "text").write_text("hello")
    assert "cannot be read as a backup" in refused(tmp_path / "text")
