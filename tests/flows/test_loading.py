from __future__ import annotations

from pathlib import Path

import pytest

from trimtab_flows.loading import BrokenRecipe, UnknownRecipe, load_recipe


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_shipped_recipe_loads_with_its_code_digest() -> None:
    loaded = load_recipe("trimtab_flows.recipes.flights:flights")
    assert loaded.recipe.name == "flights"
    assert len(loaded.code) == 64


@pytest.mark.parametrize("reference", ["", "flights", "flights:", ":flights", "a/b.py:x"])
def test_a_reference_of_another_form_is_refused(reference: str) -> None:
    with pytest.raises(UnknownRecipe) as refusal:
        load_recipe(reference)
    assert repr(reference) in str(refusal.value)


def test_a_missing_module_is_named(folder: Path) -> None:
    with pytest.raises(UnknownRecipe, match="no module 'nowhere_at_all'") as refusal:
        load_recipe("nowhere_at_all:recipe")
    assert str(folder) in str(refusal.value)


def test_a_missing_attribute_names_what_there_is() -> None:
    with pytest.raises(UnknownRecipe, match=r"has no 'fligths'.*flights"):
        load_recipe("trimtab_flows.recipes.flights:fligths")


@pytest.mark.parametrize(
    ("module", "text", "said"),
    [
        ("broken_syntax", "def f(:\n", "SyntaxError"),
        ("broken_import", "import not_installed_here\n", "No module named 'not_installed_here'"),
        ("broken_run", "x = 1\n1 / 0\n", r"ZeroDivisionError: division by zero \(.*broken_run.py, line 2\)"),
        ("broken_exit", "raise SystemExit(3)\n", "SystemExit: 3"),
        ("broken_kind", "recipe = {'name': 'x'}\n", "is a dict; a recipe is an instance"),
        (
            "broken_class",
            "from trimtab_flows.recipe import Recipe\nclass recipe(Recipe):\n    pass\n",
            "is the class; name an instance",
        ),
        (
            "broken_gaps",
            "from trimtab_flows.recipe import Recipe\n"
            "class R(Recipe):\n"
            "    name = 'r'\n"
            "    def load(self, window): ...\n"
            "    def build(self, tables): ...\n"
            "    def train(self, frame, parameters, seed, resources): ...\n"
            "    def predict(self, model, frame): ...\n"
            "recipe = R()\n",
            "it lacks start, label, features, predictions, metrics, raw",
        ),
    ],
)
def test_a_broken_recipe_says_what_is_wrong_and_where(folder: Path, module: str, text: str, said: str) -> None:
    (folder / f"{module}.py").write_text(text)
    with pytest.raises(BrokenRecipe, match=said):
        load_recipe(f"{module}:recipe")
