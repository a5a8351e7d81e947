"""A module that a recipe imports is changed: what was made with the old one is made anew, on real servers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

RECIPE = """
import polars as pl
from toy_recipe import Toy

class Changed(Toy):
    name = "changed-code"
    refit = False

    def version(self, window):
        return "1"

    def build(self, tables):
        import prepare  # only when it is needed, as many do
        return prepare.build(tables["events"])

r = Changed()
"""
HELPER = "import polars as pl\n\ndef build(events):\n    return events.with_columns(x=pl.col('x') * SCALE)\n"
INGEST = """
from trimtab_flows import runtime
from trimtab_flows.ingest import ingest
from trimtab_flows.manifest import collect
done = ingest("changing:r", "2024-01")
frame = runtime.library().get(done.features.accepted)
manifest = collect(stage="x", recipe="changing:r", parameters={}, seed=0, inputs={})
small = frame["x"].abs().max() < 0.1
print("\\nFOUND", done.tables[0].accepted, done.features.accepted, small, *manifest.recipe_modules)
"""


@pytest.mark.usefixtures("environment")
def test_a_changed_helper_is_built_with_again(tmp_path: Path) -> None:
    (tmp_path / "changing.py").write_text(RECIPE)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path]), "PYTHONDONTWRITEBYTECODE": "1"}

    def ingest(scale: float) -> tuple[list[str], str]:
        (tmp_path / "prepare.py").write_text(f"{HELPER}\nSCALE = {scale}\n")
        done = subprocess.run(
            [sys.executable, "-c", INGEST], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=200
        )
        found = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("FOUND")]
        assert found, done.stderr
        return found[0], done.stderr

    first, said = ingest(1)
    second, _ = ingest(0.001)
    third, _ = ingest(1)
    assert "(of the modules changing, prepare, toy_recipe)" in said
    assert first[3:] == ["changing", "prepare", "toy_recipe"]
    assert [first[2], second[2], third[2]] == ["False", "True", "False"]
    assert first[0] == second[0]
    assert first[1] != second[1]
    assert third == first
