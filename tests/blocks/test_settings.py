"""Settings: where they come from, what is wrong with one in one line, and a document that tells of all of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from trimtab_blocks.settings import TOLD, SettingError, Settings, read, table, unknown, variable

ROOT = Path(__file__).parents[2]

#: Variables of the tests' own, and what only looks like one.
_NOT_SETTINGS = {"TRIMTAB_", "TRIMTAB_CONFIG", "TRIMTAB_SECRETS_DIR"}


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No settings of the session, and an empty working directory."""
    for name in (*map(variable, Settings.model_fields), "TRIMTAB_CONFIG", "TRIMTAB_SECRETS_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def test_without_any_it_is_the_embedded_stack() -> None:
    settings = read()
    assert (settings.stack, settings.state, settings.blocks, settings.pool) == (
        "embedded",
        Path(".trimtab"),
        "default",
        "trimtab",
    )


def test_environment_before_secret_files_before_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "trimtab.toml").write_text(
        'stack = "production"\npool = "of the file"\nstore_access_key_id = "of the file"\nnode_cpus = 2\n'
    )
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "trimtab_store_access_key_id").write_text("of a secret\n")
    monkeypatch.setenv("TRIMTAB_SECRETS_DIR", str(secrets))
    monkeypatch.setenv("TRIMTAB_POOL", "of the environment")
    monkeypatch.setenv("TRIMTAB_NODE_CPUS", "")
    settings = read()
    assert (settings.stack, settings.pool, settings.node_cpus) == ("production", "of the environment", 2)
    assert settings.store_access_key_id is not None
    assert settings.store_access_key_id.get_secret_value() == "of a secret"
    assert "of a secret" not in repr(settings)


@pytest.mark.parametrize(
    ("environment", "file", "said"),
    [
        ({"TRIMTAB_STACK": "cloud"}, "", "TRIMTAB_STACK must be embedded or production, not 'cloud'"),
        ({"TRIMTAB_NODE_CPUS": "0"}, "", "TRIMTAB_NODE_CPUS must be a number above 0, not '0'"),
        ({"TRIMTAB_DRAIN_SECONDS": "soon"}, "", "TRIMTAB_DRAIN_SECONDS must be a number of seconds, not 'soon'"),
        ({"TRIMTAB_STORE_ENDPOINT_URL": "s3:9000"}, "", "TRIMTAB_STORE_ENDPOINT_URL must be an address"),
        ({}, "stack = 7", "stack in trimtab.toml must be embedded or production, not 7"),
        ({}, "poll = 'a'", "trimtab.toml sets 'poll', which is no setting; there are stack, state"),
        ({}, "poll", "trimtab.toml is no TOML"),
        ({}, "store_secret_access_key = 4711", "store_secret_access_key in trimtab.toml must be a text$"),
        ({"TRIMTAB_CONFIG": "nowhere.toml"}, "", "TRIMTAB_CONFIG names 'nowhere.toml', which is no file"),
        ({"TRIMTAB_SECRETS_DIR": "nowhere"}, "", "TRIMTAB_SECRETS_DIR names 'nowhere', which is no folder"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    environment: dict[str, str], file: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if file:
        Path("trimtab.toml").write_text(file)
    with pytest.raises(SettingError, match=said) as caught:
        read()
    assert "\n" not in str(caught.value)


def test_a_misspelled_variable_is_noticed() -> None:
    assert unknown({"TRIMTAB_POOL": "a", "TRIMTAB_POLL": "b", "TRIMTAB_NODE": "c", "PATH": "d"}) == ["TRIMTAB_POLL"]


def test_the_document_has_the_table() -> None:
    assert table() in (ROOT / "infra" / "SETTINGS.md").read_text(), "python -m trimtab_blocks.settings prints it"


def test_every_variable_that_our_files_name_is_a_setting() -> None:
    known = {variable(name) for name in (*Settings.model_fields, *TOLD)} | _NOT_SETTINGS
    for folder in ("blocks", "flows", "work_pools", "infra"):
        for file in (ROOT / folder).rglob("*"):
            if file.suffix in {".py", ".service"} and file.name != "settings.py":
                named = set(re.findall(r"\bTRIMTAB_[A-Z_]+", file.read_text()))
                assert named <= known, f"{file} names {sorted(named - known)}"
