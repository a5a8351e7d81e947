"""What of a recipe's own project is hashed: all it imports, however deep and wherever, and nothing of anyone else's."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from trimtab_flows.recipe_source import read_source

#: A project of ten files; ``unused`` is imported by none of them.
PROJECT = {
    "recipe.py": "from shared import Base\nimport prepare as p\nfrom pkg import steps\n",
    "prepare.py": "import polars as pl\nSCALE = 1.0\n\ndef build(f):\n    import lazy\n    return lazy.f(f)\n",
    "lazy.py": "import importlib\nf = importlib.import_module('by_name').f\n",
    "by_name.py": "def f(x): return x\n",
    "pkg/__init__.py": "",
    "pkg/steps.py": "from . import units\nfrom .deep.er import g\nfrom ..beyond import nothing\n",
    "pkg/units.py": "import json, numpy.linalg, no_such_module_anywhere\n",
    "pkg/deep/er.py": "import recipe\n\ndef g(): ...\n",  # namespace package, and a ring
    "unused.py": "",
    "elsewhere/shared.py": "class Base: ...\n",
}
IMPORTED = ["by_name", "lazy", "pkg", "pkg.deep.er", "pkg.steps", "pkg.units", "prepare", "recipe", "shared"]


def write(folder: Path, files: dict[str, str] = PROJECT) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return write(tmp_path / "project")


def digest(project: Path, module: str = "recipe", beside: str = "elsewhere") -> list[str]:
    """Digest and modules as another process sees them."""
    say = (
        "from trimtab_flows.recipe_source import read_source; import sys;"
        "found = read_source(sys.argv[1]); print(found.digest, *dict(found.modules))"
    )
    path = os.pathsep.join([str(project), str(project / beside)])
    done = subprocess.run(
        [sys.executable, "-c", say, module],
        env={**os.environ, "PYTHONPATH": path},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_all_that_the_project_imports_is_named_and_nothing_else(project: Path) -> None:
    assert digest(project)[1:] == IMPORTED


@pytest.mark.parametrize("file", [name for name in PROJECT if name != "unused.py"])
def test_a_changed_module_changes_the_digest(project: Path, file: str) -> None:
    before = digest(project)[0]
    (project / file).write_text(PROJECT[file] + "CHANGED = 1\n")
    assert digest(project)[0] != before


def test_what_is_not_imported_and_where_the_project_lies_changes_nothing(project: Path, tmp_path: Path) -> None:
    before = digest(project)[0]
    (project / "unused.py").write_text("1 / 0\n")
    (project / "data.csv").write_text("a\n1\n")
    assert digest(project)[0] == before == digest(write(tmp_path / "moved"))[0]


def test_it_is_the_same_before_and_after_everything_was_imported(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in ("pkg/steps.py", "pkg/units.py"):
        (project / file).write_text("")
    monkeypatch.syspath_prepend(str(project))
    monkeypatch.syspath_prepend(str(project / "elsewhere"))
    before = read_source("recipe")
    try:
        __import__("recipe")
        __import__("lazy")
        assert read_source("recipe") == before
    finally:
        for name in [*IMPORTED, "pkg.deep"]:
            sys.modules.pop(name, None)


def test_of_an_installed_recipe_its_own_package_counts_and_no_other(tmp_path: Path) -> None:
    files = {
        "site-packages/acme/__init__.py": "",
        "site-packages/acme/recipe.py": "from acme import prepare\nimport other, flask\n",
        "site-packages/acme/prepare.py": "",
        "site-packages/other.py": "",
    }
    write(tmp_path, files)
    assert digest(tmp_path, "acme.recipe", "site-packages")[1:] == ["acme", "acme.prepare", "acme.recipe"]


def test_a_project_in_a_zip(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "app.zip", "w") as archive:
        archive.writestr("recipe.py", "import prepare\n")
        archive.writestr("prepare.py", "")
    assert digest(tmp_path, beside="app.zip")[1:] == ["prepare", "recipe"]


def test_of_a_shipped_recipe_trimtab_itself_does_not_count() -> None:
    modules = dict(read_source("trimtab_flows.recipes.flights").modules)
    assert list(modules) == ["trimtab_flows.recipes", "trimtab_flows.recipes.flights"]


@pytest.mark.parametrize("module", ["nowhere_at_all", "nowhere.at_all", "sys", "", ".."])
def test_a_module_without_a_file_is_named(module: str) -> None:
    with pytest.raises(ModuleNotFoundError, match="has no source file"):
        read_source(module)


def test_it_says_what_was_hashed(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(project))
    source = read_source("by_name")
    assert str(source) == f"{source.digest[:12]} (of the modules by_name)"
