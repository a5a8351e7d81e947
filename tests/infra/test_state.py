"""The state folder: what is ours, what is not, and that only one command at a time changes it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trimtab_infra.errors import ForeignState, StackBusy
from trimtab_infra.stack.state import FORMAT, Part, State, StateFolder


@pytest.fixture
def folder(tmp_path: Path) -> StateFolder:
    """A state folder that has been made."""
    made = StateFolder(tmp_path / "state")
    made.claim()
    made.prepare()
    return made


def test_what_is_written_is_read(folder: StateFolder) -> None:
    state = State("abc", {"prefect": 4200}, {"prefect": Part(12, 34.5, "/logs/prefect.log")})
    folder.write(state)
    assert folder.read() == state


def test_a_stack_keeps_its_id(folder: StateFolder) -> None:
    first = folder.read().stack_id
    folder.claim()
    assert first
    assert folder.prepare().stack_id == first


def test_git_does_not_see_the_folder(folder: StateFolder) -> None:
    assert (folder.path / ".gitignore").read_text() == "*\n"


def test_no_folder_reads_as_a_stack_without_parts(tmp_path: Path) -> None:
    assert StateFolder(tmp_path / "none").read().parts == {}


def test_a_folder_with_somebodys_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ForeignState, match="has files and is no state folder"):
        StateFolder(tmp_path).claim()
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]


def test_what_a_first_command_leaves_when_killed_is_ours(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    (tmp_path / "stack.new").write_text('{"form')
    folder = StateFolder(tmp_path)
    folder.claim()
    assert folder.prepare().stack_id


def test_another_version_is_refused_by_name(folder: StateFolder) -> None:
    fields = json.loads(folder.file.read_text())
    folder.file.write_text(json.dumps(fields | {"format": FORMAT + 1}))
    with pytest.raises(ForeignState, match=rf"another version of Trimtab \(format {FORMAT + 1}, this one reads"):
        folder.read()


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": 1}', '{"format": 1, "parts": {"prefect": 1}}'])
def test_a_file_that_makes_no_sense_is_refused(folder: StateFolder, text: str) -> None:
    folder.file.write_text(text)
    with pytest.raises(ForeignState, match=r"stack\.json cannot be read"):
        folder.read()


@pytest.mark.parametrize("below", [".", "deeper/still"])
def test_a_file_cannot_be_a_state_folder(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ForeignState, match=r"cannot be a state folder \(Not a directory\)"):
        StateFolder(tmp_path / "file" / below).claim()


def test_only_our_own_folder_is_wiped(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ForeignState, match="is left alone"):
        StateFolder(tmp_path).wipe()
    assert (tmp_path / "thesis.tex").exists()


def test_a_link_to_a_larger_disk_can_be_wiped_and_used_again(tmp_path: Path) -> None:
    link = tmp_path / ".trimtab"
    link.symlink_to(tmp_path / "large", target_is_directory=True)
    folder = StateFolder(link)
    folder.claim()
    folder.prepare()
    folder.wipe()
    assert not (tmp_path / "large").exists()
    folder.claim()
    assert folder.prepare().stack_id


def test_one_command_at_a_time(folder: StateFolder) -> None:
    with (
        folder.locked(),
        pytest.raises(StackBusy, match="another trimtab command is working on"),
        StateFolder(folder.path).locked(),
    ):
        pytest.fail("two commands hold the lock")
    with folder.locked():
        assert folder.read().stack_id
