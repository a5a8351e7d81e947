"""Find a recipe by its reference ``module:attribute``, and say clearly when that fails.

RecipeError (ValueError)
├── UnknownRecipe      no such module, file or attribute
└── BrokenRecipe       it is there, and cannot be used
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from trimtab_flows.contracts.contract import Contract
from trimtab_flows.local_time import InvalidZone, zone_named
from trimtab_flows.recipe import Label, Metric, Recipe
from trimtab_flows.recipe_source import RecipeSource, read_source
from trimtab_flows.windows import InvalidWindow, Window

__all__ = ["BrokenRecipe", "LoadedRecipe", "RecipeError", "UnknownRecipe", "load_recipe"]

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")


class RecipeError(ValueError):
    """A recipe that cannot be used."""


class UnknownRecipe(RecipeError):
    """Nothing was found under this reference."""


class BrokenRecipe(RecipeError):
    """Something was found under this reference, and it is no usable recipe."""


@dataclass(frozen=True)
class LoadedRecipe:
    """A recipe, the reference it was found by, and its code.

    Attributes:
        code: SHA-256 (hex) over ``source``: part of the key of all that is made with the recipe.
        source: its own modules, as they were when it was imported.
    """

    reference: str
    recipe: Recipe
    code: str
    source: RecipeSource = field(default_factory=lambda: RecipeSource(()))


#: The source of each module that recipes were loaded from here. A file that is changed later is not what runs.
_sources: dict[str, tuple[ModuleType, RecipeSource]] = {}


def load_recipe(reference: str) -> LoadedRecipe:
    """Import the recipe that ``reference`` names; the current folder is searched first.

    Args:
        reference: ``module:attribute``, for example ``trimtab_flows.recipes.flights:flights``.

    Raises:
        UnknownRecipe: the module or the attribute does not exist.
        BrokenRecipe: the module fails to import, or the attribute is not a complete recipe.
    """
    module_name, found, attribute = reference.partition(":")
    if not found or not module_name or not attribute:
        raise UnknownRecipe(
            f"recipe {reference!r} is not understood: write module:attribute, "
            "for example trimtab_flows.recipes.flights:flights"
        )
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise UnknownRecipe(
                f"recipe {reference!r}: there is no module {error.name!r} in {here} or among the installed packages"
            ) from None
        raise BrokenRecipe(f"recipe {reference!r} does not import: {_where(error)}") from error
    except (Exception, SystemExit) as error:
        raise BrokenRecipe(f"recipe {reference!r} does not import: {_where(error)}") from error
    if not hasattr(module, attribute):
        known = sorted(name for name, value in vars(module).items() if isinstance(value, Recipe))
        hint = f"it has {', '.join(known)}" if known else "it has no recipe; make an instance of your class there"
        raise UnknownRecipe(f"recipe {reference!r}: module {module_name!r} has no {attribute!r}; {hint}")
    recipe = getattr(module, attribute)
    if inspect.isclass(recipe) and issubclass(recipe, Recipe):
        raise BrokenRecipe(
            f"recipe {reference!r} is the class; name an instance of it: {attribute.lower()} = {attribute}()"
        )
    if not isinstance(recipe, Recipe):
        raise BrokenRecipe(
            f"recipe {reference!r} is a {type(recipe).__name__}; a recipe is an instance of trimtab_flows.recipe.Recipe"
        )
    problems = list(_problems(recipe))
    if problems:
        raise BrokenRecipe(f"recipe {reference!r}: " + "; ".join(problems))
    source = _source_of(module)
    return LoadedRecipe(reference, recipe, source.digest, source)


def _source_of(module: ModuleType) -> RecipeSource:
    known = _sources.get(module.__name__)
    if known is None or known[0] is not module:
        known = _sources[module.__name__] = (module, read_source(module.__name__))
    return known[1]


def _where(error: BaseException) -> str:
    """The error with the last place in a file, as one line."""
    place = ""
    if isinstance(error, SyntaxError):
        place = f" ({error.filename}, line {error.lineno})"
        return f"SyntaxError: {error.msg}{place}"
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is not None:
        place = f" ({trace.tb_frame.f_code.co_filename}, line {trace.tb_lineno})"
    return f"{type(error).__name__}: {error}{place}".replace("\n", " ")


def _problems(recipe: Recipe) -> Iterator[str]:
    """What is missing or wrong in a recipe, each as a phrase."""
    kinds = {"name": str, "start": str, "label": Label, "features": Contract, "predictions": Contract, "metrics": tuple}
    missing = [name for name in (*kinds, "raw") if not hasattr(recipe, name)]
    if missing:
        yield f"it lacks {', '.join(missing)}"
        return
    for name, kind in kinds.items():
        if not isinstance(getattr(recipe, name), kind):
            yield f"{name} is a {type(getattr(recipe, name)).__name__}; it must be a {kind.__name__}"
            return
    if not _NAME.fullmatch(recipe.name):
        yield f"name {recipe.name!r} may have lower-case letters, digits, - and _ only"
    try:
        zone_named(recipe.timezone)
    except InvalidZone as error:
        yield f"timezone: {error}"
    try:
        start = Window.parse(recipe.start)
        if Window.containing(start.start, recipe.cadence) != start:
            yield f"start {recipe.start!r} is not one {recipe.cadence}"
    except InvalidWindow as error:
        yield f"start or cadence: {error}"
    if not recipe.metrics or not all(isinstance(metric, Metric) for metric in recipe.metrics):
        yield "metrics must hold at least one Metric, and nothing else"
    if not recipe.raw or not all(isinstance(contract, Contract) for contract in recipe.raw.values()):
        yield "raw must map each table that load returns to its Contract"
    if not recipe.features.event_time:
        yield "the features contract needs event_time: training and holdout are split by it"
    if not recipe.features.key:
        yield "the features contract needs key: predictions are joined to labels by it"
    if recipe.bootstrap_windows < 1:
        yield f"bootstrap_windows is {recipe.bootstrap_windows}; it must be 1 or more"
