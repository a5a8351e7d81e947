"""What the README says, done as it says it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from trimtab_infra.init import render

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def own_model() -> tuple[str, list[str]]:
    """The recipe and the commands of the chapter 'Your own model'."""
    chapter = README.split("## Your own model", 1)[1].split("\n## ", 1)[0]
    recipe = re.search(r"```python\n(.*?)```", chapter, re.DOTALL)
    commands = re.search(r"```\n(trimtab init.*?)```", chapter, re.DOTALL)
    assert recipe
    assert commands
    return recipe.group(1), [line.split("#")[0].strip() for line in commands.group(1).splitlines() if line.strip()]


def test_the_recipe_has_under_80_lines() -> None:
    assert len(own_model()[0].splitlines()) < 80


@pytest.mark.timeout(900)
def test_a_model_of_ones_own_runs_as_written(tmp_path: Path, outside: dict[str, str]) -> None:
    recipe, commands = own_model()
    (tmp_path / "sales_recipe.py").write_text(recipe)
    for command in commands:
        done = subprocess.run(
            command,
            shell=True,
            cwd=tmp_path,
            env=outside,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert "2024-04" in done.stdout
    assert "Bit for bit the same" in done.stdout


def test_the_shipped_prefect_yaml_is_what_init_writes() -> None:
    written = render("trimtab_flows.recipes.flights:flights", "flights")
    assert (ROOT / "prefect.yaml").read_text() == written


def test_no_file_carries_a_registry_address() -> None:
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    pattern = re.compile(rb"https?://[^\s\"']*(pypi|pythonhosted|debian\.org|npmjs)")
    found = [name for name in files if (ROOT / name).is_file() and pattern.search((ROOT / name).read_bytes())]
    assert found == []
