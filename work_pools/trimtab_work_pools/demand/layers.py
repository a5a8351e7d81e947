"""Finds what the pool's base job template, the deployment and the run ask for. Pure.

A base job template has variables with defaults, and a configuration in which `{{ name }}` stands for a variable. Keys
of a demand that stand where nobody reads them are found here too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from trimtab_work_pools.demand.merge import Layer, Source, retried
from trimtab_work_pools.wishes import KEYS

__all__ = ["layers_of", "nested"]

_PLACEHOLDER = re.compile(r"\{\{\s*([\w.]+)\s*\}\}")
_RESOURCES = "{{ resources }}"
_NOTHING: Any = object()
_NEAR = 0.8
"""How alike a job variable and a key of a demand are (0..1) for one to be taken for a misspelling of the other."""
_STOCK = frozenset({"command", "env", "image", "labels", "name", "stream_output", "working_dir"})
"""Job variables of Prefect's process and docker pools; for a pool whose template is not known."""


def layers_of(
    template: Mapping[str, Any] | None,
    deployment: Mapping[str, Any],
    run: Mapping[str, Any],
    retry: Mapping[str, Any] | None = None,
) -> tuple[Layer, ...]:
    """In the order in which `merge` wants them. `template`: the base job template of the work pool; `retry`: the part
    of the run's own resources that a retry has put there.
    """
    wished = _wished(template)
    known = frozenset(_properties(template)) or _STOCK
    of_run = Layer(Source.RUN, _taken(wished, nested(run)), _misplaced(run, known))
    return (
        *_of_pool(template, wished),
        Layer(Source.DEPLOYMENT, _taken(wished, nested(deployment)), _misplaced(deployment, known)),
        *retried(of_run, retry or {}),
        Layer(Source.FIXED, {key: value for key, value in _fixed(wished).items() if key != "labels"} or None),
    )


def nested(variables: Mapping[str, Any]) -> dict[str, Any]:
    """With `resources.gpus: 1` as `resources: {gpus: 1}`: Prefect takes both."""
    found: dict[str, Any] = {}
    for name, value in sorted(variables.items(), key=lambda item: "." not in item[0]):
        head, dot, rest = str(name).partition(".")
        if not dot:
            earlier = found.get(head)
            both = isinstance(earlier, Mapping) and isinstance(value, Mapping)
            found[head] = {**earlier, **value} if both else value  # type: ignore[dict-item]
        elif isinstance(found.setdefault(head, {}), dict):
            found[head] = {**found[head], **nested({rest: value})}
    return found


def _of_pool(template: Mapping[str, Any] | None, wished: Any) -> tuple[Layer, ...]:
    """Defaults of the form, then those of the variables, then labels that stand in the configuration itself."""
    properties = _properties(template)
    defaults = {name: _default(template, one) for name, one in properties.items()}
    found = [Layer(Source.POOL, _taken(wished, {k: v for k, v in part.items() if v is not None}))
             for part in ({name: form for name, (form, _) in defaults.items()},
                          {name: own for name, (_, own) in defaults.items()})]  # fmt: skip
    labels = _fixed(wished).get("labels")
    return (*found, Layer(Source.POOL, {"labels": labels} if labels else None))


def _default(template: Mapping[str, Any] | None, schema: Any) -> tuple[Any, Any]:
    """Of a variable: the defaults of the parts of its form, and its own."""
    if not isinstance(schema, Mapping):
        return None, None
    parts = {name: one.get("default") for name, one in _form(template, schema).items() if isinstance(one, Mapping)}
    return {name: value for name, value in parts.items() if value is not None} or None, schema.get("default")


def _form(template: Mapping[str, Any] | None, schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """The properties of a variable that is an object, written in its place or referred to."""
    if isinstance(own := schema.get("properties"), Mapping):
        return own
    refers = [schema, *(one for one in schema.get("allOf") or () if isinstance(one, Mapping))]
    variables = _variables(template)
    for reference in (str(one.get("$ref", "")) for one in refers):
        _, _, name = reference.rpartition("/")
        for place in ("definitions", "$defs"):
            found = (variables.get(place) or {}).get(name)
            if isinstance(found, Mapping) and isinstance(found.get("properties"), Mapping):
                return dict(found["properties"])
    return {}


def _variables(template: Mapping[str, Any] | None) -> Mapping[str, Any]:
    found = (template or {}).get("variables")
    return found if isinstance(found, Mapping) else {}


def _properties(template: Mapping[str, Any] | None) -> Mapping[str, Any]:
    found = _variables(template).get("properties")
    return found if isinstance(found, Mapping) else {}


def _wished(template: Mapping[str, Any] | None) -> Any:
    configuration = (template or {}).get("job_configuration")
    return configuration.get("resources", _RESOURCES) if isinstance(configuration, Mapping) else _RESOURCES


def _taken(wished: Any, variables: Mapping[str, Any]) -> Any:
    """What of the configuration these variables fill in; None if nothing. A pool that spells out some keys itself lets
    the others be said in `resources` all the same.
    """
    found = _filled(wished, variables)
    also = variables.get("resources") if isinstance(wished, Mapping) else None
    if found is _NOTHING:
        return also
    return {**also, **found} if isinstance(also, Mapping) and isinstance(found, Mapping) else found


def _filled(wished: Any, variables: Mapping[str, Any]) -> Any:
    if isinstance(wished, Mapping):
        parts = {key: _filled(value, variables) for key, value in wished.items()}
        return {key: value for key, value in parts.items() if value is not _NOTHING} or _NOTHING
    names = _PLACEHOLDER.findall(wished) if isinstance(wished, str) else []
    if not names or any(variables.get(name) is None for name in names):
        return _NOTHING
    if _PLACEHOLDER.fullmatch(wished.strip()):
        return variables[names[0]]
    return _PLACEHOLDER.sub(lambda match: str(variables[match[1]]), wished)


def _fixed(wished: Any) -> dict[str, Any]:
    """What the configuration says itself, in no variable's place: Prefect lets nobody change it."""
    if not isinstance(wished, Mapping):
        return {}
    parts = {key: _fixed(value) if isinstance(value, Mapping) else value for key, value in wished.items()}
    return {key: value for key, value in parts.items() if value != {} and not _placeholder(value)}


def _placeholder(value: Any) -> bool:
    return isinstance(value, str) and bool(_PLACEHOLDER.search(value))


def _misplaced(variables: Mapping[str, Any], known: frozenset[str]) -> tuple[tuple[str, str], ...]:
    """Job variables that are keys of a demand, or nearly so, and that the pool does not know: they change nothing."""
    wrong: list[tuple[str, str]] = []
    for name in sorted({str(name).partition(".")[0] for name in variables} - known - {"resources"}):
        near = get_close_matches(name, [*KEYS, "resources"], n=1, cutoff=_NEAR)
        if name in KEYS:
            wrong.append(("", f"{name} stands beside it and changes nothing: write resources: {{{name}: ...}}"))
        elif near == ["resources"]:
            wrong.append(("", f"the job variable {name} is not known here; did you mean resources?"))
        elif near:
            wrong.append(("", f"{name} stands beside it and is not a key; did you mean resources: {{{near[0]}: ...}}?"))
    return tuple(wrong)
