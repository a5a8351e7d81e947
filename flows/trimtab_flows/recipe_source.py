"""The source of a recipe: every module of its own project that it imports, however deep, and one digest over them.

The digest is part of the key of every result that is kept, so a changed helper module makes the work be done again.
Imports are read from the source, nothing is run: those inside functions count too, and the digest is the same in each
process. Own is what is neither the standard library, nor an installed distribution, nor Trimtab; of a recipe that is
itself installed, the package that it is part of.

Not seen: a module whose name the code puts together while it runs, and files that are no modules (data, settings).
A recipe says with ``version`` that its data changed.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import site
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.machinery import ModuleSpec
from pathlib import Path

__all__ = ["RecipeSource", "find_file", "read_source"]

#: Trimtab's packages are libraries to a recipe, but for the recipes that come with it.
_TRIMTAB = frozenset({"trimtab_flows", "trimtab_blocks", "trimtab_work_pools", "trimtab_infra"})
_SHIPPED = "trimtab_flows.recipes"


@dataclass(frozen=True)
class RecipeSource:
    """SHA-256 (hex) of the file of each module, by the module's name, sorted; ``digest`` is one over all of them."""

    modules: tuple[tuple[str, str], ...]

    @property
    def digest(self) -> str:
        """SHA-256 (hex) over names and files; where the project lies makes no difference."""
        text = "\n".join(f"{name} {digest}" for name, digest in self.modules)
        return hashlib.sha256(text.encode()).hexdigest()

    def __str__(self) -> str:
        names = ", ".join(name for name, _ in self.modules)
        return f"{self.digest[:12]} (of the modules {names})"


def read_source(module: str) -> RecipeSource:
    """The source of the recipe in a module (dotted name), which must be importable. A few milliseconds a module.

    Raises:
        ModuleNotFoundError: there is no such module, or it has no file.
    """
    first = _with_file(module)
    own = {module.partition(".")[0]} if _is_library(first) else frozenset[str]()
    found: dict[str, str] = {}
    seen: set[str] = set()
    waiting = list(_with_parents(module))
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        spec = first if name == module else _find(name)
        if spec is None or not spec.has_location or not (name == module or _is_own(name, spec, own)):
            continue
        data = _read(spec)
        found[name] = hashlib.sha256(data).hexdigest()
        for imported in _imports(data, name, spec.submodule_search_locations is not None):
            waiting += _with_parents(imported)
    return RecipeSource(tuple(sorted(found.items())))


def find_file(module: str) -> Path:
    """The file of a module (dotted name), which need not be loaded; one in a zip is a path through the zip.

    Raises:
        ModuleNotFoundError: there is no such module, or it has no file.
    """
    return Path(_with_file(module).origin or "")


def _with_file(module: str) -> ModuleSpec:
    spec = _find(module) if module.strip(".") else None
    if spec is None or not spec.has_location:
        raise ModuleNotFoundError(f"module {module!r} is not found, or has no source file", name=module)
    return spec


def _with_parents(name: str) -> Iterator[str]:
    """A module's packages run before it does."""
    parts = name.split(".")
    return (".".join(parts[:count]) for count in range(1, len(parts) + 1))


def _is_own(name: str, spec: ModuleSpec, own: frozenset[str] | set[str]) -> bool:
    top = name.partition(".")[0]
    if top in _TRIMTAB:
        return name == _SHIPPED or name.startswith(f"{_SHIPPED}.")
    return top in own or not _is_library(spec)


def _is_library(spec: ModuleSpec) -> bool:
    """Whether a module's file belongs to Python or to an installed distribution."""
    file = Path(spec.origin or "").absolute()
    if {"site-packages", "dist-packages"} & set(file.parts):
        return True
    return any(folder in parents for parents in (file.parents, file.resolve().parents) for folder in _library_folders())


@cache
def _library_folders() -> frozenset[Path]:
    paths = sysconfig.get_paths()
    named = [paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    return frozenset(
        Path(folder).absolute() for folder in [*named, *site.getsitepackages(), site.getusersitepackages()]
    )


def _find(name: str) -> ModuleSpec | None:
    """Where a module is, or would be imported from; packages on the way to it are not run for this."""
    loaded = sys.modules.get(name)
    spec = getattr(loaded, "__spec__", None)
    if isinstance(spec, ModuleSpec):
        return spec
    parent, _, _ = name.rpartition(".")
    path = None
    if parent:
        above = _find(parent)
        path = above.submodule_search_locations if above else None
        if path is None:
            return None
    for finder in sys.meta_path:
        look = getattr(finder, "find_spec", None)  # Python passes over those of the old kind too
        try:
            found: ModuleSpec | None = look(name, path) if look else None
        except KeyError:  # Python finds a namespace package in a package only when that is loaded
            found = _namespace(name, path or [])
        except (ImportError, ValueError, AttributeError):
            continue
        if found is not None:
            return found
    return None


def _namespace(name: str, path: list[str]) -> ModuleSpec | None:
    """A package without ``__init__.py`` in the folders of another package."""
    folders = [str(folder) for entry in path if (folder := Path(entry, name.rpartition(".")[2])).is_dir()]
    if not folders:
        return None
    spec = ModuleSpec(name, None, is_package=True)
    spec.submodule_search_locations = folders
    return spec


def _read(spec: ModuleSpec) -> bytes:
    """The bytes of a module's file, which may lie in a zip."""
    origin = spec.origin or ""
    file = Path(origin)
    if file.is_file():
        return file.read_bytes()
    data: bytes = spec.loader.get_data(origin)  # type: ignore[union-attr]  # every loader of files has it
    return data


def _imports(data: bytes, module: str, is_package: bool) -> Iterator[str]:
    """Names that a source file may import, absolute; of ``from a import b`` both ``a`` and ``a.b``."""
    try:
        tree = ast.parse(data)
    except (SyntaxError, ValueError):  # compiled, or broken where nothing runs it
        return
    package = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute("." * node.level + (node.module or ""), package)
            if base:
                yield base
                yield from (f"{base}.{alias.name}" for alias in node.names if alias.name != "*")
        elif isinstance(node, ast.Call):
            yield from filter(None, [_called_by_name(node, package)])


def _called_by_name(call: ast.Call, package: str) -> str | None:
    """The module in ``import_module("a.b")`` and ``__import__("a.b")``, where it is written out."""
    function = call.func
    called = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    if called not in ("import_module", "__import__") or not call.args:
        return None
    name = call.args[0]
    if isinstance(name, ast.Constant) and isinstance(name.value, str) and name.value:
        return _absolute(name.value, package)
    return None


def _absolute(name: str, package: str) -> str | None:
    """A relative name from within a package, as an absolute one; None if it leads out of every package."""
    if not name.startswith("."):
        return name
    try:
        return importlib.util.resolve_name(name, package)
    except ImportError:
        return None
